"""Files that draw from torch, numpy or `random` give the same run for the same seed: with any
number of workers, however these are started, and after a resume."""

import random

import numpy as np
import pytest
import torch
from commands import flags_for, run
from test_train import same, stop_at, weights
from torch import nn

from analysis.trained import load_run
from dataset._loader import Batches, BatchSampler, SampleDataset
from dataset._samples import Sample
from dataset.modalities import spectrogram
from methods import uniform
from models.encoders import cnn
from models.metrics import predict
from training.record import Recorder
from utils import registry
from utils.seed import seed_everything, seeded


def drawn() -> list[float]:
    """A number of each generator. Of numpy's normal numbers every second one is kept for later."""
    return [torch.rand(()).item(), np.random.standard_normal(), random.random()]


class Reader(spectrogram.Modality):
    """Draws when it is built, for each sample, and for each batch on the device."""

    def __init__(self, folder, train):
        super().__init__(folder, train)
        self.scale = 1 + 0.1 * sum(drawn())

    def read(self, sample_id):
        return self.scale * super().read(sample_id) + 0.1 * sum(drawn())

    def on_device(self, batch):
        return super().on_device(batch) + 0.1 * sum(drawn())


class Encoder(cnn.Encoder):
    """Draws when it is built and in every forward pass, that of the evaluation too."""

    def __init__(self, shape, **flags):
        super().__init__(shape, **flags)
        nn.init.normal_(self.stages[0][0].weight, std=0.1 + 0.01 * abs(sum(drawn())))

    def pool(self, x, batch):
        return nn.functional.dropout(super().pool(x, batch), 0.1) + 0.1 * sum(drawn())


class Method(uniform.Method):
    def start_epoch(self, epoch, model, loaders, seed=0):
        self._factor = 1 + 0.1 * sum(drawn())

    def integrate(self, model):
        diagnostics = super().integrate(model)
        for parameters in model.encoder_parameters().values():
            torch._foreach_mul_([p.grad for p in parameters], self._factor + 0.1 * sum(drawn()))
        return diagnostics


class Numbers(Reader):
    """Without files."""

    shape = (7,)

    def __init__(self):
        self.scale = 1

    def read(self, sample_id):
        return torch.tensor([float(sample_id), *drawn(), *drawn()])


def test_inside_all_generators_are_those_of_the_position_and_then_as_before():
    seed_everything(3)
    torch.rand(3), np.random.standard_normal(), random.random()  # numpy keeps its second number
    with seeded(1, 2):
        first = drawn()
        with seeded(5):
            assert drawn() != first
        second = drawn()
    after = drawn()
    seed_everything(3)
    torch.rand(3), np.random.standard_normal(), random.random()
    assert drawn() == after
    with pytest.raises(KeyError), seeded(1, 2):
        assert [drawn(), drawn()] == [first, second]
        raise KeyError
    seed_everything(1, 2)
    assert drawn() == first
    seed_everything(1, 3)
    assert not {*drawn()} & {*first}


def test_torch_and_numpy_do_not_draw_the_same_numbers():
    """Both are Mersenne twisters: from one seed of 32 bits their words are the same."""
    seed_everything(0)
    words = np.random.randint(0, 2**32, 8, dtype=np.uint32).tolist()
    assert not {*words} & {*torch.randint(0, 2**32, (8,)).tolist()}


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_samples_and_what_is_drawn_beside_them_do_not_depend_on_workers(start_method):
    samples, histories = [Sample(str(i), 0) for i in range(9)], []
    for workers in (0, 2):
        data = SampleDataset(samples, {"audio": Numbers()}, seed=4)
        batches, history = Batches(data, BatchSampler(9, 4, 4, True), "cpu", workers), []
        batches.multiprocessing_context = start_method if workers else None
        for epoch in range(2):
            seed_everything(4, epoch)
            batches.batch_sampler.epoch = epoch
            history += [[inputs["audio"].tolist(), drawn()] for inputs, _ in batches]
        histories.append(history)
    assert len(histories[0]) == 6 and histories[0] == histories[1]
    assert histories[0][0] != histories[0][3]


@pytest.fixture
def flags(demo_root, tmp_path, monkeypatch):
    """Of a run with the files above in place of some of ours."""
    files = {"spectrogram": Reader, "cnn": Encoder, "uniform": Method}
    load_class = registry.load_class

    def load(room, name, flag):
        return files[name] if name in files else load_class(room, name, flag)

    monkeypatch.setattr(registry, "load_class", load)
    return [*flags_for(demo_root, tmp_path), "--method", "uniform", "--epochs", "3"]


def test_a_run_whose_files_draw_repeats_with_workers_and_after_a_resume(
    flags, tmp_path, monkeypatch
):
    run(flags, "whole", "--epochs", "3")
    drawn()  # where the process stands does not matter
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recorder, "add_step", stop_at(4))
        run(flags, "stopped", "--epochs", "3", "--num_workers", "2")
    run(flags, "stopped", "--epochs", "3", "--num_workers", "2", "--resume")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "stopped" / name).read_text()
    logits = []
    for _ in range(2):  # as evaluate.py does
        _, _, loaders, model = load_run(tmp_path / "whole", "last", "cpu")
        logits.append(predict(model, loaders["test"])[0]["multimodal"])
    assert torch.equal(*logits)
