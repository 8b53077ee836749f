"""Runs of several tasks on one trunk: their records, and the table that is made from them.

tasks.csv has a line per run of multitask.py: its name, versions and hardware, then every setting
(columns that begin with --), then the test accuracy of each task and the steps in conflict, in %.
Beside it, in tuning/, stands the same of the runs by which learning rates were chosen; accuracies
there are those on held-out digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from analysis import records
from analysis.records import FLAG, SOURCE
from analysis.statistics import explained, mean_std, paired, verdicts
from analysis.tables import Table, number_of, reported
from analysis.trials import RATE
from utils.errors import BadInput

FILE = "tasks.csv"
ALONE = "alone"  # the arm of runs with one of the tasks
ACCURACY, CONFLICT = "accuracy/", "conflict"  # columns
REFERENCE = "uniform"
PAPERS = {"noise_kind": "salt_and_pepper", "noise": [0.0, 0.5]}  # the settings of its Table 5


@dataclass(frozen=True)
class TaskRun:
    """A training. folder: where it is stored; arm: the method with its flags, or ALONE; rate: of
    learning; settings: the same for all that are compared; accuracy: {task: %}; conflict: % of the
    steps, None where no cosine is measured."""

    folder: Path
    arm: str
    seed: int
    rate: float
    settings: dict[str, object]
    environment: dict[str, str]
    accuracy: dict[str, float]
    conflict: float | None

    @property
    def validation(self) -> float:
        """By which rates are chosen."""
        return mean(self.accuracy.values())

    @property
    def row(self) -> str:
        """Of the table."""
        return f"{next(iter(self.accuracy))} {ALONE}" if self.arm == ALONE else self.arm


def rows_of(runs: Iterable[TaskRun]) -> dict[str, list[TaskRun]]:
    """{row: its runs}, in the order in which they are met."""
    rows: dict[str, list[TaskRun]] = {}
    for run in runs:
        rows.setdefault(run.row, []).append(run)
    return rows


def write(folder: Path, runs: list[TaskRun]) -> None:
    """Raises BadInput where they are of several commits, versions or kinds of hardware."""
    records.check_one_source(runs)
    lines = [
        {"run": run.folder.stem}
        | {key: run.environment[key] for key in SOURCE}
        | {f"{FLAG}method": run.arm, f"{FLAG}seed": run.seed}
        | {FLAG + RATE: records.cell_of(run.rate)}
        | {FLAG + name: records.cell_of(value) for name, value in run.settings.items()}
        | {ACCURACY + task: f"{value:.6g}" for task, value in run.accuracy.items()}
        | ({} if run.conflict is None else {CONFLICT: f"{run.conflict:.6g}"})
        for of_row in rows_of(runs).values()
        for run in of_row
    ]
    records.write_lines(folder / FILE, lines)


def read(folder: Path) -> list[TaskRun]:
    """Raises BadInput where the file is not as it was written."""
    path = folder / FILE
    needed = ["run", *SOURCE, f"{FLAG}method", f"{FLAG}seed", FLAG + RATE, f"{FLAG}noise"]
    runs: dict[str, TaskRun] = {}
    for number, line in enumerate(records.read_lines(path, needed), start=2):
        where, name = Path(f"{path} line {number}"), line["run"]
        if name in runs:
            raise BadInput(f"{where}: {name} is there twice; take one out")
        settings = {c.removeprefix(FLAG): t for c, t in line.items() if c.startswith(FLAG)}
        arm, seed, rate = (settings.pop(name) for name in ("method", "seed", RATE))
        numbers = {
            column: records.number_of(where, column, cell)
            for column, cell in line.items()
            if cell and (column == CONFLICT or column.startswith(ACCURACY))
        }
        conflict = numbers.pop(CONFLICT, None)
        runs[name] = TaskRun(
            folder / name,
            arm,
            int(records.number_of(where, f"{FLAG}seed", seed)),
            records.number_of(where, FLAG + RATE, rate),
            {setting: records.value_of(cell) for setting, cell in settings.items()},
            {key: line[key] for key in SOURCE},
            {column.removeprefix(ACCURACY): value for column, value in numbers.items()},
            conflict,
        )
        if not numbers or not all(0 <= value <= 100 for value in numbers.values()):
            raise BadInput(f"{where}: needs accuracies of tasks, 0 to 100, has {numbers}")
    first, *others = runs.values()
    for run in others:
        if run.settings != first.settings:
            raise BadInput(f"{run.folder}: has other settings than {first.folder}; take one out")
    records.check_one_source(list(runs.values()))
    return list(runs.values())


def accuracies(runs: list[TaskRun], task: str) -> list[float]:
    """Of every run that has the task."""
    return [run.accuracy[task] for run in runs if task in run.accuracy]


def means_over_tasks(runs: list[TaskRun]) -> dict[int, float]:
    """{seed: mean accuracy}."""
    return {run.seed: mean(run.accuracy.values()) for run in runs}


def table(rows: dict[str, list[TaskRun]]) -> Table:
    """Test accuracy of every task, their mean, its difference to the plain sum of losses, and what
    the paper has where the settings are its own."""
    names = max((list(runs[0].accuracy) for runs in rows.values()), key=len)
    settings = next(iter(rows.values()))[0].settings
    papers = of_paper() if PAPERS.items() <= settings.items() else {}
    whole = {row: runs for row, runs in rows.items() if list(runs[0].accuracy) == names}
    means = {row: means_over_tasks(runs) for row, runs in whole.items()}
    reference = means.get(REFERENCE, {})
    pairs = {row: paired(of_row, reference) for row, of_row in means.items() if row != REFERENCE}
    said = verdicts({row: values for row, values in pairs.items() if len(values) > 1})
    has_rates = len({run.rate for runs in rows.values() for run in runs}) > 1
    head = ["method", *["rate"] * has_rates, "n", *names, *["the paper"] * bool(papers), "mean"]
    head += [f"mean minus {REFERENCE}, 95% interval", "conflict %"]
    lines = []
    for row, runs in rows.items():
        conflicts = [run.conflict for run in runs if run.conflict is not None]
        tasks = [accuracies(runs, name) for name in names]
        lines.append(
            [
                row,
                *[f"{runs[0].rate:g}"] * has_rates,
                number_of(runs),
                *(mean_std(values) if values else "-" for values in tasks),
                *[papers.get(row, "-")] * bool(papers),
                mean_std(list(means[row].values())) if row in means else "-",
                said.get(row, ""),
                mean_std(conflicts, 1) if conflicts else "-",
            ]
        )
    return Table("Test accuracy, %", head, lines)


def caption(runs: list[TaskRun]) -> str:
    settings, source = runs[0].settings, runs[0].environment
    flags = " ".join(f"--{name} {value}" for name, value in settings.items())
    rates = {run.rate for run in runs}
    one = f" --{RATE} {rates.pop():g}" if len(rates) == 1 else ""
    chosen = "" if one else "; rate: of the highest mean accuracy on held-out digits, other seeds"
    compared = len(rows_of(run for run in runs if run.arm != ALONE)) - 1
    hardware = source["cpu"] if source["gpu"] == "none" else source["gpu"]
    return (
        f"multitask.py {flags}{one}; mean ± standard deviation over seeds{chosen}; conflict: % of "
        f"steps with cosine <= 0; differences: {explained(compared)}. {hardware}, torch "
        f"{source['torch']}, commit {source['commit']}."
    )


def of_paper() -> dict[str, str]:
    """{method: accuracies of the tasks, in order} of Table 5."""
    cells: dict[str, list[str]] = {}
    for line in reported("multimnist"):
        cells.setdefault(line["method"], []).append(line["value"])
    return {method: " / ".join(values) for method, values in cells.items()}
