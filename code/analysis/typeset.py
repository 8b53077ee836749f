"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Iterable
from statistics import mean, stdev

from analysis.names import name_of
from analysis.runs import Run
from analysis.statistics import interval
from analysis.tables import REFERENCE, Table, all_runs, best, compared_with, heading, of_seeds
from models.multimodal import MULTIMODAL
from utils.errors import BadInput


def markdown(tables: list[Table], text: str) -> str:
    parts = []
    for title, head, rows in tables:
        lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        parts.append("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]))
    return "\n\n".join([*parts, text])


def short(head: str) -> str:
    """The name of a column for `--columns`: "minus uniform" of "minus uniform, 95% interval"."""
    return head.split(",")[0]


ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
}


def escaped(text: str) -> str:
    """Text as LaTeX shows it, with the sign of negative numbers as a minus."""
    text = text.translate(str.maketrans(ESCAPED)).replace("--", "-{}-")
    return re.sub(r"(?<![\w}-])-(?=\d)", "$-$", text)


def chosen(groups: dict[str, list[Run]], tables: list[Table], columns: list[str]) -> Table:
    """One table of what was measured, with the columns asked for.

    columns: `short` headings of any table; [] for accuracies and difference. Raises BadInput for
    one that is not there.
    """
    measured = [table for table in tables if "n" in table.head]
    known = {short(column[0]): column for t in measured for column in zip(t.head, *t.rows)}
    usual = [*all_runs(groups)[0].selected, MULTIMODAL]
    for name in map(short, tables[0].head):
        if name.startswith(("minus ", "the paper")) or name.endswith(" head"):
            usual.append(name)
    for name in columns:
        if name not in known:
            raise BadInput(f"--columns {name}: no such column; choose from {', '.join(known)}")
    head, *rows = zip(*(known[name] for name in dict.fromkeys(["method", *(columns or usual)])))
    return Table(tables[0].title, list(head), [list(row) for row in rows])


def latex(groups: dict[str, list[Run]], tables: list[Table], columns: list[str], text: str) -> str:
    """A tabular of what was measured, and one of what others report, in the commands of the
    booktabs package; means that are `best` are bold. columns: as `chosen` takes them.
    """
    highest = best(groups)

    def cell_of(arm: str, head: str, cell: str) -> str:
        number, *spread = escaped(cell).split(" ", 1)
        if (arm, head) in highest:
            number = rf"\textbf{{{number}}}"
        return " ".join([number, *spread])

    _, head, rows = chosen(groups, tables, columns)
    cells = [
        [escaped(name_of(arm)), *(cell_of(arm, *c) for c in zip(head[1:], row))]
        for arm, *row in rows
    ]
    parts = [f"% {text}", tabular(head, cells)]
    for title, head, rows in tables:
        if "n" not in head:
            parts.append(f"% {title}\n{tabular(head, [map(escaped, row) for row in rows])}")
    return "\n\n".join(parts)


def tabular(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """rows: of escaped cells."""
    head = [*map(escaped, head)]
    lines = [" & ".join(row) + r" \\" for row in [head, *rows]]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    lines = [begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


def summary(groups: dict[str, list[Run]], reference: str = REFERENCE) -> str:
    """CSV: a line per arm and measure with n, mean and standard deviation, and the mean difference
    to the arm it is `compared_with`, paired by seed, with the ends of its interval."""
    others, flags = compared_with(groups, reference), list(all_runs(groups)[0].selected)
    head = ["method", *flags, "measure", "n", "mean", "std", f"minus {reference}", "low", "high"]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for arm, runs in groups.items():
        given = [runs[0].options.get(flag, "") for flag in flags]
        for measure in sorted({measure for run in runs for measure in run.measures}):
            values = of_seeds(runs, measure)
            base = of_seeds(groups[others[arm]], measure) if arm in others else {}
            pairs = [values[seed] - base[seed] for seed in values if seed in base]
            numbers = [mean(values.values())]
            numbers += [stdev(values.values())] if len(values) > 1 else [None]
            numbers += [mean(pairs), *interval(pairs)] if len(pairs) > 1 else [None] * 3
            cells = ("" if number is None else f"{number:.4f}" for number in numbers)
            writer.writerow([arm, *given, heading(measure), len(values), *cells])
    return file.getvalue()
