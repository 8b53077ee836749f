"""Samples to mini-batches."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils import registry
from utils.errors import BadInput
from utils.samples import Sample
from utils.seed import generator, seeded


class SampleDataset(Dataset):
    """`samples` with all modalities of `readers`; indexed by (epoch, index), see `EpochSampler`.

    An item is ({modality: tensor}, target). Randomness of the readers is seeded per item and epoch.
    """

    def __init__(self, samples: list[Sample], readers: dict, seed: int):
        self.samples, self.readers, self.seed = samples, readers, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
        epoch, index = where
        sample = self.samples[index]
        with seeded(self.seed, epoch, index):
            return {m: reader.read(sample.id) for m, reader in self.readers.items()}, sample.target


class EpochSampler(Sampler):
    """Yields (epoch, index) for every index once; in a seeded order of its own per `epoch`, or in
    order.

    The epoch travels with the index, so workers that live longer than an epoch know it too.
    """

    def __init__(self, size: int, seed: int, shuffle: bool):
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        order = range(self.size)
        if self.shuffle:
            order = torch.randperm(self.size, generator=generator(self.seed, self.epoch)).tolist()
        return ((self.epoch, index) for index in order)


def split_validation(
    samples: list[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, validation): a seeded `fraction` of every class goes to validation."""
    held_out: set[int] = set()
    order = torch.randperm(len(samples), generator=generator(seed)).tolist()
    left = {k: round(n * fraction) for k, n in Counter(s.target for s in samples).items()}
    for index in order:
        if left[samples[index].target] > 0:
            left[samples[index].target] -= 1
            held_out.add(index)
    training = [s for i, s in enumerate(samples) if i not in held_out]
    return training, [s for i, s in enumerate(samples) if i in held_out]


def collate(items: list[tuple[dict[str, Tensor], int]]) -> tuple[dict[str, Tensor], Tensor]:
    """({modality: (B, ...)}, target (B,)). Raises BadInput where a modality's shapes differ."""
    batch = {}
    for modality in items[0][0]:
        tensors = [inputs[modality] for inputs, _ in items]
        if len(shapes := {tuple(t.shape) for t in tensors}) > 1:
            raise BadInput(
                f"{modality}: samples of different shapes, {sorted(shapes)}; prepare again"
            )
        batch[modality] = torch.stack(tensors)
    return batch, torch.tensor([target for _, target in items])


def ignore_interrupts(worker: int) -> None:
    """Ctrl-C is for the main process, which then ends its workers."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_readers(dataset, modalities: list[str], train: bool, options) -> dict:
    """{modality: reader} for `modalities` of a data set."""
    readers = {}
    for modality in modalities:
        room = registry.load("dataset/modalities", dataset.modalities[modality], "--modalities")
        readers[modality] = room.Modality(Path(dataset.root) / modality, train, options)
    return readers


def available(dataset, split: str, readers: dict) -> list[Sample]:
    """Samples of a split that have a file in every modality; says how many of how many.

    Raises BadInput when there is none.
    """
    samples = dataset.samples(split)
    present = {modality: reader.ids() for modality, reader in readers.items()}
    found = [s for s in samples if all(s.id in ids for ids in present.values())]
    print(f"{dataset.name} {split}: {len(found)} of {len(samples)} samples found in {dataset.root}")
    if len(found) < len(samples):
        for modality, ids in present.items():
            lacking = [s.id for s in samples if s.id not in ids]
            if lacking:
                few = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
                print(f"  WARNING: {len(lacking)} without {modality}: {few}")
    if not found:
        raise BadInput(
            f"--data_root {dataset.root}: no {split} sample is there. {dataset.how_to_prepare()}"
        )
    return found


def build_loader(
    samples: list[Sample], readers: dict, options, seed: int, shuffle: bool
) -> DataLoader:
    """Batches of `--batch_size`, the short last one kept as published; workers stay alive."""
    return DataLoader(
        SampleDataset(samples, readers, seed),
        batch_size=options.batch_size,
        sampler=EpochSampler(len(samples), seed, shuffle),
        num_workers=options.num_workers,
        collate_fn=collate,
        worker_init_fn=ignore_interrupts,
        persistent_workers=options.num_workers > 0,
        pin_memory=options.device == "cuda",
    )


def build_loaders(dataset, options) -> dict[str, DataLoader]:
    """Loaders "train", "test" and, with `--val_fraction`, "val".

    "train_plain" is the training split in order and without augmentation, for probes.
    """
    augmented = build_readers(dataset, options.modalities, True, options)
    plain = build_readers(dataset, options.modalities, False, options)
    training, validation = available(dataset, "train", plain), []
    if options.val_fraction > 0:
        training, validation = split_validation(training, options.val_fraction, options.random_seed)
        if not validation:
            raise BadInput(f"--val_fraction {options.val_fraction}: leaves no validation sample")
    test = available(dataset, "test", plain)
    seed = options.random_seed
    loaders = {
        "train": build_loader(training, augmented, options, seed, shuffle=True),
        "train_plain": build_loader(training, plain, options, seed, shuffle=False),
        "test": build_loader(test, plain, options, seed, shuffle=False),
    }
    if validation:
        loaders["val"] = build_loader(validation, plain, options, seed, shuffle=False)
    return loaders
