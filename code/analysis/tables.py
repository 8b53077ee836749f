"""Runs -> tables of accuracies, as Markdown, LaTeX and CSV."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from analysis.runs import ACCURACY, Run, base_of, setting_of, trains_heads
from analysis.statistics import LEVEL, difference, mean_std
from dataset._samples import read_csv
from models.multimodal import MULTIMODAL
from training.messages import SELECTIONS
from utils.errors import BadInput

REFERENCE = "uniform"  # the arm that the others are compared with
PROBES = "Probes: multimodal accuracy without X, what X contributes to it, calibration error, %"
REPORTED = Path(__file__).resolve().parents[2] / "results" / "reported_by_others.csv"
HEADINGS = SELECTIONS | {"peak_gb": "peak memory, GB"}


class Table(NamedTuple):
    title: str
    head: list[str]
    rows: list[list[str]]


def heading(measure: str) -> str:
    """How tables write a measure of `Run.measures`: macro_f1/audio -> F1 audio head."""
    kind, _, branch = measure.partition("/")
    if kind == "conflict":
        return f"conflict {branch}"
    if kind not in ("accuracy", "macro_f1"):
        return HEADINGS.get(measure, measure)
    if branch != MULTIMODAL and not branch.endswith(" probe"):
        branch += " head"
    return branch if kind == "accuracy" else f"F1 {branch}"


def cell(runs: list[Run], measure: str) -> str:
    """Mean and deviation of a measure over the runs of an arm, or why there is none."""
    values = [run.measures[measure] for run in runs if measure in run.measures]
    if len(values) < len(runs):
        is_head = heading(measure).endswith(" head")
        return "untrained" if is_head and not trains_heads(runs[0].options) else "-"
    return mean_std(values, 1 if measure.startswith(("conflict/", "minutes", "peak_gb")) else 2)


def table_of(groups: dict[str, list[Run]], title: str, measures: list[str]) -> Table:
    """A row per arm, a column per measure that some run has."""
    known = {measure for runs in groups.values() for run in runs for measure in run.measures}
    shown = [measure for measure in measures if measure in known]
    rows = [[arm, str(len(r)), *(cell(r, m) for m in shown)] for arm, r in groups.items()]
    return Table(title, ["method", "n", *map(heading, shown)], rows)


def differences(groups: dict[str, list[Run]], reference: str = REFERENCE) -> dict[str, str]:
    """{arm: accuracy minus that of `reference` in the same setting, else of `reference` itself}.

    The reference, in any setting, has none. {} where there is nothing to compare.
    """
    base = base_of([run for runs in groups.values() for run in runs])
    accuracy = {a: {r.seed: r.measures[ACCURACY] for r in runs} for a, runs in groups.items()}
    texts = {}
    for arm, runs in groups.items():
        other = " ".join([reference, *setting_of(runs[0].options, base)])
        if other not in groups:
            other = reference
        if other in groups and other != arm:
            texts[arm] = difference(accuracy[arm], accuracy[other])
    return texts


def reported(dataset: str) -> dict[str, dict[str, str]]:
    """{method: {source: multimodal / audio / visual test accuracy in %}}, what others report.

    Marks: c as quoted by a third party, f read off the paper's Figure 1, r from memory, not proof.
    Never mixed with what is measured here. {} where there is nothing on a data set.
    """
    cells: dict[str, dict[str, str]] = {}
    names, *rows = read_csv(REPORTED) or [[]]
    if lacking := {"dataset", "method", "source", "accuracy"} - set(names):
        raise BadInput(f"{REPORTED}: its first line names no column {min(lacking)}")
    for values in rows:
        if len(values) != len(names):
            raise BadInput(f"{REPORTED}: needs {','.join(names)}, has {','.join(values)}")
        row = dict(zip(names, values))
        if row["dataset"] == dataset:
            cells.setdefault(row["method"], {})[row["source"]] = row["accuracy"]
    return cells


def tabulate(groups: dict[str, list[Run]], reference: str = REFERENCE) -> list[Table]:
    """Accuracy, macro F1, probes and what others report; compared with the arm `reference`."""
    runs = [run for of_arm in groups.values() for run in of_arm]
    modalities = max((run.modalities for run in runs), key=len)
    heads = [*modalities, *(f"{m} probe" for m in modalities)]
    accuracy = [ACCURACY, "best_test", "best_val", *(f"accuracy/{name}" for name in heads)]
    cost = [*(f"conflict/{m}" for m in modalities), "minutes", "peak_gb"]
    tables = [
        table_of(groups, "Test accuracy, %", accuracy + cost),
        table_of(groups, "Macro F1, %", [f"macro_f1/{name}" for name in (MULTIMODAL, *heads)]),
    ]
    if compared := differences(groups, reference):
        tables[0].head.insert(3, f"minus {reference}, {LEVEL:.0%} interval")
        for row in tables[0].rows:
            row.insert(3, compared.get(row[0], ""))
    probed = [
        f"{probe}/{m}" for probe in ("missing", "missing_feature", "shapley") for m in modalities
    ]
    probed += [f"calibration/{branch}" for branch in (MULTIMODAL, *modalities)]
    probes = table_of(groups, PROBES, probed)
    if len(probes.head) > 2:
        tables.append(probes)
    if published := reported(runs[0].options["dataset"]):
        sources = list(dict.fromkeys(source for cells in published.values() for source in cells))
        rows = [[name, *(cells.get(s, "-") for s in sources)] for name, cells in published.items()]
        title = "Reported by others, multimodal / audio / visual, %"
        tables.append(Table(title, ["method", *sources], rows))
    return tables


def caption(groups: dict[str, list[Run]]) -> str:
    runs = [run for of_arm in groups.values() for run in of_arm]
    options, environment, base = runs[0].options, runs[0].environment, base_of(runs)
    commits = ", ".join(sorted({run.environment["commit"] for run in runs}))
    hardware = environment["gpu" if options["device"] == "cuda" else "cpu"]
    return (
        f"{options['dataset']}, {base['encoder']}, {base['fusion']}, last of {options['epochs']} "
        "epochs unless the column says otherwise; mean ± standard deviation over n seeds; "
        "conflict: % of steps with cosine <= 0; intervals: "
        f"Student, paired by seed. {hardware}, torch {environment['torch']}, commit {commits}."
    )


def markdown(tables: list[Table], text: str) -> str:
    parts = []
    for title, head, rows in tables:
        lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        parts.append("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]))
    return "\n\n".join([*parts, text])


def latex(tables: list[Table], text: str) -> str:
    """One tabular per table, in the commands of the booktabs package."""
    commands = {"--": "-{}-", "_": r"\_", "%": r"\%", "±": r"$\pm$", "<=": r"$\le$"}

    def line(row: list[str]) -> str:
        joined = " & ".join(row)
        for plain, command in commands.items():
            joined = joined.replace(plain, command)
        return joined + r" \\"

    parts = [f"% {text}"]
    for title, head, rows in tables:
        lines = [f"% {title}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
        lines += [line(head), r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def comma_separated(groups: dict[str, list[Run]]) -> str:
    """One line per run and measure, so that others can compute what they want from it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "seed", "measure", "value", "run", "commit"])
    for arm, runs in groups.items():
        for run in runs:
            source = run.folder.name, run.environment["commit"]
            for measure, value in run.measures.items():
                writer.writerow([arm, run.seed, heading(measure), f"{value:.4f}", *source])
    return file.getvalue()
