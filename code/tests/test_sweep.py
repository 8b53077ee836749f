"""sweep.py: what it plans, skips, names and leaves out, and that a kill changes nothing."""

import argparse
import os
import signal
import sys
from pathlib import Path

import pytest
from commands import flags_for, shell, start, wait_for

import evaluate
import sweep
import train
from utils import registry
from utils.errors import BadInput
from utils.run_folder import read_jsonl, read_result


def planned(*flags, **changes):
    """{name: command line} of the runs that flags of train.py and options of the sweep lead to."""
    options = dict(methods=None, arm=[], each_modality=False, seeds="0")
    options |= dict(dataset="demo", data_root=None, ckpt_path=Path("runs"))
    runs = sweep.plan(argparse.Namespace(**options | changes), list(flags))
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
    assert line.startswith("FAILED  demo-joint-learning_rate-1e30-seed0: error: ")
    log = tmp_path / ".demo-joint-learning_rate-1e30-seed0.log"
    assert str(log) in line and "the run stops here" in log.read_text()
    good = tmp_path / "demo-joint-learning_rate-0.01-seed0"
    assert len(read_jsonl(good / "metrics.jsonl")) == 1 and not list(good.glob("*.pt"))


def test_what_is_done_is_not_done_again_and_what_is_lacking_is(
    demo_root, tmp_path, monkeypatch, capsys
):
    """Its commands are called in this process and counted."""
    called = []

    def call(command, log, lock):
        log.touch()
        called.append(command)
        {"train.py": train, "evaluate.py": evaluate}[command[0]].main(command[1:])
        return ""

    monkeypatch.setattr(sweep, "call", call)
    flags = [*flags_for(demo_root, tmp_path), "--methods", "joint,uniform", "--epochs", "1"]
    sweep.main(flags)
    assert [command[0] for command in called] == ["train.py", "train.py"]
    sweep.main(flags)
    assert "2 runs, 2 of them done already" in capsys.readouterr().out
    options, _ = read = sweep.read_options(flags)
    for run in sweep.plan(*read):  # done by another sweep in the meantime
        sweep.carry_out(run, options)
    assert len(called) == 2
    sweep.main([*flags, "--probe", "linear"])
    folders = [str(tmp_path / f"demo-{method}-seed0") for method in ("joint", "uniform")]
    assert called[2:] == [["evaluate.py", folder, "--probe", "linear"] for folder in folders]
    for name in ("metrics.jsonl", "last.pt", "best.pt"):  # as if killed in its first epoch
        (tmp_path / "demo-joint-seed0" / name).unlink()
    sweep.main(flags)
    (command,) = called[4:]
    assert command[0] == "train.py" and command[-1] == "--resume" and "joint" in command
    with pytest.raises(BadInput, match="was begun with --clip_grad 0, not 1.0"):
        sweep.main([*flags, "--clip_grad", "1"])
    assert len(called) == 5


def test_without_a_terminal_a_line_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    def train_quickly(run, options):
        run.folder.mkdir()
        (run.folder / "metrics.jsonl").write_text('{"epoch": 0, "step": 1}\n' * 2)
        clock[0] += 60 * 31
        return "stopped" * (run.options.learning_rate == 0.2)

    clock = [0.0]
    monkeypatch.setattr(sweep, "carry_out", train_quickly)
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock[0])
    flags = ["--dataset", "demo", "--ckpt_path", str(tmp_path), "--methods", "joint"]
    with pytest.raises(SystemExit):
        sweep.main([*flags, "--learning_rate", "0.1,0.2,0.3,0.4", "--epochs", "2"])
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "4 runs, 0 of them done already" and "\r" not in printed.out + printed.err
    assert [line.split(", ")[0] for line in lines[1:5]] == [
        f"{done} of 4 runs done" for done in (1, 1, 2, 3)
    ]
    assert lines[4] == "3 of 4 runs done, 1 failed"
    assert sweep.duration(4799) == "1 h 20 min" and sweep.duration(1) == "1 min"


def test_the_time_left_is_that_of_the_epochs_left(tmp_path, monkeypatch, capsys):
    runs = [sweep.Run([], argparse.Namespace(epochs=4), tmp_path / str(i)) for i in range(5)]
    for run in runs:
        run.folder.mkdir()

    def train(run, epochs):
        lines = [f'{{"epoch": {epoch}, "step": 1}}\n' for epoch in range(epochs)]
        (run.folder / "metrics.jsonl").write_text("".join(lines))

    clock = [0.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: clock[0])
    train(runs[0], 4)  # was done before
    lines = sweep.Lines(runs, runs[1:], jobs=2)
    clock[0] = 3600
    for number, epochs in ((1, 4), (2, 2)):
        train(runs[number], epochs)
    lines.add(runs[1], "")
    train(runs[2], 3)
    lines.add(runs[2], "stopped")
    assert capsys.readouterr().out.splitlines() == [
        "2 of 5 runs done, 2 running, 1 h 40 min left",  # 10 epochs at 10 minutes each
        "2 of 5 runs done, 1 failed, 2 running, 1 h 9 min left",  # 8 at 60 / 7
    ]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_results(demo_root, tmp_path):
    flags = ["--methods", "uniform,mmpareto", "--epochs", "3", "--jobs", "2", "--probe", "linear"]
    for name in ("killed", "undisturbed"):
        runs = tmp_path / name
        command = [sys.executable, "sweep.py", *flags_for(demo_root, runs), *flags]
        if name == "killed":
            process = start(*command, OMP_NUM_THREADS="1")
            wait_for(runs / "demo-mmpareto-seed0" / "last.pt", process)
            os.kill(process.pid, signal.SIGKILL)  # its trainings live on; it must wait for them
            process.wait()
        done = shell(*command, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert "2 of 2 runs are done" in done.stdout
    for run in ("demo-uniform-seed0", "demo-mmpareto-seed0"):
        killed, undisturbed = (tmp_path / name / run for name in ("killed", "undisturbed"))
        for file in ("metrics.jsonl", "steps.jsonl"):
            assert (killed / file).read_text() == (undisturbed / file).read_text(), file
        probes = [read_result(folder / "probe_linear.json") for folder in (killed, undisturbed)]
        assert probes[0]["scores"] == probes[1]["scores"]
