"""sweep.py as a user runs it: the grid, skipping, failures, kill -9."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sweep
from utils import registry
from utils.errors import BadInput
from utils.run_folder import read_jsonl

CODE = Path(__file__).resolve().parents[1]
SMALL = ["--image_size", "32", "--batch_size", "16", "--num_workers", "0", "--no-tensorboard"]


def planned(*argv, **changes):
    """{name: flags} of the runs that a command line leads to."""
    known = dict(
        methods=None,
        arm=[],
        each_modality=False,
        seeds="0",
        dataset="demo",
        data_root=None,
        ckpt_path=Path("runs"),
    )
    runs = sweep.plan(argparse.Namespace(**known | changes), list(argv))
    return {one.folder.name: one.argv for one in runs}


def test_the_grid_is_the_product_of_seeds_arms_and_lists():
    found = planned("--epochs", "2", "--gamma", "1,2", methods="joint,mmpareto", seeds="3,4")
    assert list(found) == [
        "demo-joint-seed3",
        "demo-mmpareto-gamma-1-seed3",
        "demo-mmpareto-gamma-2-seed3",
        "demo-joint-seed4",
        "demo-mmpareto-gamma-1-seed4",
        "demo-mmpareto-gamma-2-seed4",
    ]
    assert "--gamma" not in found["demo-joint-seed3"]  # which has none
    assert found["demo-mmpareto-gamma-2-seed4"].count("2") == 2  # of gamma and of epochs


def test_a_path_among_the_values_is_no_path_in_the_name():
    assert list(planned(arm=["joint --data_root data/of/mine"])) == [
        "demo-joint-data_root-data_of_mine-seed0"
    ]


def test_all_methods_but_those_that_the_flags_do_not_suit(capsys):
    found = planned("--val_fraction", "0.1", methods="all")
    suited = [name for name in registry.names("methods") if name not in ("umt", "greedy")]
    assert list(found) == [f"demo-{name}-seed0" for name in suited]
    told = capsys.readouterr().out
    assert "left out, umt: --umt_teachers: not given" in told
    assert "left out, greedy: --fusion concat: has no gates" in told
    assert "demo-greedy-seed0" in planned("--fusion", "mmtm", methods="all")
    assert "left out, ogm: --fusion mmtm: has no unimodal logits" in capsys.readouterr().out
    assert "demo-g_blending-seed0" not in planned(methods="all")
    assert "left out, g_blending: " in capsys.readouterr().out
    with pytest.raises(BadInput, match="--epochs 0: must be at least 1"):
        planned("--epochs", "0", methods="all")


def test_arms_have_flags_of_their_own_and_modalities_stand_alone():
    found = planned(each_modality=True, arm=["uniform --encoder_grad_scale 1.5"])
    assert list(found) == [
        "demo-joint-modalities-audio-seed0",
        "demo-joint-modalities-visual-seed0",
        "demo-uniform-encoder_grad_scale-1.5-seed0",
    ]
    sizes = planned("--image_size", "32", each_modality=True)  # which only pictures have
    assert ["--image_size" in flags for flags in sizes.values()] == [False, True]
    flags = planned("--measure_conflict", "--lr_decay_step=3", methods="uniform")
    assert "--measure_conflict --lr_decay_step 3 --run_name" in " ".join(
        flags["demo-uniform-seed0"]
    )


@pytest.mark.parametrize(
    "argv, changes, message",
    [
        ([], {}, "nothing to run; name --methods, or an --arm, or --each_modality"),
        ([], dict(methods="jiont"), "--method jiont: no file methods/jiont.py; choose from"),
        (["0"], dict(methods="joint"), "0: belongs to no flag; write lists without blanks"),
        (["--epochs", "1", "2"], dict(methods="joint"), "2: belongs to no flag"),
        (["--gamma", "1"], dict(methods="joint"), "--gamma: no run of this sweep has such a flag"),
        (["--gamma", "1,-1"], dict(methods="mmpareto"), "--gamma -1.0: must be > 0"),
        (["--epochs", "0"], dict(methods="joint"), "--epochs 0: must be at least 1"),
    ],
)
def test_faults_are_named_before_anything_starts(argv, changes, message):
    with pytest.raises(BadInput, match=message):
        planned(*argv, **changes)


def command(root, where, *argv):
    flags = ["--dataset", "demo", "--data_root", str(root), "--ckpt_path", str(where), *SMALL]
    return [sys.executable, "sweep.py", *flags, *argv]


def shell(whole):
    return subprocess.run(whole, cwd=CODE, capture_output=True, text=True)


def test_a_failure_is_named_and_ends_nothing_else(demo_root, tmp_path):
    where = tmp_path / "runs"
    argv = command(demo_root, where, "--methods", "joint", "--learning_rate", "1e30,0.01")
    argv += ["--epochs", "1", "--checkpoints", "delete"]
    done = shell(argv)
    assert done.returncode == 1
    assert "2 runs, 0 of them done already" in done.stdout and "1 of 2 runs are done" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("FAILED")]
    assert line.startswith("FAILED  demo-joint-learning_rate-1e30-seed0: error: ")
    log = where / ".demo-joint-learning_rate-1e30-seed0.log"
    assert str(log) in line and "the run stops here" in log.read_text()
    good = where / "demo-joint-learning_rate-0.01-seed0"
    assert len(read_jsonl(good / "metrics.jsonl")) == 1 and not list(good.glob("*.pt"))
    again = shell(argv)
    assert "2 runs, 1 of them done already" in again.stdout
    # other options never mix with what is there
    other = shell([*argv, "--random_seed", "0", "--clip_grad", "1"])
    assert other.returncode == 2 and "was begun with --clip_grad 0, not 1.0" in other.stderr


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_results(demo_root, tmp_path):
    flags = ["--methods", "uniform,mmpareto", "--epochs", "3", "--jobs", "2", "--probe", "linear"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for where in ("killed", "undisturbed"):
        whole = command(demo_root, tmp_path / where, *flags)
        if where == "killed":
            process = subprocess.Popen(whole, cwd=CODE, env=environment)
            metrics = tmp_path / where / "demo-mmpareto-seed0" / "metrics.jsonl"
            while not read_jsonl(metrics):
                assert process.poll() is None
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)  # its trainings live on; it must wait for them
            process.wait()
        done = subprocess.run(whole, cwd=CODE, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "2 of 2 runs are done" in done.stdout
    for name in ("demo-uniform-seed0", "demo-mmpareto-seed0"):
        for file in ("metrics.jsonl", "steps.jsonl", "probe_linear.json"):
            texts = [(tmp_path / w / name / file).read_text() for w in ("killed", "undisturbed")]
            assert texts[0] == texts[1], file
