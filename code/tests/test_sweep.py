"""sweep.py: what it plans, skips, names and leaves out, and that a kill changes nothing."""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from unittest import mock

import pytest
import torch
from commands import flags_for, shell, start, wait_until
from distributed import Client, LocalCluster

import evaluate
import sweep
import train
from training import grid, workers
from training.record import Diverged
from utils import registry
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def planned(*flags, **changes):
    """{name: command line} of the runs that flags of train.py and options of the sweep lead to."""
    options = dict(methods=None, arm=[], each_modality=False, seeds="0")
    options |= dict(dataset="demo", data_root=None, ckpt_path=Path("runs"))
    runs = grid.plan(argparse.Namespace(**options | changes), list(flags))
    return {run.folder.name: run.argv for run in runs}


def test_the_grid_is_the_product_of_seeds_arms_and_lists():
    runs = planned("--epochs", "2", "--gamma", "1,2", methods="joint,mmpareto", seeds="3,4")
    arms = ["joint", "mmpareto-gamma-1", "mmpareto-gamma-2"]
    assert list(runs) == [f"demo-{arm}-seed{seed}" for seed in (3, 4) for arm in arms]
    assert "--gamma" not in runs["demo-joint-seed3"]  # which has none
    assert runs["demo-mmpareto-gamma-2-seed4"].count("2") == 2  # of gamma and of epochs


def test_all_methods_but_those_that_the_flags_do_not_suit(capsys):
    runs = planned("--val_fraction", "0.1", methods="all")
    suited = [name for name in registry.names("methods") if name not in ("umt", "greedy")]
    assert list(runs) == [f"demo-{name}-seed0" for name in suited]
    printed = capsys.readouterr().out
    assert "left out, umt: --umt_teachers: not given" in printed
    assert "left out, greedy: --fusion concat: has no gates" in printed


def test_arms_have_flags_of_their_own_and_modalities_stand_alone():
    runs = planned(each_modality=True, arm=["uniform --encoder_grad_scale 1.5"])
    assert list(runs) == [
        "demo-joint-modalities-audio-seed0",
        "demo-joint-modalities-visual-seed0",
        "demo-uniform-encoder_grad_scale-1.5-seed0",
    ]
    sizes = planned("--image_size", "32", each_modality=True)  # which only pictures have
    assert ["--image_size" in argv for argv in sizes.values()] == [False, True]


def test_flags_of_a_chosen_encoder_or_fusion_are_given_where_they_are_flags():
    runs = planned(
        "--fusion", "concat,mbt", "--encoder", "vit_tiny", "--mbt_layers", "1,2", methods="joint"
    )
    assert {name: "--mbt_layers" in argv for name, argv in runs.items()} == {
        "demo-joint-fusion-concat-seed0": False,
        "demo-joint-fusion-mbt-mbt_layers-1-seed0": True,
        "demo-joint-fusion-mbt-mbt_layers-2-seed0": True,
    }
    with pytest.raises(BadInput, match="--mbt_layers: no flag of these runs, but of --fusion mbt"):
        planned("--mbt_layers", "2", methods="joint")


@pytest.mark.parametrize(
    "flags, changes, message",
    [
        (["--epochs", "1", "2"], dict(methods="joint"), "2: belongs to no flag"),
        (["--gamma", "1"], dict(methods="joint"), "--gamma: no flag of these runs, but of"),
        (["--gamma", "1,-1"], dict(methods="mmpareto"), "--gamma -1.0: must be > 0"),
    ],
)
def test_faults_are_named_before_anything_starts(flags, changes, message):
    with pytest.raises(BadInput, match=message):
        planned(*flags, **changes)


def test_a_failure_is_named_and_ends_nothing_else(demo_root, tmp_path, capsys):
    flags = [*flags_for(demo_root, tmp_path), "--methods", "joint", "--epochs", "1"]
    with pytest.raises(SystemExit) as stop:
        sweep.main([*flags, "--learning_rate", "1e30,0.01", "--checkpoints", "delete"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "1 of 2 runs are done" in printed.out
    (line,) = [line for line in printed.err.splitlines() if line.startswith("FAILED")]
    assert line.startswith("FAILED  demo-joint-learning_rate-1e30-seed0: diverged: ")
    log = tmp_path / ".demo-joint-learning_rate-1e30-seed0.log"
    assert str(log) in line and "the run stops here" in log.read_text()
    good = tmp_path / "demo-joint-learning_rate-0.01-seed0"
    assert len(read_jsonl(good / "metrics.jsonl")) == 1 and not list(good.glob("*.pt"))


@pytest.fixture
def in_this_process(monkeypatch):
    """A worker in a thread of this process, which sees what is patched here; yields the commands
    that it has carried out."""
    called = []

    @contextmanager
    def connect(jobs, scheduler):
        cluster = LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        )
        with cluster, Client(cluster) as client:
            yield client

    def counted(name, main):
        def call(argv):
            called.append([name, *argv])
            main(argv)

        return call

    monkeypatch.setattr(grid, "connect", connect)
    for command in (train, evaluate):
        monkeypatch.setattr(command, "main", counted(command.__name__, command.main))
    return called


def test_what_is_done_is_not_done_again_and_what_is_lacking_is(
    demo_root, tmp_path, in_this_process, capsys
):
    called = in_this_process
    flags = [*flags_for(demo_root, tmp_path), "--methods", "joint,uniform", "--epochs", "1"]
    sweep.main(flags)
    assert [command[0] for command in called] == ["train", "train"]
    sweep.main(flags)
    assert "2 runs, 2 of them done already" in capsys.readouterr().out
    for run in grid.plan(*sweep.read_options(flags)):  # done by another sweep in the meantime
        assert workers.carry_out(run.argv, run.folder, [], True) == ""
    assert len(called) == 2
    sweep.main([*flags, "--probe", "linear"])
    folders = [str(tmp_path / f"demo-{method}-seed0") for method in ("joint", "uniform")]
    assert called[2:] == [["evaluate", folder, "--probe", "linear"] for folder in folders]
    for name in ("metrics.jsonl", "last.pt", "best.pt"):  # as if killed in its first epoch
        (tmp_path / "demo-joint-seed0" / name).unlink()
    sweep.main(flags)
    (command,) = called[4:]
    assert command[0] == "train" and command[-1] == "--resume" and "joint" in command
    with pytest.raises(BadInput, match="was begun with --clip_grad 0, not 1.0"):
        sweep.main([*flags, "--clip_grad", "1"])
    assert len(called) == 5
    folder = tmp_path / "demo-joint-seed0"
    workers.Run([], None, folder).log.touch()  # as if killed at its very end
    sweep.main([*flags, "--checkpoints", "delete"])
    assert len(called) == 5 and not [*tmp_path.glob(".*.log"), *folder.glob("*.pt")]


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("probe", ["none", "linear"])
def test_a_run_killed_between_its_record_and_its_checkpoint_repeats_the_epoch(
    epoch, probe, demo_root, tmp_path, in_this_process
):
    """All epochs are recorded then, and last.pt is of the one before, or there is none."""
    flags = [*flags_for(demo_root, tmp_path), "--methods", "joint"]
    before = []
    for epochs in range(1, epoch + 2):
        sweep.main([*flags, "--epochs", str(epochs)])
        before.append(torch.load(tmp_path / "demo-joint-seed0" / "last.pt"))
    folder = tmp_path / "demo-joint-seed0"
    records = (folder / "metrics.jsonl").read_bytes()
    (folder / "last.pt").unlink()
    if epoch:
        torch.save(before[0], folder / "last.pt")
    (folder / ".last.pt.1.tmp").touch()
    workers.Run([], None, folder).log.touch()
    in_this_process.clear()
    sweep.main([*flags, "--epochs", str(epoch + 1), "--probe", probe])
    assert in_this_process[0][0] == "train" and in_this_process[0][-1] == "--resume"
    after = torch.load(folder / "last.pt")
    assert after["progress"] == before[-1]["progress"]
    for name, tensor in after["model"].items():
        assert torch.equal(tensor, before[-1]["model"][name])
    assert (folder / "metrics.jsonl").read_bytes() == records and not [*folder.glob(".*.tmp")]


@pytest.mark.parametrize(
    "error, said",
    [
        (BadInput("--gamma 0: no"), "error: --gamma 0: no"),
        (SystemExit(3), "error: SystemExit: 3"),  # which would end a worker
        (KeyError("x"), "error: KeyError: 'x'"),
        (Diverged("loss is nan"), "diverged: loss is nan"),
        (OSError(28, "No space left on device"), "error: No space left on device; free some spac"),
    ],
)
def test_whatever_ends_a_run_ends_no_worker(error, said, demo_root, tmp_path, monkeypatch, capsys):
    def fail(argv):
        print("first words")
        raise error

    monkeypatch.setattr(train, "main", fail)
    flags = [*flags_for(demo_root, tmp_path), "--methods", "joint"]
    (run,) = grid.plan(*sweep.read_options(flags))
    problem = workers.carry_out(run.argv, run.folder, [], True)
    assert problem.startswith(said) and problem.endswith(f"({run.log})")
    log = run.log.read_text().splitlines()
    assert log[0] == "first words" and log[-1].startswith(said) and not capsys.readouterr().out


def test_without_a_terminal_a_line_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    def train_quickly(client, runs, probes, keep):
        for run in runs:
            run.folder.mkdir()
            (run.folder / "metrics.jsonl").write_text('{"epoch": 0, "step": 1}\n' * 2)
            clock[0] += 60 * 31
            yield run, "stopped" * (run.options.learning_rate == 0.2)

    clock = [0.0]
    monkeypatch.setattr(grid, "worked_off", train_quickly)
    monkeypatch.setattr(grid, "connect", lambda jobs, scheduler: nullcontext(mock.MagicMock()))
    monkeypatch.setattr(grid.time, "monotonic", lambda: clock[0])
    flags = ["--dataset", "demo", "--ckpt_path", str(tmp_path), "--methods", "joint"]
    with pytest.raises(SystemExit):
        sweep.main([*flags, "--learning_rate", "0.1,0.2,0.3,0.4", "--epochs", "2"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "4 runs, 0 of them done already" and "\r" not in printed.out + printed.err
    assert [line.split(", ")[0] for line in lines[2:6]] == [
        f"{done} of 4 runs done" for done in (1, 1, 2, 3)
    ]
    assert lines[5] == "3 of 4 runs done, 1 failed"
    assert grid.duration(4799) == "1 h 20 min" and grid.duration(1) == "1 min"


def test_the_time_left_is_that_of_the_epochs_left(tmp_path, monkeypatch, capsys):
    runs = [grid.Run([], argparse.Namespace(epochs=4), tmp_path / str(i)) for i in range(5)]
    for run in runs:
        run.folder.mkdir()

    def train(run, epochs):
        lines = [f'{{"epoch": {epoch}, "step": 1}}\n' for epoch in range(epochs)]
        (run.folder / "metrics.jsonl").write_text("".join(lines))

    clock = [0.0]
    monkeypatch.setattr(grid.time, "monotonic", lambda: clock[0])
    train(runs[0], 4)  # was done before
    lines = grid.Lines(runs, runs[1:])
    clock[0] = 3600
    for number, epochs in ((1, 4), (2, 2)):
        train(runs[number], epochs)
    lines.add(runs[1], "")
    train(runs[2], 3)
    lines.add(runs[2], "stopped")
    assert capsys.readouterr().out.splitlines() == [
        "2 of 5 runs done, 1 h 40 min left",  # 10 epochs at 10 minutes each
        "2 of 5 runs done, 1 failed, 1 h 9 min left",  # 8 at 60 / 7
    ]


def test_a_scheduler_that_is_not_there_is_named(demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SECONDS_TO_ANSWER", 0.5)
    flags = [*flags_for(demo_root, tmp_path), "--methods", "joint"]
    for address in ("tcp://127.0.0.1:9", "nowhere", "tcp://127.0.0.1"):
        message = f"--scheduler {address}: no scheduler answers there .*; start one with dask sch"
        with pytest.raises(BadInput, match=message):
            sweep.main([*flags, "--scheduler", address])


# Kills. Each run of these sweeps has two epochs.

MANY = ["--methods", "uniform,mmpareto", "--epochs", "2", "--checkpoints", "delete"]


def names_of(seeds):
    return [f"demo-{method}-seed{s}" for s in range(seeds) for method in ("uniform", "mmpareto")]


def count_done(runs):
    return sum(len(read_jsonl(file)) == 2 for file in runs.glob("demo-*/metrics.jsonl"))


def children_of(process):
    """{pid: command line} of its descendants."""
    listed = shell("ps", "-ewwo", "pid,ppid,args").stdout.splitlines()[1:]
    rows = [line.split(None, 2) for line in listed]
    found = {}
    while True:  # a child may have a smaller number than its parent
        more = {int(p): a for p, parent, a in rows if int(parent) in (process.pid, *found)}
        if more == found:
            return found
        found = more


def worker_of(process):
    """A process that trains: Dask starts it by multiprocessing's spawn."""
    return next(pid for pid, args in children_of(process).items() if "spawn_main" in args)


def assert_undisturbed(runs, names, demo_root, tmp_path):
    """All are done, once, and those of seed 0 are to the byte what single runs give."""
    for name in names:
        steps = read_jsonl(runs / name / "steps.jsonl")
        assert [step["step"] for step in steps] == list(range(len(steps))), name
        assert [record["epoch"] for record in read_jsonl(runs / name / "metrics.jsonl")] == [0, 1]
    assert not [*runs.glob(".*.log"), *runs.glob("*/*.pt"), *runs.glob("*/.*.tmp")]
    for name in names[:2]:
        method = name.split("-")[1]
        flags = [*flags_for(demo_root, tmp_path / "single"), "--method", method, "--epochs", "2"]
        done = shell(sys.executable, "train.py", *flags, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        for file in ("metrics.jsonl", "steps.jsonl"):
            of_single = (tmp_path / "single" / name / file).read_text()
            assert (runs / name / file).read_text() == of_single, (name, file)


@pytest.mark.slow
def test_local_workers_and_the_sweep_may_die(demo_root, tmp_path):
    runs = tmp_path / "runs"
    command = [sys.executable, "sweep.py", *flags_for(demo_root, runs), *MANY, "--jobs", "2"]
    command += ["--seeds", ",".join(map(str, range(20)))]
    process = start(*command, OMP_NUM_THREADS="1")
    wait_until(lambda: count_done(runs) >= 3, process)
    os.kill(worker_of(process), signal.SIGKILL)
    wait_until(lambda: count_done(runs) >= 10, process)
    workers_before = list(children_of(process))
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2)
    assert not [pid for pid in workers_before if Path(f"/proc/{pid}/cmdline").exists()]
    process = start(*command, OMP_NUM_THREADS="1")
    wait_until(lambda: count_done(runs) >= 16, process)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130 and printed.strip() == "interrupted; the same command goes on"
    done = shell(*command, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "40 of 40 runs are done" in done.stdout
    assert_undisturbed(runs, names_of(20), demo_root, tmp_path)


@pytest.fixture
def cluster(tmp_path):
    """Starts a scheduler, or two workers of it, by hand; ends them all."""
    started = []

    def begin(*command):
        started.append(start(*command, OMP_NUM_THREADS="1"))
        return started[-1]

    yield begin
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # at once: a nanny starts dead workers again
        process.communicate(timeout=60)


@pytest.mark.slow
def test_a_scheduler_and_workers_of_a_cluster_may_die(cluster, demo_root, tmp_path):
    runs = tmp_path / "runs"
    seeds = ",".join(map(str, range(20)))
    command = [sys.executable, "sweep.py", *flags_for(demo_root, runs), *MANY, "--seeds", seeds]

    def begin(number):
        file = str(tmp_path / f"scheduler{number}.json")
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
        scheduler = cluster(
            *scheduler, "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file
        )
        wait_until(Path(file).is_file, scheduler)
        ours = cluster("sh", "script/worker.sh", "--scheduler-file", file, "--nworkers", "2")
        return scheduler, ours, ["--scheduler", json.loads(Path(file).read_text())["address"]]

    scheduler, ours, flags = begin(0)
    process = start(*command, *flags)
    wait_until(lambda: count_done(runs) >= 3, process)
    os.kill(worker_of(ours), signal.SIGKILL)
    wait_until(lambda: count_done(runs) >= 8, process)
    os.kill(scheduler.pid, signal.SIGKILL)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 2, printed
    assert printed.splitlines()[-1].startswith("error: the scheduler has ended; the same command")
    _, _, flags = begin(1)  # while workers of the first may still train
    process = start(*command, *flags)
    wait_until(lambda: count_done(runs) >= 16, process)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    process = start(*command, *flags)
    wait_until(lambda: count_done(runs) >= 24, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = shell(*command, *flags)
    assert done.returncode == 0, done.stderr
    assert "40 of 40 runs are done" in done.stdout
    assert_undisturbed(runs, names_of(20), demo_root, tmp_path)


UNCLOSED = """
import sys
from training import workers

def close(self, timeout=None):
    raise AssertionError("can only join a started process")  # seen, while a worker was starting

if __name__ == "__main__":
    workers.LocalCluster.close = close
    with workers.connect(2, None) as client:
        assert client.submit(int, 5).result() == 5
        for process in workers.multiprocessing.active_children():
            print(process.pid)
"""


def test_a_cluster_that_cannot_be_closed_is_ended(tmp_path):
    (tmp_path / "unclosed.py").write_text(UNCLOSED)
    process = start(sys.executable, str(tmp_path / "unclosed.py"), PYTHONPATH=".")
    printed, said = process.communicate(timeout=100)
    assert process.returncode == 0 and not said, said
    pids = printed.split()
    assert len(pids) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in pids)


KILLER = """
from methods import uniform

class Method(uniform.Method):
    def start_epoch(self, *arguments):
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_that_kills_its_worker_again_and_again_takes_no_other_with_it(demo_root, tmp_path):
    code = tmp_path / "code"
    shutil.copytree(
        registry.CODE, code, ignore=shutil.ignore_patterns("runs", "tests", "__pycache__")
    )
    (code / "methods" / "killer.py").write_text(KILLER)
    flags = [*flags_for(demo_root, tmp_path), "--methods", "killer,uniform", "--epochs", "1"]
    done = shell(sys.executable, code / "sweep.py", *flags, "--seeds", "0,1,2", "--jobs", "2")
    assert done.returncode == 1 and "3 of 6 runs are done" in done.stdout
    failed = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
    said = "error: its worker died 3 times, most likely for want of memory"
    assert failed == [f"FAILED  demo-killer-seed{seed}: {said}" for seed in range(3)]
    assert len([*tmp_path.glob("demo-uniform-*/metrics.jsonl")]) == 3
