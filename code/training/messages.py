"""The numbers of a run as text: a line per epoch and the table at the end."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from torch import Tensor

from models.multimodal import MULTIMODAL
from models.reach import objectives_of
from utils import distributed
from utils.run_folder import read_jsonl


def first_line(options: Namespace, folder: Path, loaders: dict, first_epoch: int) -> str:
    processes = f"{distributed.world_size()} x " if distributed.world_size() > 1 else ""
    epochs = f"epochs {first_epoch} to {options.epochs - 1}"
    if first_epoch == options.epochs:
        epochs = f"finished, all {first_epoch} epochs are done; a greater --epochs goes on"
    return (
        f"run {folder}: {options.method} on {options.dataset}, {len(loaders['train'].dataset)} "
        f"training samples, {processes}{options.device}, {epochs}"
    )


def epoch_line(epoch: int, scores: dict[str, float]) -> str:
    """`scores`: {"test/accuracy/multimodal": 0.71, ...}; accuracies are shown in percent."""
    cells: dict[str, list[str]] = {}
    for name, value in scores.items():
        split, metric, branch = name.split("/")
        if metric == "accuracy":
            cells.setdefault(split, []).append(f"{branch} {100 * value:.1f}")
    parts = [f"{split} accuracy % {' | '.join(texts)}" for split, texts in cells.items()]
    return f"epoch {epoch}: " + ", ".join(parts)


def objective_lines(model, losses: dict[str, Tensor]) -> str:
    """Which losses meet on which parameters, a line per group: what a method integrates."""
    groups = model.groups(losses)
    owners = {m: f"{m} encoder" for m in model.encoders}
    return "\n".join(
        f"{owners.get(group, f'{group} layers')}: {len(groups[group])} tensors, "
        f"objectives {', '.join(names)}"
        for group, names in objectives_of(losses, groups).items()
    )


def main_branch(modalities: list[str]) -> str:
    """The branch a run is judged by: the only one where there is nothing to fuse."""
    return MULTIMODAL if len(modalities) > 1 else modalities[0]


SELECTIONS = {  # how the epoch that is shown was chosen
    "last": "last epoch",
    "best_test": "best on test, as published",
    "best_val": "best on validation",
}


def selections(records: list[dict], main_branch: str) -> dict[str, dict]:
    """{key of SELECTIONS: record of metrics.jsonl}; best_val only where samples were held out."""
    chosen = {"last": records[-1]}
    for split in ("test", "val"):
        key = f"{split}/accuracy/{main_branch}"
        if key in records[-1]:
            best = max(records, key=lambda record: record[key])  # the first of equals, as best.pt
            chosen[f"best_{split}"] = best
    return chosen


def table(folder: Path, main_branch: str, heads_trained: bool = True) -> str:
    """Test accuracy and macro F1 in percent, one row per selection, one column per branch."""
    records = read_jsonl(folder / "metrics.jsonl")
    branches = [k.split("/")[2] for k in records[-1] if k.startswith("test/accuracy/")]
    rows = [["test split, %", "epoch", *(f"{b} acc (F1)" for b in branches)]]
    for selection, record in selections(records, main_branch).items():
        cells = [
            f"{100 * record[f'test/accuracy/{b}']:.2f} ({100 * record[f'test/macro_f1/{b}']:.2f})"
            for b in branches
        ]
        rows.append([SELECTIONS[selection], str(record["epoch"]), *cells])
    text = align(rows)
    if not heads_trained and len(branches) > 1:
        text += (
            "\nThis method trains no unimodal head; for the accuracy of the encoders: "
            f"python evaluate.py {folder} --probe linear"
        )
    return text


def align(rows: list[list[str]]) -> str:
    """Rows of cells as columns of equal width, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
