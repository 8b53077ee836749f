"""Command lines of small runs, and commands started as a user starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

CODE = Path(__file__).resolve().parents[1]
QUICK = ["--encoder", "cnn", "--image_size", "32", "--batch_size", "18"]
QUICK += ["--num_workers", "0", "--no-tensorboard"]
QUICK += ["--optimizer", "sgd", "--learning_rate", "0.01", "--schedule", "constant"]
RUNS = {  # {name: flags} of the runs that tables, figures, probes and predictions are made from
    "joint": ["--method", "joint"],
    "uniform": ["--method", "uniform"],
    "pareto": ["--method", "pareto"],
    "mmpareto": [],
    "mmpareto-seed1": ["--random_seed", "1"],
    "mmpareto-gamma1": ["--gamma", "1"],
    "held-out": ["--method", "uniform", "--val_fraction", "0.2"],
    "held-out-fast": ["--method", "uniform", "--val_fraction", "0.2", "--learning_rate", "0.1"],
}


def flags_for(root, runs, dataset="demo") -> list[str]:
    """A command line of train.py on the data set prepared in `root`: an epoch takes a second."""
    where = ["--dataset", dataset, "--data_root", str(root), "--ckpt_path", str(runs)]
    return [*where, *QUICK]


def run(flags, name, *more) -> None:
    """A run in this process, of one epoch unless `more` says otherwise, without the figure that
    train.py draws in the end: it takes as long as the epoch."""
    import train  # here: not all who start a command need it

    with mock.patch.object(train, "draw_run", lambda folder: "not drawn"):
        train.main([*flags, "--epochs", "1", "--run_name", name, *more])


def place(environment: dict) -> dict:
    """Inside code/, with the interpreter of the tests as the active python: scripts take that one
    and install nothing."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"cwd": CODE, "env": os.environ | {"PATH": path} | environment, "text": True}


def shell(*command, **environment) -> subprocess.CompletedProcess:
    """A command that has ended."""
    return subprocess.run(command, capture_output=True, **place(environment))


def start(*command, **environment) -> subprocess.Popen:
    """A command that runs, in a session of its own; it obeys Ctrl-C even where the tests were
    started with that ignored, as shells do behind an `&`."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **place(environment),
    )


def wait_for(file: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    """Until a command that runs has written this file."""
    wait_until(file.exists, process, seconds)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> None:
    """Until this holds, which a command that runs brings about."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.05)
