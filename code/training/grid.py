"""A grid of runs: which there are, and how they are carried out, several at the same time."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator

from tqdm import tqdm

from training.flags import answer_unknown
from training.options import build_parser, parse
from training.workers import Run, connect, worked_off
from utils import registry
from utils.command import pairs, run_names, whole
from utils.errors import BadInput, advise
from utils.machine import usable_cpus
from utils.run_folder import name_of_run

CHOOSING = ("encoder", "fusion", "modalities")  # they decide what other flags there are
POLL_SECONDS = 1.0
ended = threading.Event()  # the bar is no longer needed


def values_of(given: str | None, action: argparse.Action) -> list[str | None]:
    """The values of a flag; a comma stands between several, where it is not part of one, such as
    audio=cnn,visual=resnet18."""
    if given is None or "=" in given or action.type in (whole, run_names):
        return [given]
    return given.split(",")


def arms_of(options) -> list[list[str]]:
    """The flags of every arm, `--method X ...`, in the order they were asked for."""
    arms = []
    if options.each_modality:
        dataset = registry.load_class("dataset", options.dataset, "--dataset")
        for modality in dataset.modalities_at(options.data_root):
            arms.append(["--method", "joint", "--modalities", modality])
    methods = options.methods or ""
    methods = registry.names("methods") if methods == "all" else methods.split(",")
    arms += [["--method", name] for name in methods if name]
    for arm in options.arm:
        name, *flags = shlex.split(arm)
        arms.append(["--method", name, *flags])
    if not arms:
        raise BadInput("nothing to run; name --methods, or an --arm, or --each_modality")
    return arms


def plan(options, flags: list[str]) -> list[Run]:
    """All runs, each parsed as train.py will parse it. Raises BadInput before anything starts.

    flags: those of the command line that are train.py's.
    """
    dataset = registry.load_class("dataset", options.dataset, "--dataset")
    grid, arms = pairs(flags), arms_of(options)
    of_all = ["--dataset", options.dataset, "--ckpt_path", str(options.ckpt_path)]
    if options.data_root:
        of_all += ["--data_root", str(options.data_root)]
    of_lines: dict = {}  # what runs have in common, built once
    actions = build_parser(of_all, of_lines)[0].actions
    choices = {f: values_of(text, actions[f]) for f, text in grid if f in CHOOSING}
    variants = []  # (arm, {choosing flag: value}, the flags that there are)
    for arm, values in itertools.product(arms, itertools.product(*choices.values())):
        chosen = dict(zip(choices, values))
        line = [word for flag, value in chosen.items() for word in (f"--{flag}", value)]
        variants.append((arm, chosen, build_parser([*of_all, *arm, *line], of_lines)[0].actions))
    known = [there for _, _, there in variants]
    for flag, _ in grid:
        if not any(flag in there for there in known):
            answer = answer_unknown(f"--{flag}", set().union(*known))
            raise BadInput(f"--{flag}: {answer.replace('this run', 'these runs')}")
    runs: dict[str, Run] = {}
    left_out: dict[str, BadInput] = {}  # of --methods all: what these flags do not suit
    for seed, (arm, chosen, there) in itertools.product(options.seeds.split(","), variants):
        fitting = {f: values_of(text, there[f]) for f, text in grid if f in there}
        tried = fitting | {flag: [value] for flag, value in chosen.items()}
        for values in itertools.product(*tried.values()):
            argv, named = [*of_all, *arm, "--random_seed", seed], arm[1:]
            for flag, value in zip(tried, values):
                argv += [f"--{flag}"] if value is None else [f"--{flag}", value]
                if len(fitting[flag]) > 1:
                    named = [*named, f"--{flag}", value]
            name = name_of_run(dataset.name_of(options.data_root), *named, seed=seed)
            argv += ["--run_name", name]
            try:
                runs.setdefault(name, Run(argv, parse(argv, of_lines), options.ckpt_path / name))
            except BadInput as reason:
                if options.methods != "all":
                    raise
                left_out[arm[1]] = reason
    if not runs:
        raise next(iter(left_out.values()))
    for name, reason in left_out.items():
        print(f"left out, {name}: {reason}")
    return list(runs.values())


def duration(seconds: float) -> str:
    """Such as "1 h 20 min"."""
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Lines:
    """A line whenever a run ends, for output that no terminal shows."""

    def __init__(self, runs: list[Run], waiting: list[Run]):
        self.runs, self.left = runs, list(waiting)
        self.failed, self.since, self.begun = 0, time.monotonic(), self.epochs_left()

    def epochs_left(self) -> int:
        return sum(run.options.epochs - run.epochs() for run in self.left)

    def add(self, run: Run, problem: str) -> None:
        if problem:  # its epochs will not be trained
            self.failed, self.begun = (
                self.failed + 1,
                self.begun - run.options.epochs + run.epochs(),
            )
        self.left.remove(run)
        done, left = len(self.runs) - len(self.left) - self.failed, self.epochs_left()
        parts = [f"{done} of {len(self.runs)} runs done"]
        parts += [f"{self.failed} failed"] * bool(self.failed)
        if left and left < self.begun:
            seconds = (time.monotonic() - self.since) * left / (self.begun - left)
            parts.append(f"{duration(seconds)} left")
        print(", ".join(parts), flush=True)


def watch(runs: list[Run], waiting: list[Run]) -> None:
    """A bar over the epochs of the whole grid, with the time left; asks those not done already."""
    total = sum(run.options.epochs for run in runs)
    of_done = total - sum(run.options.epochs for run in waiting)
    done = of_done + sum(run.epochs() for run in waiting)
    with tqdm(total=total, initial=done, unit="epoch") as bar:
        while not ended.wait(POLL_SECONDS):
            bar.update(of_done + sum(run.epochs() for run in waiting) - bar.n)
        bar.update(of_done + sum(run.epochs() for run in waiting) - bar.n)


def trained(runs: list[Run], options) -> Iterator[tuple[Run, str]]:
    """Each run when it has ended, with "" or why it failed."""
    if not runs:
        return
    with connect(min(options.jobs, len(runs)), options.scheduler) as client:
        there = len(client.nthreads())
        more = "" if there else "; sh script/worker.sh ADDRESS starts one"
        print(f"workers: {there}{more}; dashboard: {client.dashboard_link}", flush=True)
        yield from worked_off(client, runs, options.probe, options.checkpoints == "keep")


def carry_out(options: argparse.Namespace, flags: list[str]) -> dict[Run, str]:
    """Plans the runs, trains what is not done, and returns them all, each with "" or why it failed.

    options: arm, methods, each_modality, seeds, dataset, data_root, ckpt_path, jobs, scheduler,
    probe, checkpoints, as sweep.py reads them. flags: those that are train.py's.
    """
    runs = plan(options, flags)
    options.ckpt_path.mkdir(parents=True, exist_ok=True)
    # a log is there where a worker was ended before it had tidied up
    waiting = [run for run in runs if not run.is_done(options.probe) or run.log.exists()]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them done already", flush=True)
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, usable_cpus() // options.jobs))

    advise("the same command goes on")
    ended.clear()
    bar = threading.Thread(target=watch, args=(runs, waiting), daemon=True)
    if sys.stderr.isatty():
        bar.start()
    lines = Lines(runs, waiting)
    problems = dict.fromkeys(runs, "")
    try:
        for run, problem in trained(waiting, options):
            problems[run] = problem
            if not (sys.stdout.isatty() and sys.stderr.isatty()):
                lines.add(run, problem)
    finally:
        ended.set()
        if bar.is_alive():
            bar.join()
    failed = {run.folder.name: problem for run, problem in problems.items() if problem}
    for name, problem in failed.items():
        print(f"FAILED  {name}: {problem}", file=sys.stderr)
    print(f"{len(runs) - len(failed)} of {len(runs)} runs are done: {options.ckpt_path}/")
    return problems
