"""A grid of runs: methods, seeds, and any flag of train.py with several values.

python sweep.py --methods joint,uniform,pareto,mmpareto --seeds 0,1,2 --dataset avmnist
python sweep.py --methods mmpareto --gamma 1,1.5,2 --seeds 0,1,2 --dataset avmnist --jobs 2
python sweep.py --arm joint --arm "uniform --encoder_grad_scale 1.5" --seeds 0,1 --dataset demo

What is done is skipped and what was interrupted goes on, so the same command can be given again at
any time, also after a kill. A run that fails does not end the others; it is named at the end. Flags
that only some runs have (of a method, of a kind of file) are given to those. Then:
python report.py runs/DATASET-*
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import shlex
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from analysis import probes
from training import options, resume
from utils import registry
from utils.command import parser_of
from utils.errors import BadInput, run
from utils.run_folder import read_jsonl

POLL_SECONDS = 1.0


class Run(NamedTuple):
    """One training: its flags, its parsed options, and the folder they lead to."""

    argv: list[str]
    options: argparse.Namespace
    folder: Path

    def epochs(self) -> int:
        return min(len(read_jsonl(self.folder / "metrics.jsonl")), self.options.epochs)

    def is_begun(self) -> bool:
        """Raises BadInput where the folder holds a run with other options."""
        if not (self.folder / "options.json").is_file():
            return False
        resume.refuse_other_options(self.folder, self.options, "sweep.py")
        return True

    def is_done(self, probes: list[str]) -> bool:
        probed = all((self.folder / f"probe_{name}.json").is_file() for name in probes)
        return self.is_begun() and self.epochs() == self.options.epochs and probed


def read_grid(flags: list[str]) -> list[tuple[str, str | None]]:
    """[(flag of train.py, what was given for it)] in order; None for one without a value."""
    grid: list[tuple[str, str | None]] = []
    for position, word in enumerate(flags):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            grid.append((name, value or None))
        elif position == 0 or not flags[position - 1].startswith("--"):
            raise BadInput(f"{word}: belongs to no flag; write lists without blanks, such as 0,1,2")
        else:
            grid[-1] = (grid[-1][0], word)
    return grid


def values_of(given: str | None, action: argparse.Action) -> list[str | None]:
    """The values of a flag; a comma stands between several, where it is not part of one, such as
    audio=cnn,visual=resnet18."""
    if given is None or "=" in given or action.type is options.whole:
        return [given]
    return given.split(",")


def arms_of(args) -> list[list[str]]:
    """The flags of every arm, `--method X ...`, in the order they were asked for."""
    arms = []
    if args.each_modality:
        dataset = registry.load_class("dataset", args.dataset, "--dataset")
        for modality in dataset.modalities_at(args.data_root):
            arms.append(["--method", "joint", "--modalities", modality])
    methods = args.methods or ""
    methods = registry.names("methods") if methods == "all" else methods.split(",")
    arms += [["--method", name] for name in methods if name]
    for arm in args.arm:
        name, *flags = shlex.split(arm)
        arms.append(["--method", name, *flags])
    if not arms:
        raise BadInput("nothing to run; name --methods, or an --arm, or --each_modality")
    return arms


def plan(args, flags: list[str]) -> list[Run]:
    """All runs, each parsed as train.py will parse it. Raises BadInput before anything starts."""
    grid, arms = read_grid(flags), arms_of(args)
    where = ["--dataset", args.dataset]
    where += ["--data_root", str(args.data_root)] if args.data_root else []
    of_all = [word for f, v in grid if f == "modalities" for word in ("--modalities", v)]
    known = [options.known_flags([*where, *of_all, *arm]) for arm in arms]
    if unused := [flag for flag, _ in grid if not any(flag in own for own in known)]:
        raise BadInput(f"--{unused[0]}: no run of this sweep has such a flag")
    runs: dict[str, Run] = {}
    left_out: dict[str, BadInput] = {}  # of --methods all: what these flags do not suit
    for seed, (arm, own) in itertools.product(args.seeds.split(","), zip(arms, known)):
        fitting = [(flag, values_of(given, own[flag])) for flag, given in grid if flag in own]
        for values in itertools.product(*(v for _, v in fitting)):
            argv, told = [*where, *arm, "--random_seed", seed], arm[1:]
            for (flag, several), value in zip(fitting, values):
                argv += [f"--{flag}"] if value is None else [f"--{flag}", value]
                told = told + ([f"--{flag}", value] if len(several) > 1 else [])
            words = [word.lstrip("-").replace("/", "_") for word in told]  # a value may be a path
            name = "-".join([args.dataset, *words, f"seed{seed}"])
            argv += ["--ckpt_path", str(args.ckpt_path), "--run_name", name]
            try:
                runs.setdefault(name, Run(argv, options.parse(argv), args.ckpt_path / name))
            except BadInput as reason:
                if args.methods != "all":
                    raise
                left_out[arm[1]] = reason
    if not runs:
        raise next(iter(left_out.values()))
    for name, reason in left_out.items():
        print(f"left out, {name}: {reason}")
    return list(runs.values())


def call(command: list[str], log: Path, held) -> str:
    """Runs a script of code/ with its output in `log`; "" or the last line of a failure."""
    with open(log, "ab") as file:
        done = subprocess.run(
            [sys.executable, str(registry.CODE / command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=(held.fileno(),),  # the lock lives as long as the command does
        )
    if done.returncode == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def carry_out(one: Run, args) -> str:
    """Trains, and probes, what is not done; "" or why it failed."""
    log = args.ckpt_path / f".{one.folder.name}.log"
    with open(log.with_suffix(".lock"), "w") as held:
        # a killed sweep's trainings live on: wait for the one that still writes to this folder
        fcntl.flock(held, fcntl.LOCK_EX)
        if one.is_done(args.probe):
            return ""
        if not one.is_begun() or one.epochs() < one.options.epochs:
            resume = ["--resume"] if one.is_begun() else []
            if problem := call(["train.py", *one.argv, *resume], log, held):
                return f"{problem} ({log})"
        if args.probe:
            command = ["evaluate.py", str(one.folder), "--probe", ",".join(args.probe)]
            if problem := call(command, log, held):
                return f"{problem} ({log})"
        if args.checkpoints == "delete":
            for name in ("last.pt", "best.pt"):
                (one.folder / name).unlink(missing_ok=True)
        log.unlink()
    return ""


def watch(runs: list[Run], ended: threading.Event) -> None:
    """A bar over the epochs of the whole grid, with the time left."""
    total = sum(one.options.epochs for one in runs)
    with tqdm(
        total=total, initial=sum(o.epochs() for o in runs), unit="epoch", disable=None
    ) as bar:
        while not ended.wait(POLL_SECONDS):
            bar.update(sum(one.epochs() for one in runs) - bar.n)
        bar.update(sum(one.epochs() for one in runs) - bar.n)


def main(argv=None) -> None:
    parser = parser_of(
        "sweep.py",
        __doc__,
        epilog="All other flags are train.py's, with one value or several, such as --gamma 1,2.",
    )
    add = parser.add_argument
    add("--methods", metavar="A,B", help="files of methods/, or all")
    add("--arm", action="append", default=[], help="one method with flags of its own, quoted")
    add("--each_modality", action="store_true", help="also one run with each modality alone")
    add("--seeds", default="0", metavar="0,1,2", help="random seeds, one run each")
    add("--dataset", required=True, metavar="NAME", help="a file of dataset/")
    add("--data_root", type=Path, metavar="DIR", help="prepared data set (default: data/NAME)")
    add("--ckpt_path", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    add("--jobs", type=int, default=1, metavar="N", help="runs at the same time")
    add("--probe", default="none", metavar="A,B", help="also evaluate.py --probe A,B on every run")
    add(
        "--checkpoints",
        choices=("keep", "delete"),
        default="keep",
        help="of runs that are done: 360 MB each with two ResNet-18",
    )
    args, flags = parser.parse_known_args(argv)
    if args.jobs < 1:
        raise BadInput(f"--jobs {args.jobs}: must be at least 1")
    args.probe = probes.read_probes(args.probe)
    args.dataset = args.dataset.lower()
    runs = plan(args, flags)
    args.ckpt_path.mkdir(parents=True, exist_ok=True)
    waiting = [one for one in runs if not one.is_done(args.probe)]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done already", flush=True)
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))

    ended = threading.Event()
    bar = threading.Thread(target=watch, args=(runs, ended), daemon=True)
    bar.start()
    pool = ThreadPoolExecutor(args.jobs)
    try:
        problems = list(pool.map(lambda one: carry_out(one, args), waiting))
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        raise KeyboardInterrupt("interrupted; the same command goes on") from None
    finally:
        ended.set()
        bar.join()
    failed = [(one, problem) for one, problem in zip(waiting, problems) if problem]
    for one, problem in failed:
        print(f"FAILED  {one.folder.name}: {problem}", file=sys.stderr)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs are done: {args.ckpt_path}/")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
