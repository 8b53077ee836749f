"""Several processes on a CPU (gloo): the run of one process on the whole batch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate
from dataset._loader import BatchSampler
from utils import registry
from utils.run_folder import read_jsonl

CODE = Path(__file__).resolve().parents[1]
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
QUICK = ["--image_size", "32", "--batch_size", "18", "--num_workers", "0", "--no-tensorboard"]

# train.py's own epoch in float64, normalisation frozen, on 22 samples in batches of 8, 8 and 6
PROGRAM = """
import sys
import torch
from argparse import Namespace
from steps import build_method, build_model
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
import train
from training import precision
from utils import distributed
from dataset.modalities import Modality
from dataset._loader import Batches, BatchSampler, SampleDataset
from dataset._samples import Sample

class Reader(Modality):
    def __init__(self):
        pass
    def read(self, name):
        return torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(int(name))).double()

class Silent:
    def __init__(self): self.step, self.steps = 1, []
    def add_step(self, epoch, losses, diagnostics, loss_scale):
        values = {f"loss/{k}": v for k, v in losses.items()} | diagnostics
        self.steps.append({k: float(v) for k, v in values.items()})
    def flush(self): pass

def freeze(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            freeze(child)

FLAGS = {
    "uniform": [[], ["--encoder_grad_scale", "1.5", "--measure_conflict"]],
    "greedy": [["--greedy_start", "0", "--greedy_tolerance", "0"]],  # gates held from step 1 on
}
target, methods = sys.argv[1], sys.argv[2].split(",")
accumulate, modalities = int(sys.argv[3]), sys.argv[4].split(",")
torch.set_num_threads(1)
distributed.start("cpu", "x")
found = {}
for name in methods:
    for method_flags in FLAGS.get(name, [[]]):
        opt = Namespace(accumulate=accumulate, clip_grad=5.0, device="cpu", amp="off")
        model = build_model(name, modalities, classes=4).double()
        freeze(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        readers = {m: Reader() for m in modalities}
        data = SampleDataset([Sample(str(i), i % 4) for i in range(22)], readers, 0)
        sampler = BatchSampler(22, 8, 0, shuffle=True)
        recorder, method = Silent(), build_method(name, *method_flags)
        batches = Batches(data, sampler, "cpu")
        for epoch in range(1):
            loaders = {"train_plain": batches, "val": batches}
            for _ in range(2): method.start_epoch(epoch, model, loaders)
            train.train_epoch(opt, epoch, model, method, batches, optimizer,
                              precision.scaler(opt), recorder)
        found[name + " ".join(method_flags)] = (model.state_dict(), recorder.steps)
torch.save(found, f"{target}.{distributed.rank()}")
distributed.end()
"""


def trained(folder, processes, methods, accumulate=1, modalities="audio,visual"):
    """What every process ends with."""
    target = folder / f"{processes}-{accumulate}"
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable] if processes == 1 else [*LAUNCH, str(processes)]
    arguments = [str(target), methods, str(accumulate), modalities]
    env = os.environ | {"PYTHONPATH": f"{CODE}{os.pathsep}{CODE / 'tests'}"}
    command = [*launch, str(program), *arguments]
    done = subprocess.run(command, cwd=CODE, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [torch.load(f"{target}.{rank}", weights_only=True) for rank in range(processes)]


def check_same(several, alone):
    for name, (weights, steps) in alone.items():
        for process in several:
            theirs, their_steps = process[name]
            for key, value in weights.items():
                assert (theirs[key] - value).norm() <= 1e-12 * value.norm(), (name, key)
                assert torch.equal(theirs[key], several[0][name][0][key]), "ranks differ"
            assert len(their_steps) == len(steps) == 3
            for a, b in zip(their_steps, steps):  # the same decisions, and the losses of all
                assert a.keys() == b.keys()
                for key in b:
                    assert abs(a[key] - b[key]) <= 1e-8 * (1 + abs(b[key])), (name, key)


def test_every_method_in_two_processes_is_the_run_of_one(tmp_path):
    methods = ",".join(registry.names("methods"))
    (alone,) = trained(tmp_path, 1, methods)
    check_same(trained(tmp_path, 2, methods), alone)


def test_every_method_in_parts_of_a_batch_is_the_run_on_whole_batches(tmp_path):
    names = registry.names("methods")
    needs = {n: registry.load_class("methods", n, "--method").needs for n in names}
    suited = ",".join(n for n in names if "whole_batch" not in needs[n])
    (alone,) = trained(tmp_path, 1, suited)
    check_same(trained(tmp_path, 1, suited, accumulate=2), alone)


@pytest.mark.slow
def test_four_processes_three_modalities_and_parts(tmp_path):
    (alone,) = trained(tmp_path, 1, "mmpareto", modalities="audio,visual,flow")
    check_same(trained(tmp_path, 4, "mmpareto", 2, modalities="audio,visual,flow"), alone)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("size, batch_size", [(22, 8), (7, 7), (9, 4)])
def test_shares_hold_every_sample_once(processes, size, batch_size, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shares = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        shares.append([i for batch in BatchSampler(size, batch_size, 3, True) for _, i in batch])
    assert sorted(i for share in shares for i in share) == list(range(size))
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    sampler = BatchSampler(size, batch_size, 3, True)
    assert [len(b) for b in sampler] == [sampler.whole(i) for i in range(len(sampler))]


def script(flags, processes="2", **kwargs):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "NPROC": processes, "OMP_NUM_THREADS": "1"}
    command = ["sh", "script/mmpareto.sh", *flags]
    return subprocess.Popen(
        command,
        cwd=CODE,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.fixture
def flags(demo_root, tmp_path):
    run = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    return [*run, *QUICK, "--run_name", "x"]


def test_the_metrics_count_every_sample_once(flags, tmp_path):
    """The run's own test accuracy is that of one process on its checkpoint."""
    process = script([*flags, "--epochs", "1"])
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed.count("run ") == 1 and "2 x cpu" in printed
    (last,) = read_jsonl(tmp_path / "x" / "metrics.jsonl")
    evaluate.main([str(tmp_path / "x"), "--json", str(tmp_path / "scores.json")])
    alone = json.loads((tmp_path / "scores.json").read_text())
    for name, value in alone.items():
        if name.startswith("accuracy"):
            assert last[f"test/{name}"] == pytest.approx(value, abs=1e-9)


def process_of(rank, launcher):
    """The training process of a rank, found by its environment."""
    for folder in Path("/proc").iterdir():
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
        except (OSError, IndexError):
            continue
        if b"RANK=%d" % rank in environ and int(parent) == launcher:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_run_resumably(rank, flags, tmp_path):
    process = script([*flags, "--epochs", "3"])
    deadline = time.monotonic() + 120
    while not (tmp_path / "x" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process_of(rank, process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"process {1 - rank}: stops, another process of the run has ended" in errors
    assert "last.pt holds the last complete epoch; continue: --resume --run_name x" in errors
    assert f"process {rank} ended first, with status -9" in errors
    assert "Traceback" not in errors
    resumed = script([*flags, "--epochs", "3", "--resume"])
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert [r["epoch"] for r in read_jsonl(tmp_path / "x" / "metrics.jsonl")] == [0, 1, 2]
    assert not list((tmp_path / "x").glob(".*.tmp"))


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--batch_size", "53"], "--batch_size 53: leaves a last batch of 1 of 54 samples for 2"),
        (["--batch_size", "1"], "--batch_size 1: leaves a last batch of 1 of 54 samples for 2"),
        (["--gpu_ids", "0"], "--gpu_ids 0: one process per GPU, so start 1"),
        (["--method", "none"], "--method none: no file methods/none.py"),
    ],
)
def test_bad_input_for_several_processes(argv, message, flags, tmp_path):
    process = script([*flags, *argv])
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "x").exists()


def test_a_bad_number_of_processes(flags):
    process = script(flags, processes="two")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "error: NPROC two: must be the number" in errors
