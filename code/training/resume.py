"""The run folder: created once, never overwritten, resumed only with the options it began with."""

from __future__ import annotations

import errno
import hashlib
import os
import reprlib
import secrets
import shutil
from argparse import Namespace
from pathlib import Path

from training.stored import completed, flags_of_run, growing, jsonable
from utils import distributed
from utils.atomic import claim, write_text
from utils.errors import BadInput, advise
from utils.run_folder import (
    environment,
    fill,
    load,
    read_jsonl,
    read_record,
    read_stored,
    save,
    sealed,
)


class Progress:
    """How far a run is, and the state of all that changes while it trains.

    parts: {name: model, optimizer ...}, whatever has a `state_dict`.
    epoch, step: the next ones; best: the highest accuracy so far, that of best.pt.
    """

    def __init__(self, folder: Path, parts: dict):
        self.folder, self.parts = folder, parts
        self.epoch, self.step, self.best = 0, 0, -1.0
        self.run = read_stored(folder).get("run")  # older ones have no mark
        self._advise()

    def _advise(self) -> None:
        holds = "last.pt holds the last complete epoch" if self.epoch else "no epoch was completed"
        advise(f"{holds}; continue: --resume --run_name {self.folder.name}")

    def restore(self) -> None:
        """Goes back to the end of the last complete epoch, where there is one.

        Raises BadInput where last.pt cannot be used, or is gone with more than one epoch behind it.
        """
        path = self.folder / "last.pt"
        # the first epoch is recorded before there is a checkpoint
        if not path.is_file() and len(read_jsonl(self.folder / "metrics.jsonl")) < 2:
            return
        state = load(path)
        self.epoch, self.step, self.best = (state["progress"][k] for k in ("epoch", "step", "best"))
        for name, part in self.parts.items():
            if name in state:  # an older run has not stored all of them
                fill(part, state[name], path)
        self._advise()

    def save(self, step: int, accuracy: float) -> None:
        """Ends an epoch: last.pt, and best.pt where the accuracy is higher than ever before."""
        self.epoch, self.step = self.epoch + 1, step
        is_better = accuracy > self.best
        self.best = max(accuracy, self.best)
        if distributed.is_main():
            self._write(is_better)
        self._advise()

    def _write(self, is_better: bool) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state["progress"] = {"epoch": self.epoch, "step": self.step, "best": self.best}
        state["progress"]["run"] = self.run
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
        "digest": {split: digest(loader.dataset.samples) for split, loader in loaders.items()},
        "preparation": read_record(settings, "prepare it again") if settings.is_file() else None,
    }


def digest(samples: list) -> str:
    """Of the ids and targets of a split, in their order."""
    return hashlib.sha256(repr([tuple(sample) for sample in samples]).encode()).hexdigest()[:16]


def refuse_other_data(folder: Path, begun: dict | None, dataset, loaders: dict) -> None:
    """Raises BadInput where data are not those that the run in `folder` was begun with.

    begun: what `about` gave then; an older run says less, or nothing.
    """
    now, begun = jsonable(about(dataset, loaders)), begun or {}
    for key in now:
        if key in begun and now[key] != begun[key]:
            what = "ids or targets, in order," if key == "digest" else key
            raise BadInput(
                f"{dataset.root}: not the data that {folder} was begun with: {what} "
                f"{reprlib.repr(now[key])}, not {reprlib.repr(begun[key])}; name those with "
                "--data_root"
            )


def open_run(options: Namespace, dataset, loaders: dict) -> Path:
    """The run's folder, new or with `--resume` the one that is there; no other process writes it.

    Raises BadInput where the folder holds another run, there is nothing to resume, an option or the
    data differ from the run's, or another process writes it; nothing is changed then.
    """
    folder = Path(options.ckpt_path) / options.run_name
    if options.resume:
        if not (folder / "options.json").is_file():
            raise BadInput(f"--resume: {folder} holds no run to continue")
        refuse_other_options(folder, options, "--resume")
        refuse_other_data(folder, read_stored(folder)["data"], dataset, loaders)
        if distributed.is_main():
            claim(folder / ".lock")
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink()
    elif distributed.is_main():
        places = {name: vars(options)[name] for name in ("data_root", "cache_dir")}
        # as they are found from anywhere
        places = {name: place and str(Path(place).absolute()) for name, place in places.items()}
        content = {
            "run": secrets.token_hex(8),  # its mark, which its checkpoints have, too
            "options": jsonable(vars(options)) | places,
            "environment": environment(),
            "data": jsonable(about(dataset, loaders)),
        }
        begun = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        try:
            write_text(begun / "options.json", sealed(content, indent=1))
            # so a run's folder is never there without its options
            os.rename(begun, folder)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise BadInput(
                f"--run_name {options.run_name}: {folder} exists; add --resume to continue it, or "
                "choose another name"
            ) from None
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        claim(folder / ".lock")
    return folder


def extend(folder: Path, options: Namespace) -> None:
    """Writes down that the run goes on for more epochs than it was begun with."""
    content = read_stored(folder)
    if distributed.is_main() and content["options"]["epochs"] != options.epochs:
        content["options"]["epochs"] = options.epochs
        write_text(folder / "options.json", sealed(content, indent=1))


def read_options(folder: Path) -> dict:
    """What options.json of a run holds, the options complete. Raises BadInput where there is none,
    or where this version cannot go on with them."""
    content = read_stored(folder)
    return content | {"options": completed(folder / "options.json", content)}


def refuse_other_options(folder: Path, options: Namespace, asked_by: str) -> None:
    """Raises BadInput where the run in `folder` was begun with options that lead elsewhere."""
    content = read_options(folder)
    begun, now = content["options"], jsonable(vars(options))
    _, touches, _ = flags_of_run(content)
    grown = {flag for flag in growing(begun) if now[flag] > begun[flag]}
    for flag in [*sorted(begun.keys() & now.keys()), *sorted(begun.keys() ^ now.keys())]:
        if touches.get(flag) in ("speed", "place") or flag in grown:
            continue
        if begun.get(flag) != now.get(flag):
            mend = "give the same or more" if flag in growing(begun) else "give the same options"
            raise BadInput(
                f"{asked_by}: {folder} was begun with --{flag} {begun.get(flag)}, "
                f"not {now.get(flag)}; {mend}, or another folder for the run"
            )
