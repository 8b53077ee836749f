"""What is read of a split, how often, and in batches of which size."""

import math

import torch

from dataset import _loader, demo
from dataset._loader import Batches, BatchSampler, SampleDataset, build_loaders
from dataset._samples import Sample
from dataset.modalities import Modality
from training.options import parse


class Counted(Modality):
    """Without files; counts what is read."""

    shape = (3,)

    def __init__(self):
        self.count = 0

    def read(self, sample_id):
        self.count += 1
        return torch.full((3,), float(sample_id))


def test_small_splits_that_come_in_one_order_are_read_once_whatever_is_written_on_a_batch(
    monkeypatch,
):
    samples, expected = [Sample(str(i), 0) for i in range(9)], torch.arange(9.0).repeat(3, 1).T

    def batches(shuffle):
        data = SampleDataset(samples, {"audio": Counted()}, seed=4)
        return Batches(data, BatchSampler(9, 4, 4, shuffle), "cpu")

    def read(batches):
        found = []
        for inputs, _ in batches:
            found.append(inputs["audio"].clone())
            inputs["audio"].zero_()  # as an encoder may
        assert torch.equal(torch.cat(found).sort(0).values, expected)
        return batches.dataset.readers["audio"].count

    ordered = batches(shuffle=False)
    next(iter(ordered))  # left in the midst: nothing is kept
    assert [read(ordered) for _ in range(3)] == [4 + 9] * 3
    assert [read(loader) for loader in [batches(shuffle=True)] * 3] == [9, 18, 27]
    monkeypatch.setattr(_loader, "KEPT_BYTES", 9 * 3 * 4 + 9 * 8 - 1)
    assert [read(loader) for loader in [batches(shuffle=False)] * 3] == [9, 18, 27]
    monkeypatch.setattr(_loader, "KEPT_BYTES", 9 * 3 * 4 + 9 * 8)
    assert [read(loader) for loader in [batches(shuffle=False)] * 3] == [9, 9, 9]


def test_small_samples_are_tested_many_at_a_time(demo_root, monkeypatch):
    options = parse(["--dataset", "demo", "--data_root", str(demo_root), "--batch_size", "5"])
    dataset = demo.Dataset(demo_root)

    def sizes():
        loaders = build_loaders(dataset, vars(options))
        return {name: loader.batch_sampler.batch_size for name, loader in loaders.items()}

    bytes_of_sample = sum(
        4 * math.prod(reader.shape)
        for reader in build_loaders(dataset, vars(options))["test"].dataset.readers.values()
    )
    for of_batch, count in ((bytes_of_sample * 9 - 1, 8), (bytes_of_sample * 2, 5)):
        monkeypatch.setattr(_loader, "TESTED_BYTES", of_batch)
        assert sizes() == {"train": 5, "train_plain": count, "test": count}
