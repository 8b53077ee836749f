"""What the preparations of dataset/prepare/ share: flags, processes, the report, the check."""

import argparse
import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from dataset._files import entries_of, files_below, id_of
from dataset._limits import naming
from dataset._samples import fault_of, read_csv, write_csv
from dataset._values import check_values
from dataset.prepare import _manifest as manifest
from dataset.prepare._download import fetch
from dataset.prepare._workers import work_off
from utils.atomic import final_name, new_folder, remove_leftovers, replacing, write_text
from utils.command import Parser, count
from utils.errors import BadInput
from utils.machine import usable_cpus

T = TypeVar("T")
SHOWN = 20  # of many problems
COMMON = """Run inside code/. Interrupted or killed, run the same command again. What cannot be
used is named at the end and in <output>/report.json."""


class Disagreement(BadInput):
    """The files of a sample do not belong together: a set is complete without it."""


class RawSet(NamedTuple):
    """What a preparation has found, for a set whose samples are prepared one by one."""

    classes: list[str]
    split: dict[str, dict[str, str]]  # {"train" | "test": {sample: class}}
    files: dict[str, list[Path]]  # {sample: its raw files, none where they are missing}
    settings: dict  # what the prepared files depend on besides the raw ones
    expected: dict[str, int] | None = None  # samples the set has, by default those of `split`


def command_line(name: str, description: str, source: str = "") -> Parser:
    """A parser with the flags of every preparation: --output, --check.

    source: help of --source, for a set that has raw files.
    """
    parser = Parser(f"python -m dataset.prepare.{name}", f"{description}\n{COMMON}")
    add = parser.add_argument
    add("--output", type=Path, default=Path("../data") / name, help="where the set goes")
    add(
        "--check",
        action="store_true",
        help="only compare --output with its checksums and the expected number of samples",
    )
    if source:
        add("--source", type=existing, help=source)
    return parser


def existing(text: str) -> Path:
    """The type of a flag that names a file or folder."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text}: no such file or folder")
    return Path(text)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=count, default=usable_cpus(), metavar="N", help="processes")


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The options; with --check it is done and the command ends."""
    options = parser.parse_args(argv)
    if options.check:
        check(options.output)
        sys.exit(0)
    return options


def find(folder: Path, name: str, flag: str = "--source") -> Path:
    """The file of that name in `folder`, which `flag` named, or below it; the least deep one."""
    paths = [path for path in files_below(folder) if path.name == name]
    paths.sort(key=lambda path: (len(path.parts), path))
    if not paths:
        raise BadInput(f"{flag} {folder}: has no {name} in it or below it")
    return paths[0]


def find_or_fetch(
    name: str,
    urls: list[str],
    downloads: Path,
    folder: Path | None,
    read: Callable[[Path], T],
    flag: str = "--source",
) -> T:
    """What `read` gives of the file of that name below `folder`, if `flag` named one, else of the
    first download of which it raises no BadInput."""
    return read(find(folder, name, flag)) if folder else fetch(urls, downloads / name, read)


@contextmanager
def new_tree(output: Path) -> Iterator[Path]:
    """A folder to prepare a whole set in; `output` appears only when it is complete."""
    if output.exists():
        raise BadInput(f"--output {output}: exists already; delete it, or name another")
    remove_leftovers(output.parent, output.name)
    with new_folder(output) as tree:
        yield tree


def run(
    parser: argparse.ArgumentParser,
    find_raw: Callable[[argparse.Namespace], RawSet],
    from_raw: Callable[[list[Path], str, Path, dict], None],
    how_to_get: str = "",
    argv: list[str] | None = None,
) -> None:
    """The command of a set whose samples are prepared one by one.

    how_to_get: the error where no --source is given, for a set that is not downloaded. The others:
    see `prepare`.
    """
    add_jobs(parser)
    options = parse(parser, argv)
    if how_to_get and options.source is None:
        raise BadInput(how_to_get)
    prepare(find_raw(options), from_raw, options.output, options.jobs)
    check_classes(options.output)


def prepare(
    raw: RawSet,
    from_raw: Callable[[list[Path], str, Path, dict], None],
    output: Path,
    processes: int,
) -> None:
    """Writes a whole tree.

    from_raw(files, sample, output, settings) writes the files of one sample, unless they are there,
    and raises BadInput where the raw ones are unusable. predict.py calls it too.
    """
    if both := raw.split["train"].keys() & raw.split["test"].keys():
        raise BadInput(f"{min(both)} is both a training and a test sample, of {len(both)} that are")
    for part, labels in raw.split.items():
        if not labels:
            raise BadInput(f"--output {output}: the source has no sample for {part}.csv")
    begin(output, raw.settings)
    tell_changes(output, raw.split)
    tell_alike(raw.files)
    jobs = {
        sample: (files, from_raw, sample, output, raw.settings)
        for sample, files in raw.files.items()
    }
    started = time.monotonic()
    problems = convert(prepare_sample, jobs, processes, "samples")
    if problems and len(problems) == len(jobs):
        raise BadInput(f"nothing is usable; the first: {next(iter(problems.values()))}")
    seconds = time.monotonic() - started
    samples = [files for files in raw.files.values() if files]
    size = sum(file.stat().st_size for files in samples for file in files if file.is_file())
    rate = len(samples) / seconds / processes
    speed = f"{size / 1e6:.1f} MB read, {seconds:.0f} s, {rate:.2f} samples per second and process"
    finish(output, raw.classes, raw.split, problems, raw.expected, f", {speed}")


def random_share(labels: dict[str, str], seed: int, share: float) -> set[str]:
    """Samples drawn by a seed: the same share of every class. labels: {sample: class}."""
    drawn: set[str] = set()
    for label in set(labels.values()):
        of_class = sorted(name for name in labels if labels[name] == label)
        random.Random(f"{seed} {label}").shuffle(of_class)
        drawn.update(of_class[: round(len(of_class) * share)])
    return drawn


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each column of (N, D), float64; 1 is the deviation of a column of one value."""
    deviation = values.std(0)
    return values.mean(0), np.where(np.ptp(values, axis=0) > 0, deviation, 1.0)


def tell_changes(output: Path, split: dict[str, dict[str, str]]) -> None:
    """Says what is no longer what the tree was prepared of last time."""
    for part, labels in split.items():
        if not (output / f"{part}.csv").is_file():
            continue
        before = {row[0]: row[-1] for row in read_csv(output / f"{part}.csv")}
        gone = [name for name in before if name not in labels]
        other = [name for name in before if labels.get(name, before[name]) != before[name]]
        for names, what in ((gone, "not found any more"), (other, "of another class now")):
            if names:
                few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                print(f"NOTE: {len(names)} {part} samples of last time are {what}: {few}")


def tell_alike(ids: Iterable[str]) -> None:
    """Says which ids a file system that does not tell capital letters would take for one."""
    seen: dict[str, str] = {}
    alike = []
    for name in ids:
        if (other := seen.setdefault(name.lower(), name)) != name:
            alike.append(f"{other} and {name}")
    if alike:
        few = ", ".join(alike[:5]) + (", ..." if len(alike) > 5 else "")
        print(
            f"NOTE: {len(alike)} ids differ from another in capital letters only, {few}: rename "
            "the raw files where the set goes to macOS or Windows, which take both for one"
        )


def check_classes(output: Path) -> None:
    """Raises BadInput for a class of a prepared tree without usable training samples."""
    problems = read_json(output / "report.json")["problems"]
    there = {label for name, label in read_csv(output / "train.csv") if name not in problems}
    lacking = [row[0] for row in read_csv(output / "stat.csv") if row[0] not in there]
    if lacking:
        raise BadInput(
            f"--output {output}: no usable training sample of {len(lacking)} classes, "
            f"{', '.join(lacking)}; add their files to the source and run this again"
        )


def read_json(path: Path) -> dict:
    with naming(path, what="damaged"):
        return json.loads(path.read_text(encoding="utf-8"))


def prepare_sample(
    files: list[Path], from_raw: Callable, sample: str, output: Path, settings: dict
) -> None:
    """Raises BadInput for unusable files, OSError where nothing can be written."""
    if not files:
        raise BadInput(f"{sample}: not in the source")
    if fault := fault_of(sample):
        raise BadInput(f"{files[0]}: as an id {sample!r} {fault}")
    from_raw(files, sample, output, settings)


def begin(output: Path, settings: dict) -> None:
    """Starts or continues `output`. Raises BadInput where it was begun with other settings."""
    begun = output / "settings.json"
    if begun.is_file() and (before := read_json(begun)) != settings:
        raise BadInput(
            f"--output {output}: was begun with {shorten(json.dumps(before), 300)}; "
            "use the same flags, or delete it"
        )
    if not begun.is_file() and output.exists() and any(f.name[0] != "." for f in output.iterdir()):
        raise BadInput(f"--output {output}: holds other files; name another folder")
    write_text(begun, json.dumps(settings))
    clear(output)


def clear(output: Path) -> None:
    """Removes what killed processes left half-written in a tree."""
    for folder in (output, *(f for f in output.iterdir() if f.is_dir())):
        remove_leftovers(folder)


def convert(
    work: Callable, jobs: dict[str, tuple], processes: int, title: str
) -> dict[str, BadInput]:
    """Calls `work(*job)` for every {id: job}, in processes of their own. The first argument are the
    job's files, which are named whatever `work` raises, and where it ends its process.

    Returns {id: what is wrong}, in the order of `jobs`. Raises BadInput where nothing can be
    written: what is done stays done.
    """
    bar = {"total": len(jobs), "desc": title, "disable": None}
    try:
        outcomes = list(tqdm(work_off(work, jobs.values(), processes), **bar))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command goes on") from None
    except OSError as error:
        raise BadInput(f"--output: cannot be written ({error}); run it again to go on") from None
    return {key: problem for key, problem in zip(jobs, outcomes) if problem}


def save_tensor(tensor: torch.Tensor, path: Path) -> None:
    """Atomically, and the same bytes every time: torch.save puts a file's name into it.

    Raises BadInput for features that are not finite.
    """
    check_values(tensor, lambda: path)
    content = io.BytesIO()
    torch.save(tensor, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def check_written(folder: Path, ids: set[str]) -> None:
    """Raises BadInput where a modality's folder has no file or folder of one of these samples."""
    if lacking := ids - {id_of(entry) for entry in entries_of(folder)}:
        raise BadInput(
            f"{folder}: {len(lacking)} of {len(ids)} samples were not written, such as "
            f"{min(lacking)!r}; does this file system take other names for the same? run it again"
        )


def finish(
    output: Path,
    classes: list[str],
    split: dict[str, dict[str, str]],
    problems: dict[str, BadInput] | None = None,
    expected: dict[str, int] | None = None,
    speed: str = "",
) -> None:
    """Writes what makes the tree complete: split files, stat.csv, report.json, checksums.

    split, expected: as in `RawSet`; problems: {id: what is wrong} of samples without usable files.
    Those whose files disagree are left out of the split files, and the set is complete without
    them; left out, too, are those whose names no list can hold.
    """
    clear(output)  # again: a process may take a while to die
    problems = problems or {}
    usable_ids = {s for labels in split.values() for s in labels} - problems.keys()
    for folder in entries_of(output):
        if folder.is_dir() and folder.name != "cache":
            check_written(folder, usable_ids)
    expected = expected or {part: len(labels) for part, labels in split.items()}
    disagreeing = {s for s, problem in problems.items() if isinstance(problem, Disagreement)}
    left_out = {part: sorted(labels.keys() & disagreeing) for part, labels in split.items()}
    for part, labels in split.items():
        kept = [s for s in labels if s not in disagreeing and not fault_of(s)]
        rows = [(s, labels[s]) for s in kept]
        write_csv(output / f"{part}.csv", rows)
    # with a byte-order mark, as in the published file
    write_csv(output / "stat.csv", ([name] for name in classes), start="\ufeff")
    usable = {part: len(labels.keys() - problems.keys()) for part, labels in split.items()}
    report = {"usable": usable, "expected": expected, "left_out": left_out}
    report["problems"] = {sample: str(problem) for sample, problem in problems.items()}
    write_text(output / "report.json", json.dumps(report, indent=1))
    written = manifest.write(output)
    skipped = [problem for sample, problem in problems.items() if sample not in disagreeing]
    for title, some in {
        "skipped ": skipped,
        "left out": [problems[sample] for sample in problems if sample in disagreeing],
    }.items():
        for problem in some[:SHOWN]:
            print(f"{title} {problem}")
        if len(some) > SHOWN:
            print(f"{title} {len(some) - SHOWN} more, named in {output / 'report.json'}")
    if disagreeing:
        print(f"{len(disagreeing)} samples are left out, since their files disagree on how long")
        print("they last; --keep_mismatched, with another --output, keeps them")
    counts = ", ".join(count_of(report, part, usable[part]) for part in split)
    print(f"{final_name(output)}: {counts} samples usable; {written / 1e6:.1f} MB written{speed}")


def count_of(report: dict, part: str, usable: int) -> str:
    """`6693 of 6693 train (6698 less 5 left out)`, of a report.json."""
    expected, left_out = report["expected"][part], len(report["left_out"][part])
    less = f" ({expected} less {left_out} left out)" if left_out else ""
    return f"{usable} of {expected - left_out} {part}{less}"


def check(root: Path) -> None:
    """Whether a tree is what its preparation left, and complete.

    Raises BadInput for a file that is missing, changed or foreign, and for fewer samples than the
    set has without those whose files disagree.
    """
    manifest.check(root)
    report = read_json(root / "report.json")
    report.setdefault("left_out", {part: [] for part in report["expected"]})  # of older trees
    lacking = []
    for part, expected in report["expected"].items():
        samples = [row[0] for row in read_csv(root / f"{part}.csv")]
        usable = sum(sample not in report["problems"] for sample in samples)
        counts = f"{count_of(report, part, usable)} samples"
        print(f"{root}: {counts}")
        if usable != expected - len(report["left_out"][part]):
            lacking.append(counts)
    if lacking:
        shown = "".join(f"\n  {problem}" for problem in list(report["problems"].values())[:SHOWN])
        raise BadInput(f"{root}: {', '.join(lacking)}; mend the raw files and prepare again{shown}")
