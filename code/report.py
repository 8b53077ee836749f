"""Stored runs -> tables: mean ± standard deviation over seeds, paired differences to uniform.

python report.py runs/avmnist-*            prints Markdown, writes runs/report.md, .csv and .tex
python report.py runs/avmnist-* --output tables/avmnist
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from utils import registry
from utils.atomic import write_text
from utils.checkpoint import read_options
from utils.errors import BadInput, run
from utils.literature import PUBLISHED
from utils.record import cost_of, read_jsonl
from utils.summary import main_branch, selections

VARIES = {
    "random_seed",
    "run_name",
    "resume",
    "num_workers",
    "tensorboard",
    "ckpt_path",
    "data_root",
}


def read_run(folder: Path) -> dict:
    """Options, environment, epochs and probes of a run. Raises BadInput unless complete."""
    content = read_options(folder)
    epochs = read_jsonl(folder / "metrics.jsonl")
    wanted = content["options"]["epochs"]
    if len(epochs) < wanted:
        raise BadInput(f"{folder}: {len(epochs)} of {wanted} epochs done; finish it with --resume")
    if [record["epoch"] for record in epochs] != list(range(wanted)):
        raise BadInput(f"{folder}: metrics.jsonl does not hold epochs 0 to {wanted - 1}, each once")
    content["probes"] = {}
    for file in sorted(folder.glob("probe_*.json")):
        name, probe = file.stem.removeprefix("probe_"), json.loads(file.read_text())
        if (probe["checkpoint"], probe["split"]) != ("last", "test"):
            raise BadInput(
                f"{file}: of {probe['checkpoint']}.pt on the {probe['split']} split, tables show "
                f"the last epoch on the test split; run evaluate.py {folder} --probe {name} again"
            )
        content["probes"][name] = probe["scores"]
    return content | {"folder": folder, "epochs": epochs}


def own_flags(method: str) -> dict:
    """{flag: default} of what the method's file adds to the command line."""
    parser = argparse.ArgumentParser()
    build = registry.load("methods", method, "--method").Method
    if hasattr(build, "add_options"):
        build.add_options(parser)
    return vars(parser.parse_args([]))


def label_of(options: dict) -> str:
    """The method, with those of its own flags that are not at their default."""
    if len(options["modalities"]) == 1:
        return f"{options['modalities'][0]} alone"
    changed = {k: options[k] for k, v in own_flags(options["method"]).items() if options[k] != v}
    return " ".join([options["method"], *(f"--{k} {v}" for k, v in changed.items())])


def group(runs: list[dict]) -> dict[str, list[dict]]:
    """{label: runs that differ in their seed only}.

    Raises BadInput for a seed that occurs twice, or for runs that differ in more than their method
    and its own flags, naming the difference.
    """
    groups: dict[str, list[dict]] = {}
    free = VARIES.union(
        {"method", "modalities"}, *(own_flags(r["options"]["method"]) for r in runs)
    )
    first = max(runs, key=lambda r: len(r["options"]["modalities"]))
    for r in runs:
        opt, label = r["options"], label_of(r["options"])
        keys = opt.keys() | first["options"].keys()
        if opt["modalities"] != first["options"]["modalities"]:  # fewer, with fewer flags
            keys = opt.keys() & first["options"].keys()
        for key in sorted(keys - free):
            if opt.get(key) != first["options"].get(key):
                raise BadInput(
                    f"{r['folder']}: --{key} {opt.get(key)}, but {first['folder']} has "
                    f"{first['options'].get(key)}; only runs with the same options share a table"
                )
        if opt["random_seed"] in [o["options"]["random_seed"] for o in groups.get(label, [])]:
            raise BadInput(f"{r['folder']}: seed {opt['random_seed']} of {label} is there twice")
        groups.setdefault(label, []).append(r)
    return groups


REFERENCE = "uniform"  # what the others are compared with
LEVEL = 0.95  # of the confidence interval


def conflict_rate(records: list[dict], encoder: str) -> float | None:
    values = [r[f"cosine/{encoder}"] for r in records if f"cosine/{encoder}" in r]
    return sum(v <= 0 for v in values) / len(values) if values else None


def trains_heads(options: dict) -> bool:
    """Does the accuracy of the unimodal heads mean something?"""
    method = registry.load("methods", options["method"], "--method").Method
    return getattr(method, "trains_unimodal_heads", True) or len(options["modalities"]) == 1


def measures_of(one: dict) -> dict[str, float]:
    """{measure: value} of a run, shares in percent; what was not measured is left out."""
    opt, found = one["options"], {}
    branch = main_branch(opt["modalities"])
    chosen = selections(one["epochs"], branch)
    last = chosen["last epoch"]
    found["multimodal"] = 100 * last[f"test/accuracy/{branch}"]
    for selection, record in list(chosen.items())[1:]:
        found[selection] = 100 * record[f"test/accuracy/{branch}"]
    found["F1 multimodal"] = 100 * last[f"test/macro_f1/{branch}"]
    heads = trains_heads(opt)
    steps = read_jsonl(one["folder"] / "steps.jsonl")
    for modality in opt["modalities"]:
        if heads:
            found[f"{modality} head"] = 100 * last[f"test/accuracy/{modality}"]
            found[f"F1 {modality} head"] = 100 * last[f"test/macro_f1/{modality}"]
        if linear := one["probes"].get("linear"):
            found[f"{modality} probe"] = 100 * linear[f"accuracy/{modality} probe"]
            found[f"F1 {modality} probe"] = 100 * linear[f"macro_f1/{modality} probe"]
        if (rate := conflict_rate(steps, modality)) is not None:
            found[f"conflict {modality}"] = 100 * rate
    for name, scores in one["probes"].items():
        if name != "linear":
            found |= {key: 100 * share for key, share in scores.items()}
    found |= cost_of(one["folder"])
    return found


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


def tabulate(
    groups: dict[str, list[dict]], found: dict[str, list[dict[str, float]]]
) -> dict[str, list[list[str]]]:
    """{title: rows of cells, the first the head}: accuracy, macro F1, and what others report.

    found: `measures_of` every run of `groups`.
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
    if REFERENCE in groups and len(groups) > 1:
        by_seed = {
            label: {s: m["multimodal"] for s, m in zip(seeds[label], found[label])}
            for label in groups
        }
        accuracy[0].insert(3, f"minus {REFERENCE}, {LEVEL:.0%} interval")
        for row in accuracy[1:]:
            same = row[0] == REFERENCE
            row.insert(3, "" if same else difference(by_seed[row[0]], by_seed[REFERENCE]))
    tables = {
        "Test accuracy, %": accuracy,
        "Macro F1, %": rows(["F1 multimodal", *(f"F1 {name}" for name in own)]),
    }
    branches = ["multimodal", *modalities]
    probed = [*(f"missing/{m}" for m in modalities), *(f"shapley/{m}" for m in modalities)]
    probed = rows([*probed, *(f"calibration/{b}" for b in branches)])
    if len(probed[0]) > 2:
        tables["Probes of evaluate.py on the test split, %"] = probed
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
    opt, env = every[0]["options"], every[0]["environment"]
    commits = ", ".join(sorted({one["environment"]["commit"] for one in every}))
    hardware = env["gpu"] if opt["device"] == "cuda" else env["cpu"]
    return (
        f"{opt['dataset']}, last of {opt['epochs']} epochs unless the column says otherwise; mean "
        "± standard deviation over n seeds; conflict: % of steps with cosine <= 0; intervals: "
        "Student, paired by seed; missing/X: multimodal accuracy with X zero; shapley/X: what X "
        f"adds to it; calibration: expected calibration error. {hardware}, torch {env['torch']}, "
        f"commit {commits}."
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
    parser = argparse.ArgumentParser(
        prog="report.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="of the files .md, .csv, .tex (default: report beside the first run)",
    )
    args = parser.parse_args(argv)
    groups = group([read_run(folder) for folder in args.runs])
    found = {label: [measures_of(one) for one in runs] for label, runs in groups.items()}
    tables, text = tabulate(groups, found), caption(groups)
    output = args.output or args.runs[0].parent / "report"
    print(markdown(tables, text))
    write_text(Path(f"{output}.md"), markdown(tables, text) + "\n")
    write_text(Path(f"{output}.tex"), latex(tables, text) + "\n")
    write_text(Path(f"{output}.csv"), comma_separated(groups, found))
    print(f"\nwritten: {output}.md, .csv, .tex")


if __name__ == "__main__":
    run(main)
