"""Stored runs -> the tables and figures of README: mean ± standard deviation over seeds per method.

python report.py runs/avmnist-*                          a Markdown table
python report.py runs/avmnist-* --figure ../pics/avmnist.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from utils import registry
from utils.errors import BadInput, run
from utils.figures import draw_comparison
from utils.record import read_jsonl
from utils.summary import selections

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
    """Options, environment, epochs and probe of a run. Raises BadInput unless complete."""
    stored = folder / "options.json"
    if not stored.is_file():
        raise BadInput(f"{folder}: no run folder, it has no options.json")
    content = json.loads(stored.read_text())
    epochs = read_jsonl(folder / "metrics.jsonl")
    wanted = content["options"]["epochs"]
    if len(epochs) < wanted:
        raise BadInput(f"{folder}: {len(epochs)} of {wanted} epochs done; finish it with --resume")
    probe = folder / "probe_linear.json"
    content["probe"] = json.loads(probe.read_text()) if probe.is_file() else None
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
    first = runs[0]
    for r in runs:
        opt, label = r["options"], label_of(r["options"])
        for key in sorted((opt.keys() | first["options"].keys()) - free):
            if opt.get(key) != first["options"].get(key):
                raise BadInput(
                    f"{r['folder']}: --{key} {opt.get(key)}, but {first['folder']} has "
                    f"{first['options'].get(key)}; only runs with the same options share a table"
                )
        if opt["random_seed"] in [o["options"]["random_seed"] for o in groups.get(label, [])]:
            raise BadInput(f"{r['folder']}: seed {opt['random_seed']} of {label} is there twice")
        groups.setdefault(label, []).append(r)
    return groups


def mean_std(values: list[float]) -> str:
    """Percent, mean ± sample standard deviation."""
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.2f}{spread}"


def conflict_rate(records: list[dict], encoder: str) -> float | None:
    values = [r[f"cosine/{encoder}"] for r in records if f"cosine/{encoder}" in r]
    return sum(v <= 0 for v in values) / len(values) if values else None


def table(groups: dict[str, list[dict]]) -> str:
    """Markdown: test accuracy in percent per branch and linear probe, and conflict rates."""
    every = [r for runs in groups.values() for r in runs]
    modalities = max((r["options"]["modalities"] for r in every), key=len)
    head = ["method", "n", "multimodal", "best epoch*", *(f"{m} head" for m in modalities)]
    head += [f"{m} probe" for m in modalities] + [f"conflict {m}" for m in modalities]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for label, runs in groups.items():
        main = (
            "multimodal"
            if len(runs[0]["options"]["modalities"]) > 1
            else runs[0]["options"]["modalities"][0]
        )
        chosen = [selections(r["epochs"], main) for r in runs]
        key = f"test/accuracy/{main}"
        cells = [label, str(len(runs)), mean_std([c["last epoch"][key] for c in chosen])]
        cells.append(mean_std([c["best on test, as published"][key] for c in chosen]))
        for modality in modalities:
            key = f"test/accuracy/{modality}"
            values = [c["last epoch"][key] for c in chosen if key in c["last epoch"]]
            method = registry.load("methods", runs[0]["options"]["method"], "--method").Method
            if values and getattr(method, "trains_unimodal_heads", True):
                cells.append(mean_std(values))
            else:
                cells.append("untrained" if values else "-")
        for modality in modalities:
            key = f"accuracy/{modality} probe"
            values = [
                r["probe"]["scores"][key]
                for r in runs
                if r["probe"] and key in r["probe"]["scores"]
            ]
            cells.append(mean_std(values) if len(values) == len(runs) else "-")
        for modality in modalities:
            rates = [conflict_rate(read_jsonl(r["folder"] / "steps.jsonl"), modality) for r in runs]
            cells.append("-" if None in rates else f"{100 * mean(rates):.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    opt, env = every[0]["options"], every[0]["environment"]
    commits = ", ".join(sorted({r["environment"]["commit"] for r in every}))
    hardware = env["gpu"] if opt["device"] == "cuda" else env["cpu"]
    lines.append("")
    lines.append(
        f"Test accuracy in %, mean ± std over n seeds, last of {opt['epochs']} epochs (* best "
        f"epoch, picked on the test split as published). conflict: % of steps with cosine <= 0. "
        f"{opt['dataset']}, {hardware}, torch {env['torch']}, commit {commits}."
    )
    return "\n".join(lines)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="report.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw accuracy and cosine")
    args = parser.parse_args(argv)
    groups = group([read_run(folder) for folder in args.runs])
    print(table(groups))
    if args.figure:
        draw_comparison({k: [r["folder"] for r in runs] for k, runs in groups.items()}, args.figure)
        print(f"\nfigure: {args.figure}")


if __name__ == "__main__":
    run(main)
