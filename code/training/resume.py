"""The run folder: created once, never overwritten, resumed only with the options it began with."""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

from training.options import completed, flags_of_run, jsonable
from utils import distributed
from utils.atomic import write_text
from utils.errors import BadInput
from utils.run_folder import environment, load, read_stored, save


class Progress:
    """How far a run is, and the state of all that changes while it trains.

    parts: {name: model, optimizer ...}, whatever has a `state_dict`.
    epoch, step: the next ones; best: the highest accuracy so far, that of best.pt.
    """

    def __init__(self, folder: Path, parts: dict):
        self.folder, self.parts = folder, parts
        self.epoch, self.step, self.best = 0, 0, -1.0

    def restore(self) -> None:
        """Goes back to the end of the last complete epoch, where there is one."""
        if not (self.folder / "last.pt").is_file():
            return
        state = load(self.folder / "last.pt")
        self.epoch, self.step, self.best = (state["progress"][k] for k in ("epoch", "step", "best"))
        for name, part in self.parts.items():
            if name in state:  # an older run has not stored all of them
                part.load_state_dict(state[name])

    def save(self, step: int, accuracy: float) -> None:
        """Ends an epoch: last.pt, and best.pt where the accuracy is higher than ever before."""
        self.epoch, self.step = self.epoch + 1, step
        is_better = accuracy > self.best
        self.best = max(accuracy, self.best)
        if not distributed.is_main():
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["progress"] = {"epoch": self.epoch, "step": self.step, "best": self.best}
        if is_better:  # first: a run killed in between repeats this epoch and writes it again
            save(state, self.folder / "best.pt")
        save(state, self.folder / "last.pt")


def about(dataset, loaders: dict) -> dict:
    """What others must know of the data: classes, shapes, samples, how it was prepared."""
    readers = loaders["train"].dataset.readers
    settings = Path(dataset.root) / "settings.json"
    return {
        "classes": dataset.classes,
        "shapes": {modality: list(reader.shape) for modality, reader in readers.items()},
        "readers": {modality: dataset.modalities[modality] for modality in readers},
        "samples": {split: len(loader.dataset) for split, loader in loaders.items()},
        "preparation": json.loads(settings.read_text()) if settings.is_file() else None,
    }


def open_run(options: Namespace, data: dict | None = None) -> Path:
    """The run's folder, new or with `--resume` the one that is there.

    data: as `about` gives it, stored beside the options.

    Raises BadInput where the folder holds another run, there is nothing to resume, or an option
    differs from the run's; nothing is changed then.
    """
    folder = Path(options.ckpt_path) / options.run_name
    if options.resume:
        if not (folder / "options.json").is_file():
            raise BadInput(f"--resume: {folder} holds no run to continue")
        refuse_other_options(folder, options, "--resume")
        if distributed.is_main():
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink()
    elif distributed.is_main():
        content = {
            "options": jsonable(vars(options)),
            "environment": environment(),
            "data": data,
        }
        begun = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        write_text(begun / "options.json", json.dumps(content, indent=1))
        try:
            os.rename(begun, folder)  # so a run's folder is never there without its options
        except OSError:
            shutil.rmtree(begun)
            raise BadInput(
                f"--run_name {options.run_name}: {folder} exists; add --resume to continue it, or "
                "choose another name"
            ) from None
    return folder


def read_options(folder: Path) -> dict:
    """What options.json of a run holds, the options complete. Raises BadInput where there is none,
    or where this version cannot go on with them."""
    content = read_stored(folder)
    return content | {"options": completed(folder, content)}


def refuse_other_options(folder: Path, options: Namespace, asked_by: str) -> None:
    """Raises BadInput where the run in `folder` was begun with options that lead elsewhere."""
    content = read_options(folder)
    begun, now = content["options"], jsonable(vars(options))
    _, touches = flags_of_run(content)
    for flag in [*sorted(begun.keys() & now.keys()), *sorted(begun.keys() ^ now.keys())]:
        if touches.get(flag) not in ("speed", "place") and begun.get(flag) != now.get(flag):
            raise BadInput(
                f"{asked_by}: {folder} was begun with --{flag} {begun.get(flag)}, "
                f"not {now.get(flag)}; give the same options, or another folder for the run"
            )
