"""Runs -> tables of accuracies, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io

from analysis.reported import reported
from analysis.runs import base_of, setting_of, trains_heads
from analysis.statistics import LEVEL, difference, mean_std

REFERENCE = "uniform"  # what the others are compared with, unless told otherwise


def references(groups: dict[str, list[dict]], reference: str) -> dict[str, str]:
    """{row: the row it is compared with}: the reference in the same setting, else the reference.

    The reference itself, in any setting, has none. {} where there is nothing to compare.
    """
    base = base_of([one for runs in groups.values() for one in runs])
    found = {}
    for label, runs in groups.items():
        in_same_setting = " ".join([reference, *setting_of(runs[0]["options"], base)])
        found[label] = next((r for r in (in_same_setting, reference) if r in groups), label)
    return {label: r for label, r in found.items() if label != r}


def tabulate(
    groups: dict[str, list[dict]],
    found: dict[str, list[dict[str, float]]],
    reference: str = REFERENCE,
) -> dict[str, list[list[str]]]:
    """{title: rows of cells, the first the head}: accuracy, macro F1, and what others report.

    found: `measures_of` every run of `groups`; reference: the row that others are compared with.
    """
    seeds = {label: [one["options"]["random_seed"] for one in r] for label, r in groups.items()}
    every = [one for runs in groups.values() for one in runs]
    modalities = max((one["options"]["modalities"] for one in every), key=len)

    def cell(label: str, measure: str) -> str:
        values = [m[measure] for m in found[label] if measure in m]
        if len(values) < len(found[label]):
            untrained = measure.endswith(" head") and not trains_heads(groups[label][0]["options"])
            return "untrained" if untrained else "-"
        return mean_std(values, 1 if measure.startswith(("conflict", "minutes", "peak")) else 2)

    def rows(columns: list[str]) -> list[list[str]]:
        used = [c for c in columns if any(c in m for ms in found.values() for m in ms)]
        table = [["method", "n", *used]]
        return table + [
            [label, str(len(r)), *(cell(label, c) for c in used)] for label, r in groups.items()
        ]

    chosen = ["multimodal", "best on test, as published", "best on validation"]
    own = [f"{m} {what}" for what in ("head", "probe") for m in modalities]
    accuracy = rows(
        [*chosen, *own, *(f"conflict {m}" for m in modalities), "minutes", "peak memory, GB"]
    )
    if compared := references(groups, reference):
        by_seed = {
            label: {s: m["multimodal"] for s, m in zip(seeds[label], found[label])}
            for label in groups
        }
        accuracy[0].insert(3, f"minus {reference}, {LEVEL:.0%} interval")
        for row in accuracy[1:]:
            other = compared.get(row[0])
            row.insert(3, difference(by_seed[row[0]], by_seed[other]) if other else "")
    tables = {
        "Test accuracy, %": accuracy,
        "Macro F1, %": rows(["F1 multimodal", *(f"F1 {name}" for name in own)]),
    }
    branches = ["multimodal", *modalities]
    probed = [*(f"missing/{m}" for m in modalities), *(f"shapley/{m}" for m in modalities)]
    probed = rows([*probed, *(f"calibration/{b}" for b in branches)])
    if len(probed[0]) > 2:
        tables[
            "Probes: multimodal accuracy without X, what X contributes to it, calibration error, %"
        ] = probed
    if published := reported(every[0]["options"]["dataset"]):
        sources = list(dict.fromkeys(source for cells in published.values() for source in cells))
        tables["Reported by others, multimodal / audio / visual, %"] = [
            ["method", *sources],
            *(
                [method, *(cells.get(s, "-") for s in sources)]
                for method, cells in published.items()
            ),
        ]
    return tables


def caption(groups: dict[str, list[dict]]) -> str:
    every = [one for runs in groups.values() for one in runs]
    opt, env, base = every[0]["options"], every[0]["environment"], base_of(every)
    commits = ", ".join(sorted({one["environment"]["commit"] for one in every}))
    hardware = env["gpu"] if opt["device"] == "cuda" else env["cpu"]
    return (
        f"{opt['dataset']}, {base['encoder']}, {base['fusion']}, last of {opt['epochs']} epochs "
        "unless the column says otherwise; mean ± standard deviation over n seeds; "
        "conflict: % of steps with cosine <= 0; intervals: "
        f"Student, paired by seed. {hardware}, torch {env['torch']}, commit {commits}."
    )


def markdown(tables: dict[str, list[list[str]]], text: str) -> str:
    parts = []
    for title, (head, *body) in tables.items():
        lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        parts.append("\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)]))
    return "\n\n".join([*parts, text])


def latex(tables: dict[str, list[list[str]]], text: str) -> str:
    """One tabular per table, in the commands of the booktabs package."""

    def clean(cell: str) -> str:
        for plain, command in (
            ("--", "-{}-"),
            ("_", r"\_"),
            ("%", r"\%"),
            ("±", r"$\pm$"),
            ("<=", r"$\le$"),
        ):
            cell = cell.replace(plain, command)
        return cell

    parts = [f"% {text}"]
    for title, (head, *body) in tables.items():
        lines = [f"% {title}", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
        table = [" & ".join(clean(cell) for cell in row) + r" \\" for row in (head, *body)]
        lines += [table[0], r"\midrule", *table[1:], r"\bottomrule", r"\end{tabular}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def comma_separated(groups: dict[str, list[dict]], found: dict[str, list[dict[str, float]]]) -> str:
    """One line per run and measure, so that others can compute what they want from it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "seed", "measure", "value", "run", "commit"])
    for label, runs in groups.items():
        for one, measures in zip(runs, found[label]):
            where = one["folder"].name, one["environment"]["commit"]
            for measure, value in measures.items():
                seed = one["options"]["random_seed"]
                writer.writerow([label, seed, measure, f"{value:.4f}", *where])
    return file.getvalue()
