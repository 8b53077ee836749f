"""Stored runs -> tables: mean ± standard deviation over seeds, paired differences to uniform.

python report.py runs/avmnist-*            prints Markdown, writes runs/report.md, .csv and .tex
python report.py runs/avmnist-* --output tables/avmnist
python report.py runs/avmnist-* --reference "uniform --encoder_grad_scale 1.5"

Rows with another encoder, fusion or held-out share are compared with the reference in that setting
where it is there.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from utils.atomic import write_text
from utils.command import parser_of
from utils.errors import BadInput, run
from utils.literature import PUBLISHED
from utils.runs import base_of, group, measures_of, read_run, setting_of, trains_heads

REFERENCE = "uniform"  # what the others are compared with, unless told otherwise
LEVEL = 0.95  # of the confidence interval


def mean_std(values: list[float], digits: int = 2) -> str:
    """Mean ± sample standard deviation; the mean alone of one value."""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"


def interval(differences: list[float]) -> tuple[float, float]:
    """Student's confidence interval of the mean of paired differences, at the level LEVEL."""
    n = len(differences)
    reach = student.ppf((1 + LEVEL) / 2, n - 1) * stdev(differences) / n**0.5
    return mean(differences) - reach, mean(differences) + reach


def difference(own: dict[int, float], reference: dict[int, float]) -> str:
    """The paired difference over the seeds both have, as text. own, reference: {seed: accuracy}."""
    pairs = [own[seed] - reference[seed] for seed in own if seed in reference]
    if not pairs:
        return "no common seed"
    if len(pairs) < 2:
        return f"{mean(pairs):+.2f}, one seed"
    low, high = interval(pairs)
    told = f"{mean(pairs):+.2f} [{low:+.2f}, {high:+.2f}]"
    return told if low > 0 or high < 0 else f"{told} not distinguishable"


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
    if published := PUBLISHED.get(every[0]["options"]["dataset"]):
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


def main(argv=None) -> None:
    parser = parser_of("report.py", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="of the files .md, .csv, .tex (default: report beside the first run)",
    )
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help=f"the row that the others are compared with (default: {REFERENCE}, where it is there)",
    )
    args = parser.parse_args(argv)
    groups = group([read_run(folder) for folder in args.runs])
    if args.reference is not None and args.reference not in groups:
        raise BadInput(
            f"--reference {args.reference}: no such row; choose from {', '.join(groups)}"
        )
    found = {label: [measures_of(one) for one in runs] for label, runs in groups.items()}
    tables, text = tabulate(groups, found, args.reference or REFERENCE), caption(groups)
    output = args.output or args.runs[0].parent / "report"
    print(markdown(tables, text))
    write_text(Path(f"{output}.md"), markdown(tables, text) + "\n")
    write_text(Path(f"{output}.tex"), latex(tables, text) + "\n")
    write_text(Path(f"{output}.csv"), comma_separated(groups, found))
    print(f"\nwritten: {output}.md, .csv, .tex")


if __name__ == "__main__":
    run(main)
