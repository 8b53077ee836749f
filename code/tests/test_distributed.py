"""Several processes on a CPU (gloo): the run of one process on the whole batch."""

import json
import os
import signal
import sys
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from commands import CODE, flags_for, shell, start, wait_for
from formula import Model, by_formula, members_of
from steps import build_method, build_model, load_method
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.ops import FrozenBatchNorm2d
from toy import CLASSES, Toy

import evaluate
import train
from dataset._loader import Batches, BatchSampler, SampleDataset
from dataset._samples import Sample
from dataset.modalities import Modality
from mmpareto import LossGradients, mmpareto_backward
from models.fusion.concat import Fusion
from training import precision
from utils import distributed, registry
from utils.run_folder import read_jsonl

METHODS = registry.names("methods")
TWO_MODALITIES = ["audio", "visual"]
FLAGS = {  # other than those of a method's defaults
    "uniform": [[], ["--encoder_grad_scale", "1.5", "--measure_conflict"]],
    "greedy": [["--greedy_start", "0", "--greedy_tolerance", "0"]],  # gates held from step 1 on
}


# This file is also the program of each process: train.py's own epoch in float64, normalisation
# frozen, on 22 samples in batches of 8, 8 and 6.


class RandomReader(Modality):
    def __init__(self):
        pass

    def read(self, sample_id):
        numbers = torch.Generator().manual_seed(int(sample_id))
        return torch.randn(1, 32, 32, generator=numbers).double()


class StepRecorder:
    """Keeps what train.py records of each step."""

    def __init__(self):
        self.step, self.steps = 1, []  # not 0: then the objectives would be printed

    def add_step(self, epoch, losses, diagnostics, loss_scale):
        values = {f"loss/{branch}": loss for branch, loss in losses.items()} | diagnostics
        self.steps.append({name: float(value) for name, value in values.items()})

    def flush(self):
        pass


def freeze_normalisation(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            freeze_normalisation(child)


def train_one_epoch(name, method_flags, accumulate, modalities):
    """The weights, and what was recorded of every step."""
    options = Namespace(accumulate=accumulate, clip_grad=5.0, device="cpu", amp="off")
    options.modalities, options.unimodal_weight = modalities, 1.0
    model = build_model(name, modalities, classes=4).double()
    freeze_normalisation(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    samples = [Sample(str(number), number % 4) for number in range(22)]
    data = SampleDataset(samples, {m: RandomReader() for m in modalities}, 0)
    batches = Batches(data, BatchSampler(22, 8, 0, shuffle=True), "cpu")
    method, recorder = build_method(name, *method_flags), StepRecorder()
    for _ in range(2):  # some methods do nothing before their second epoch
        method.start_epoch(0, model, {"train_plain": batches, "val": batches})
    scaler = precision.scaler(options)
    train.train_epoch(options, 0, model, method, batches, optimizer, scaler, recorder)
    return model.state_dict(), recorder.steps


def train_all(methods, accumulate, modalities):
    """{method and flags: what `train_one_epoch` gives}."""
    return {
        " ".join([name, *flags]): train_one_epoch(name, flags, accumulate, modalities)
        for name in methods
        for flags in FLAGS.get(name, [[]])
    }


class Dropping(nn.Module):
    """Layers of one size, some of which are dropped in this pass."""

    def __init__(self):
        super().__init__()
        self.layers, self.dropped = nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), set()

    def forward(self, x):
        for number, layer in enumerate(self.layers):
            x = x if number in self.dropped else x + layer(x).tanh()
        return x


class ModelThatDrops(Toy):
    """Drops another layer of each encoder, and of those that all losses share, in each process."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({m: Dropping() for m in self.encoders})
        self.between = Dropping()
        self.heads = nn.ModuleDict({m: nn.Linear(4, CLASSES) for m in self.encoders})
        self.fusion = Fusion(dict.fromkeys(self.encoders, 4), CLASSES)
        self.double()

    def forward(self, inputs):
        features = {m: self.between(e(inputs[m])) for m, e in self.encoders.items()}
        heads = {m: head(features[m]) for m, head in self.heads.items()}
        return {"multimodal": self.fusion(features)} | heads, features

    def part(self, rank):
        """The forward pass of a process, half of the batch."""
        for module in (*self.encoders.values(), self.between):
            module.dropped = {rank, 3}  # the last layer in all processes
        forward = self.forward_pass(self.batch(rank))
        forward.losses = {name: loss / 2 for name, loss in forward.losses.items()}
        forward.scale, forward.sum = 0.5, distributed.sum_over_processes
        return forward


def step_that_drops(name, ranks):
    """{parameter's name: gradient or None} of a step on the parts of these processes."""
    model, method = ModelThatDrops(), build_method(name)
    for rank in ranks:
        method.backward(model.part(rank), model)
    distributed.sum_over_processes(method.to_sum(model))
    method.integrate(model)
    return {name: p.grad for name, p in model.named_parameters()}


def program_that_drops(target, methods):
    distributed.start("cpu", "x")
    rank = distributed.rank()
    torch.save({m: step_that_drops(m, [rank]) for m in methods.split(",")}, f"{target}.{rank}")
    distributed.end()


class Losses(nn.Module):
    """A model and its losses as one module, for those who wrap all of it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, seed):
        return {name: loss / 2 for name, loss in self.model.losses(seed).items()}


def wrapped_encoders(model):
    model.audio = DistributedDataParallel(model.audio)
    model.visual = DistributedDataParallel(model.visual, gradient_as_bucket_view=True)
    return Losses(model)


WRAPPERS = {
    "nothing": Losses,
    "encoders": wrapped_encoders,
    "all": lambda m: DistributedDataParallel(Losses(m), find_unused_parameters=True),
    "all without sync": lambda m: DistributedDataParallel(Losses(m)),
}


def step_as_documented(wrapper):
    """The gradients of the step that docs/training.md shows for several processes."""
    model = Model()
    losses_of = WRAPPERS[wrapper](model)
    with losses_of.no_sync() if wrapper == "all without sync" else nullcontext():
        losses = losses_of(distributed.rank())
        with pytest.raises(ValueError, match="several processes .DistributedDataParallel"):
            mmpareto_backward(losses, model.groups())
        gradients = LossGradients(model.groups())
        gradients.add(losses)
    parameters = [p for ps in gradients.groups.values() for p in ps if p.requires_grad]
    for sums in gradients.sums.values():
        for p in parameters:
            torch.distributed.all_reduce(sums.setdefault(p, torch.zeros_like(p)))
    for p in model.parameters():
        if p not in set(parameters):
            torch.distributed.all_reduce(p.grad)
    gradients.integrate()
    return [p.grad.clone() for p in model.parameters()]


def program_as_documented(target, wrappers):
    distributed.start("cpu", "x")
    results = {wrapper: step_as_documented(wrapper) for wrapper in wrappers.split(",")}
    torch.save(results, f"{target}.{distributed.rank()}")
    distributed.end()


def program(target, methods, accumulate, modalities):
    if modalities == "dropping":
        return program_that_drops(target, methods)
    if modalities == "documented":
        return program_as_documented(target, methods)
    torch.set_num_threads(1)
    distributed.start("cpu", "x")
    results = train_all(methods.split(","), int(accumulate), modalities.split(","))
    torch.save(results, f"{target}.{distributed.rank()}")
    distributed.end()


def train_in_processes(count, folder, methods, accumulate=1, modalities=TWO_MODALITIES):
    """What each process ends with, see `train_all`."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    arguments = [str(folder / "x"), ",".join(methods), str(accumulate), ",".join(modalities)]
    path = f"{CODE}{os.pathsep}{CODE / 'tests'}"
    done = shell(sys.executable, *launch, __file__, *arguments, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"x.{rank}", weights_only=True) for rank in range(count)]


@pytest.fixture(scope="module")
def alone():
    """Every method in this process, on whole batches."""
    return train_all(METHODS, 1, TWO_MODALITIES)


def check_same(several, alone):
    for process in several:
        assert process
        for name, (weights, steps) in process.items():
            expected_weights, expected_steps = alone[name]
            for key, value in expected_weights.items():
                assert (weights[key] - value).norm() <= 1e-12 * value.norm(), (name, key)
                assert torch.equal(weights[key], several[0][name][0][key]), "ranks differ"
            assert len(steps) == len(expected_steps) == 3
            for step, expected in zip(steps, expected_steps):  # decisions, and the losses of all
                assert step == pytest.approx(expected, rel=1e-8, abs=1e-8), name


def test_every_method_in_two_processes_is_the_run_of_one(alone, tmp_path):
    several = train_in_processes(2, tmp_path, METHODS)
    assert several[0].keys() == alone.keys()
    check_same(several, alone)


def test_every_method_in_parts_of_a_batch_is_the_run_on_whole_batches(alone):
    needs = {name: registry.load_class("methods", name, "--method").needs for name in METHODS}
    suited = [name for name in METHODS if "whole_batch" not in needs[name]]
    parts = 7  # of 8 samples, one part has two; the last batch has 6 samples, one for a part
    check_same([train_all(suited, parts, TWO_MODALITIES)], alone)


def test_processes_that_drop_other_layers_add_up_gradients_by_parameter(tmp_path):
    """As one process does that computes both parts of the batch, each with its layers dropped."""
    names = [n for n in METHODS if "gates" not in load_method(n).needs]
    several = train_in_processes(2, tmp_path, names, modalities=["dropping"])
    assert several[0].keys() == set(names)
    for name in names:
        first, second = (process[name] for process in several)
        if "whole_batch" in load_method(name).needs:
            expected = first
        else:
            expected = step_that_drops(name, [0, 1])
            assert [expected[f"between.layers.{n}.bias"] is None for n in range(4)].count(True) == 1
        for process in (first, second):
            for key, gradient in expected.items():
                assert (process[key] is None) == (gradient is None), (name, key)
                if gradient is not None:
                    torch.testing.assert_close(process[key], gradient, rtol=1e-10, atol=1e-14)


def test_the_documented_step_in_processes_is_right_whatever_is_wrapped(tmp_path):
    """DistributedDataParallel averages some passes; the sum of an average is the sum."""
    several = train_in_processes(2, tmp_path, list(WRAPPERS), modalities=["documented"])
    model = Model()
    halves = zip(model.losses(0).items(), model.losses(1).values())
    losses = {name: (a + b) / 2 for (name, a), b in halves}
    result = by_formula(losses, members_of(model.groups()), list(model.parameters()))
    for process in several:
        for wrapper in WRAPPERS:
            torch.testing.assert_close(process[wrapper], list(result.values()))


@pytest.mark.slow
def test_four_processes_with_three_modalities_and_parts_are_the_run_of_one(tmp_path):
    modalities = ["audio", "visual", "flow"]
    several = train_in_processes(4, tmp_path, ["mmpareto"], 2, modalities)
    check_same(several, train_all(["mmpareto"], 1, modalities))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size, batch_size", [(22, 8), (9, 4)])
def test_shares_hold_every_sample_once(processes, size, batch_size, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([i for batch in BatchSampler(size, batch_size, 3, True) for _, i in batch])
    assert sorted(i for share in shares for i in share) == list(range(size))
    monkeypatch.undo()
    sampler = BatchSampler(size, batch_size, 3, True)
    assert [len(batch) for batch in sampler] == [sampler.whole(i) for i in range(len(sampler))]


SCRIPT = ["sh", "script/mmpareto.sh"]
TWO = {"NPROC": "2", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def flags(demo_root, tmp_path):
    return [*flags_for(demo_root, tmp_path), "--run_name", "x"]


def test_the_metrics_count_every_sample_once(flags, tmp_path):
    """The run's own test accuracy is that of one process on its checkpoint."""
    done = shell(*SCRIPT, *flags, "--epochs", "1", **TWO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run ") == 1 and "2 x cpu" in done.stdout
    (last,) = read_jsonl(tmp_path / "x" / "metrics.jsonl")
    evaluate.main([str(tmp_path / "x"), "--json", str(tmp_path / "scores.json")])
    (result,) = json.loads((tmp_path / "scores.json").read_text()).values()
    scores = result["scores"]
    for branch in ("multimodal", "audio", "visual"):
        name = f"accuracy/{branch}"
        assert last[f"test/{name}"] == pytest.approx(scores[name], abs=1e-9)


def process_of(rank, launcher):
    """The training process of a rank, found by its environment."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"RANK=%d" % rank in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run_resumably(rank, flags, tmp_path):
    process = start(*SCRIPT, *flags, "--epochs", "12", **TWO)
    wait_for(tmp_path / "x" / "last.pt", process)
    os.kill(process_of(rank, process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "last.pt holds the last complete epoch; continue: --resume --run_name x" in errors
    assert f"process {rank} ended first, with status -9" in errors
    resumed = shell(*SCRIPT, *flags, "--epochs", "12", "--resume", **TWO)
    assert resumed.returncode == 0, resumed.stderr
    epochs = [record["epoch"] for record in read_jsonl(tmp_path / "x" / "metrics.jsonl")]
    assert epochs == list(range(12))


def test_bad_input_for_several_processes_is_refused_without_a_traceback(flags):
    done = shell(*SCRIPT, *flags, "--batch_size", "53", **TWO)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--batch_size 53: leaves a last batch of 1 of 54 samples for 2" in done.stderr


if __name__ == "__main__":
    program(*sys.argv[1:])
