"""The run folder: created once, never overwritten, resumed only with the options it began with."""

from __future__ import annotations

import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

from training import options
from utils import distributed
from utils.atomic import write_text
from utils.errors import BadInput
from utils.run_folder import environment, load, read_stored


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


def open_run(wanted: Namespace, data: dict | None = None) -> tuple[Path, dict | None]:
    """The run's folder, and its last checkpoint when `--resume` finds one.

    data: as `about` gives it, stored beside the options.

    Raises BadInput where the folder holds another run, there is nothing to resume, or an option
    differs from the run's; nothing is changed then.
    """
    folder = Path(wanted.ckpt_path) / wanted.run_name
    stored = folder / "options.json"
    if not wanted.resume:
        if not distributed.is_main():
            return folder, None
        content = {
            "options": options.jsonable(vars(wanted)),
            "environment": environment(),
            "data": data,
        }
        begun = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        write_text(begun / stored.name, json.dumps(content, indent=1))
        try:
            os.rename(begun, folder)  # so a run's folder is never there without its options
        except OSError:
            shutil.rmtree(begun)
            raise BadInput(
                f"--run_name {wanted.run_name}: {folder} exists; add --resume to continue it, or "
                "choose another name"
            ) from None
        return folder, None
    if not stored.is_file():
        raise BadInput(f"--resume: {folder} holds no run to continue")
    refuse_other_options(folder, wanted, "--resume")
    if distributed.is_main():
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
    last = folder / "last.pt"
    return folder, load(last) if last.is_file() else None


def read_options(folder: Path) -> dict:
    """What options.json of a run holds, the options complete. Raises BadInput where there is none,
    or where this version cannot go on with them."""
    content = read_stored(folder)
    return content | {"options": options.completed(folder, content)}


def refuse_other_options(folder: Path, wanted: Namespace, asked_by: str) -> None:
    """Raises BadInput where the run in `folder` was begun with options that lead elsewhere."""
    content = read_options(folder)
    begun, now = content["options"], options.jsonable(vars(wanted))
    _, touches = options.flags_of_run(content)
    for name in sorted(begun.keys() | now.keys()):
        if touches.get(name) in ("speed", "place"):
            continue
        if begun.get(name) != now.get(name):
            raise BadInput(
                f"{asked_by}: {folder} was begun with --{name} {begun.get(name)}, "
                f"not {now.get(name)}; give the same options, or another folder for the run"
            )
