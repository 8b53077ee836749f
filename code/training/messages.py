"""The numbers of a run as text: a line per epoch and the table at the end."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from torch import Tensor

from methods import Method
from models.multimodal import MULTIMODAL
from models.reach import objectives_of
from training.options import build_parser, choose_name
from utils import distributed
from utils.command import pairs
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


def objective_lines(method: Method, model, losses: dict[str, Tensor]) -> str:
    """Which losses that the method trains meet on which parameters, a line per group."""
    if not method.trains_unimodal_heads:
        losses = {branch: losses[branch] for branch in [next(iter(losses))]}
    groups = model.groups(losses)
    owners = {m: f"{m} encoder" for m in model.encoders}
    return "\n".join(
        f"{owners.get(group, f'{group} layers')}: {len(groups[group])} tensors, "
        f"objectives {', '.join(names)}"
        for group, names in objectives_of(losses, groups).items()
    )


def what_next(argv: list[str], options: Namespace, folder: Path) -> str:
    """What to run after this run of several modalities: the same with one joint loss, after which
    MMPareto, and the picture of both."""
    if len(options.modalities) == 1:
        return ""
    method, title, script = {
        False: ("joint", "one joint loss", "one_joint_loss"),
        True: ("mmpareto", "MMPareto", "mmpareto"),
    }[options.method == "joint"]
    parser, _ = build_parser([*argv, "--method", method])
    flags = []
    for flag, value in pairs(argv):
        if flag in parser.actions and flag not in ("method", "run_name", "resume"):
            flags += [f"--{flag}"] if value is None else [f"--{flag}", value]
    last = Namespace(**vars(options) | {"method": method, "run_name": None, "resume": True})
    other = options.ckpt_path / choose_name(last)
    lines = ["next: both in one picture"]
    if not other.exists():
        processes = f"NPROC={distributed.world_size()} " if distributed.world_size() > 1 else ""
        lines = [
            f"next: the same with {title}, then both in one picture",
            f"  {processes}{shlex.join(['sh', f'script/{script}.sh', *flags])}",
        ]
    picture = "comparison" if "mmpareto" in (method, options.method) else "curves"
    command = [interpreter(), "draw.py", picture, str(folder), str(other)]
    return "\n".join([*lines, f"  {shlex.join(command)}"])


def interpreter() -> str:
    """How this Python is called from here: `python`, or the path of one that is not active."""
    active = shutil.which("python")
    if active and Path(active).parent == Path(sys.executable).parent:
        return "python"
    return os.path.relpath(sys.executable)


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
