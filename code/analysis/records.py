"""Records: what runs gave, in files that are committed; tables and figures are made from them.

runs.csv     a line per run: name, data, versions, hardware, then every flag that changes results
             (columns that begin with --), then every measure of `Run.measures`
epochs.csv   test and validation accuracies after every epoch, for figures that show them
steps.csv    what some of the runs measured at every step, for figures of a single run

A folder with runs.csv can be given to report.py and draw.py in place of run folders.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from analysis.runs import ACCURACY, RUNS, Run, by_data, group, read_runs
from dataset._samples import read_csv, write_csv
from training.flags import FREE
from training.messages import main_branch
from training.stored import completed, flags_of_run, readers_of_run
from utils.errors import BadInput

ABOUT = ["run", "data", "classes", "preparation", "readers"]
SOURCE = ["commit", "torch", "gpu", "python", "cpu"]
SHARED = ["commit", "torch", "gpu"]  # the same for all runs that share a table
CHOICES = ["dataset", "modalities", "method", "encoder", "fusion", "random_seed", "epochs"]
SAMPLES, FLAG = "samples/", "--"  # how columns of either kind begin
CURVES = ("test/accuracy/", "val/accuracy/")  # of metrics.jsonl, what epochs.csv holds


@dataclass(frozen=True)
class Recorded(Run):
    """A run as records tell it. Its `folder` is not there: it is the records' folder and a name."""

    data_name: str = ""
    measures: dict[str, float] | None = None
    recorded_steps: tuple[dict, ...] = ()

    @property
    def validation(self) -> float | None:
        return self.measures["val"] / 100 if "val" in self.measures else None

    @property
    def steps(self) -> list[dict]:
        if not self.recorded_steps:
            raise BadInput(f"{self.folder}: these records hold no steps of it; draw its run folder")
        return list(self.recorded_steps)

    def curve(self, branch: str) -> list[float]:
        if not self.epochs:
            raise BadInput(f"{self.folder.parent}: has no epochs.csv, which this figure needs")
        return super().curve(branch)

    def check_finished(self) -> None:
        """It was, when it was recorded."""


def read(paths: list[Path]) -> list[Run]:
    """The runs in run folders, or in folders of records. Raises BadInput where these are mixed, and
    for records on the same data that do not belong together."""
    folders = [path for path in paths if not path.is_file()]
    recorded = [runs for path in folders if (runs := recorded_in(path))]
    if recorded and len(recorded) < len(folders):
        raise BadInput(f"{folders[0]}: give records, or run folders, but not both")
    if not recorded:
        return read_runs(paths)
    runs = [run for of_path in recorded for run in of_path]
    for runs_on_same_data in by_data(runs).values():
        check_one_source(runs_on_same_data)
    return runs


def recorded_in(path: Path) -> list[Recorded]:
    """The runs of a records folder, or that of them which `folder/name` names; [] where no records
    are."""
    if (path / "runs.csv").is_file():
        return read_records(path)
    if path.is_dir() or not (path.parent / "runs.csv").is_file():
        return []
    runs = read_records(path.parent)
    if path not in [run.folder for run in runs]:
        names = ", ".join(run.folder.name for run in runs)
        raise BadInput(f"{path}: no such run is recorded; choose from {names}")
    return [run for run in runs if run.folder == path]


def check_one_source(runs: list[Run]) -> None:
    """Raises BadInput for runs of several commits, versions of torch, or kinds of hardware."""
    for key in SHARED:
        by_value = {run.environment[key]: run for run in reversed(runs)}
        if len(by_value) > 1:
            (value, run), (other, another) = list(by_value.items())[:2]
            raise BadInput(
                f"{run.folder}: {key} {value}, {another.folder}: {key} {other}; records are of one "
                f"{key}, so that a table's rows can be compared; run some of them again"
            )


# Writing


def write_records(
    folder: Path, runs: list[Run], with_steps: Collection[str] = (), with_epochs: bool = True
) -> None:
    """Writes runs.csv and epochs.csv, and steps.csv of the runs that `with_steps` names.

    runs: from run folders. with_epochs: else no epochs.csv, which is large where runs are many.
    Raises BadInput where runs do not belong together, before anything is written.
    """
    ordered = [run for of_arm in group(runs).values() for run in of_arm]
    check_one_source(ordered)
    names = Counter(run.folder.name for run in ordered)
    for name in [*with_steps, *names]:
        if names[name] != 1:
            raise BadInput(f"{name}: names {names[name]} of these runs; must be one")
    write_lines(folder / "runs.csv", [line_of(run) for run in ordered])
    epochs = [
        {"run": run.folder.name, "epoch": record["epoch"]}
        | {key: f"{value:.6g}" for key, value in record.items() if key.startswith(CURVES)}
        for run in ordered
        if with_epochs
        for record in run.epochs
    ]
    steps = [
        {"run": run.folder.name}
        | {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in step.items()}
        for run in ordered
        if run.folder.name in with_steps
        for step in run.steps
    ]
    for name, lines in (("epochs.csv", epochs), ("steps.csv", steps)):
        if lines:
            write_lines(folder / name, lines)
        else:  # of other runs
            (folder / name).unlink(missing_ok=True)


def write_lines(path: Path, lines: list[dict]) -> None:
    """A table with a column for each key that some line has."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    columns.sort(key=lambda column: (is_measure(column), column.startswith(FLAG)))
    write_csv(path, [columns, *([str(line.get(c, "")) for c in columns] for line in lines)])


def is_measure(column: str) -> bool:
    """Of a column of runs.csv."""
    return column not in (*ABOUT, *SOURCE) and not column.startswith((FLAG, SAMPLES))


def line_of(run: Run) -> dict[str, object]:
    """{column: cell} of a run in runs.csv."""
    content = {"options": run.options, "data": run.data}
    _, touches, _ = flags_of_run(content)
    flags = dict.fromkeys(CHOICES) | dict.fromkeys(f for f in touches if touches[f] not in FREE)
    values = {flag: run.options[flag] for flag in flags if flag in run.options}
    values["modalities"] = ",".join(run.modalities)
    made = json.dumps([run.data.get("classes"), run.data.get("preparation")])
    about = [
        run.folder.name,
        run.data_name,
        len(run.data.get("classes", [])),
        hashlib.sha256(made.encode()).hexdigest()[:12],
        ",".join(f"{m}={reader}" for m, reader in readers_of_run(content).items()),
    ]
    return (
        dict(zip(ABOUT, about))
        | {SAMPLES + split: count for split, count in run.data.get("samples", {}).items()}
        | {key: run.environment[key] for key in SOURCE}
        | {FLAG + flag: cell_of(RUNS if "/" in str(v) else v) for flag, v in values.items()}
        | run.measures
    )


def cell_of(value: object) -> str:
    """JSON, or a text as it is where it cannot be taken for something else."""
    if isinstance(value, str) and value and value_of(value) == value:
        return value
    return json.dumps(value)


def value_of(cell: str) -> object:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


# Reading


def read_records(folder: Path) -> list[Recorded]:
    """The runs of a folder with runs.csv. Raises BadInput where a file is not as it was written."""
    path = folder / "runs.csv"
    lines = read_lines(path, [*ABOUT, *SOURCE, *(FLAG + flag for flag in CHOICES), ACCURACY])
    epochs, steps = (
        read_series(folder / f"{name}.csv", name) if (folder / f"{name}.csv").is_file() else {}
        for name in ("epochs", "steps")
    )
    runs: dict[str, Recorded] = {}
    for number, line in enumerate(lines, start=2):
        name = line["run"]
        if name in runs:
            raise BadInput(f"{path} line {number}: {name} is there twice; take one out")
        runs[name] = run_of(path, number, line, epochs.get(name, []), steps.get(name, []))
        if epochs:
            check_curve(runs[name])
    if strange := (epochs.keys() | steps.keys()) - runs.keys():
        raise BadInput(f"{path}: has no {min(strange)}, which its epochs.csv or steps.csv has")
    return list(runs.values())


def run_of(path: Path, number: int, line: dict, epochs: list, steps: list) -> Recorded:
    """The run of a line of runs.csv. Raises BadInput where it says what no run can have."""
    cells = {column: cell for column, cell in line.items() if cell}
    options = {c.removeprefix(FLAG): value_of(t) for c, t in cells.items() if c.startswith(FLAG)}
    options["modalities"] = cells[FLAG + "modalities"].split(",")
    data = {
        "classes": cells["classes"],
        "preparation": cells["preparation"],
        "readers": dict(pair.split("=") for pair in cells["readers"].split(",")),
        "samples": {c.removeprefix(SAMPLES): n for c, n in cells.items() if c.startswith(SAMPLES)},
    }
    environment = {key: cells[key] for key in SOURCE}
    where = Path(f"{path} line {number}")
    content = {"options": options, "environment": environment, "data": data}
    defaults, _, _ = flags_of_run(content)
    if strange := options.keys() - defaults.keys():
        raise BadInput(f"{where}: --{min(strange)} is no flag of this run; undo the change")
    measures = {c: number_of(where, c, cell) for c, cell in cells.items() if is_measure(c)}
    data["samples"] = {k: int(number_of(where, SAMPLES + k, n)) for k, n in data["samples"].items()}
    return Recorded(
        path.parent / cells["run"],
        completed(where, content),
        environment,
        data,
        epochs,
        data_name=cells["data"],
        measures=measures,
        recorded_steps=tuple(steps),
    )


def read_lines(path: Path, needed: list[str]) -> list[dict[str, str]]:
    """{column: cell} of each line. Raises BadInput for a lacking or double column, an empty needed
    cell, and a line of another length."""
    columns, *rows = read_csv(path) or [[]]
    for column in needed:
        if columns.count(column) != 1:
            raise BadInput(f"{path}: has {columns.count(column)} columns {column}; must be one")
    if doubled := {column for column in columns if columns.count(column) > 1}:
        raise BadInput(f"{path}: has column {min(doubled)} twice")
    lines = []
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise BadInput(f"{path} line {number}: {len(row)} cells, the first has {len(columns)}")
        lines.append(dict(zip(columns, row)))
        if empty := [column for column in needed if not lines[-1][column]]:
            raise BadInput(f"{path} line {number}: {empty[0]} is empty")
    if not lines:
        raise BadInput(f"{path}: holds no run")
    return lines


def read_series(path: Path, kind: str) -> dict[str, list[dict]]:
    """{run: its records, in order} of epochs.csv or steps.csv.

    Raises BadInput where one is lacking or there twice.
    """
    key, series = kind.removesuffix("s"), {}
    for number, line in enumerate(read_lines(path, ["run", key]), start=2):
        where, run = Path(f"{path} line {number}"), line.pop("run")
        record = {k: number_of(where, k, cell) for k, cell in line.items() if cell}
        record |= {k: int(record[k]) for k in ("epoch", "step") if k in record}
        series.setdefault(run, []).append(record)
        if record[key] != len(series[run]) - 1:
            raise BadInput(f"{where}: {key} {record[key]} of {run} follows {len(series[run]) - 2}")
    return series


def number_of(where: Path, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{where}: {column} {cell!r} is no number")
    return value


def check_curve(run: Recorded) -> None:
    """Raises BadInput where epochs.csv does not end with the accuracy of runs.csv."""
    count, branch = run.options["epochs"], main_branch(run.modalities)
    ends = [100 * record[f"test/accuracy/{branch}"] for record in run.epochs]
    if len(ends) != count or not math.isclose(ends[-1], run.measures[ACCURACY], abs_tol=1e-3):
        raise BadInput(
            f"{run.folder}: epochs.csv has {len(ends)} epochs that end with {ends[-1:]}, runs.csv "
            f"says {count} and {run.measures[ACCURACY]}; write both anew"
        )
