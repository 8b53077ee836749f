"""What the preparations of dataset/prepare/ share: flags, processes, the report, the check."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from dataset._samples import read_csv
from dataset.prepare import _manifest as manifest
from utils.atomic import final_name, replacing, sweep, write_text
from utils.command import parser_of
from utils.errors import BadInput

SHOWN = 20  # of many problems


def command_line(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags of every preparation: --output, --check."""
    parser = parser_of(f"python -m dataset.prepare.{name}", description)
    parser.add_argument(
        "--output", type=Path, default=Path("../data") / name, help="where the set goes"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only compare --output with its checksums and the expected number of samples",
    )
    return parser


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes")


def parse(parser: argparse.ArgumentParser) -> dict:
    """The flags; with --check it is done and the command ends."""
    options = vars(parser.parse_args())
    if options.pop("check"):
        check(options["output"])
        sys.exit(0)
    return options


def find(source: Path, name: str) -> Path:
    """The one file of that name below `source`."""
    found = sorted(source.rglob(name))
    if not found:
        raise BadInput(f"--source {source}: has no {name} in it or below it")
    return found[0]


def begin(output: Path, settings: dict) -> None:
    """Starts or continues `output`. Raises BadInput where it was begun with other settings."""
    begun = output / "settings.json"
    if begun.is_file() and json.loads(begun.read_text()) != settings:
        raise BadInput(
            f"--output {output}: was begun with {begun.read_text()}; "
            "use the same flags, or delete it"
        )
    if not begun.is_file() and output.exists() and any(f.name[0] != "." for f in output.iterdir()):
        raise BadInput(f"--output {output}: holds other files; name another folder")
    write_text(begun, json.dumps(settings))
    clear(output)


def clear(output: Path) -> None:
    """Removes what killed processes left half-written in a tree."""
    for folder in (output, *(f for f in output.iterdir() if f.is_dir())):
        sweep(folder)


def attempt(work: Callable, job: tuple) -> str | None:
    """None, or what is wrong with the job's files."""
    try:
        work(*job)
    except BadInput as problem:
        return str(problem)
    return None


def single_threaded() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Ctrl-C is ignored inside, also by the processes that are started there, for good."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def convert(
    work: Callable, jobs: dict[str, tuple], processes: int, title: str
) -> tuple[dict[str, str], float]:
    """Calls `work(*job)` for every {id: job}; it raises BadInput where a job's files are unusable.

    Returns {id: what is wrong}, in the order of `jobs`, and the seconds it took. Raises BadInput
    where nothing can be written, or a process dies: what is done stays done.
    """
    if processes < 1:
        raise BadInput(f"--jobs {processes}: must be > 0")
    started, work_on = time.monotonic(), partial(attempt, work)
    bar = {"total": len(jobs), "desc": title, "disable": None}
    try:
        if processes == 1:
            outcomes = list(tqdm(map(work_on, jobs.values()), **bar))
        else:
            # spawned, not forked: the parent may hold threads of OpenMP or OpenCV
            pool = ProcessPoolExecutor(processes, get_context("spawn"), single_threaded)
            with no_interrupt():  # which the workers inherit: Ctrl-C is for the parent
                results = pool.map(work_on, jobs.values(), chunksize=8)
            try:
                outcomes = list(tqdm(results, **bar))
            finally:  # files are complete or not there, so no worker need end its work
                for worker in active_children():
                    worker.terminate()
                pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on") from None
    except OSError as error:
        raise BadInput(f"--output: cannot be written ({error}); run it again to go on") from None
    except BrokenProcessPool:
        raise BadInput("a process died, perhaps for memory; run it again to go on") from None
    problems = {key: problem for key, problem in zip(jobs, outcomes) if problem}
    if problems and len(problems) == len(jobs):
        raise BadInput(f"nothing is usable; the first: {next(iter(problems.values()))}")
    return problems, time.monotonic() - started


def save_tensor(tensor: torch.Tensor, path: Path) -> None:
    """Atomically, and the same bytes every time: torch.save puts a file's name into it."""
    content = io.BytesIO()
    torch.save(tensor, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def finish(
    output: Path,
    classes: list[str],
    split: dict[str, list[str]],
    problems: dict[str, str] | None = None,
    expected: dict[str, int] | None = None,
    speed: str = "",
) -> None:
    """Writes what makes the tree complete: split files, stat.csv, report.json, checksums.

    split: {"train" | "test": lines `id,class`}; problems: {id: what is wrong}, listed ids without
    usable files; expected: samples per split that the set has, by default the lines.
    """
    clear(output)  # again: a process may take a while to die
    problems, expected = problems or {}, expected or {n: len(own) for n, own in split.items()}
    for name, lines in split.items():
        write_text(output / f"{name}.csv", "".join(f"{line}\n" for line in lines))
    # with a byte-order mark, as in the published file
    write_text(output / "stat.csv", "\ufeff" + "".join(f"{name}\n" for name in classes))
    usable = {
        name: sum(line.split(",")[0] not in problems for line in own) for name, own in split.items()
    }
    report = {"usable": usable, "expected": expected, "problems": problems}
    write_text(output / "report.json", json.dumps(report, indent=1))
    written = manifest.write(output)
    for problem in list(problems.values())[:SHOWN]:
        print(f"skipped  {problem}")
    if len(problems) > SHOWN:
        print(f"skipped  {len(problems) - SHOWN} more, named in {output / 'report.json'}")
    counts = ", ".join(f"{usable[name]} of {expected[name]} {name}" for name in split)
    print(f"{final_name(output)}: {counts} samples usable; {written / 1e6:.1f} MB written{speed}")


def speed_of(files: list[Path], samples: int, seconds: float, processes: int) -> str:
    """How fast a conversion was, as text for `finish`. files: what was read."""
    read = sum(file.stat().st_size for file in files if file.is_file())
    rate = samples / seconds / processes
    return f", {read / 1e6:.1f} MB read, {seconds:.0f} s, {rate:.2f} samples per second and process"


def check(root: Path) -> None:
    """Whether a tree is what its preparation left, and complete.

    Raises BadInput for a file that is missing, changed or foreign, and for fewer samples than the
    set has.
    """
    manifest.check(root)
    report = json.loads((root / "report.json").read_text(encoding="utf-8"))
    lacking = []
    for name, expected in report["expected"].items():
        listed = [row[0] for row in read_csv(root / f"{name}.csv")]
        usable = sum(sample not in report["problems"] for sample in listed)
        print(f"{root}: {usable} of {expected} {name} samples")
        if usable != expected:
            lacking.append(f"{usable} of {expected} {name} samples")
    if lacking:
        named = "".join(f"\n  {problem}" for problem in list(report["problems"].values())[:SHOWN])
        raise BadInput(f"{root}: {', '.join(lacking)}; mend the raw files and prepare again{named}")
