"""The run folder: created once, never overwritten, resumed only with the options it began with."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path

import torch

from utils import distributed
from utils.atomic import replacing, write_text
from utils.errors import BadInput

# They change how a run is computed or watched, not what comes out
FREE_ON_RESUME = (
    "resume",
    "num_workers",
    "tensorboard",
    "run_name",
    "data_root",
    "gpu_ids",
    "cache",
    "cache_dir",
    "processes",
)


def environment() -> dict[str, str]:
    """Versions, commit and hardware, for options.json."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit or "unknown",
        "cpu": f"{processor()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name(0) if cuda else "none",
    }


def processor() -> str:
    """Model name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def about(dataset, loaders: dict) -> dict:
    """What others must know of the data: classes, channels, samples, how it was prepared."""
    readers = loaders["train"].dataset.readers
    settings = Path(dataset.root) / "settings.json"
    return {
        "classes": dataset.classes,
        "channels": {modality: reader.channels for modality, reader in readers.items()},
        "readers": {modality: dataset.modalities[modality] for modality in readers},
        "samples": {split: len(loader.dataset) for split, loader in loaders.items()},
        "preparation": json.loads(settings.read_text()) if settings.is_file() else None,
    }


def open_run(options: Namespace, data: dict | None = None) -> tuple[Path, dict | None]:
    """The run's folder, and its last checkpoint when `--resume` finds one.

    data: as `about` gives it, stored beside the options.

    Raises BadInput where the folder holds another run, there is nothing to resume, or an option
    differs from the run's; nothing is changed then.
    """
    folder = Path(options.ckpt_path) / options.run_name
    stored = folder / "options.json"
    wanted = jsonable(options)
    if not options.resume:
        if not distributed.is_main():
            return folder, None
        content = {"options": wanted, "environment": environment(), "data": data}
        begun = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        write_text(begun / stored.name, json.dumps(content, indent=1))
        try:
            os.rename(begun, folder)  # so a run's folder is never there without its options
        except OSError:
            shutil.rmtree(begun)
            raise BadInput(
                f"--run_name {options.run_name}: {folder} exists; add --resume to continue it, or "
                "choose another name"
            ) from None
        return folder, None
    if not stored.is_file():
        raise BadInput(f"--resume: {folder} holds no run to continue")
    refuse_other_options(folder, options, "--resume")
    if distributed.is_main():
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
    last = folder / "last.pt"
    return folder, load(last) if last.is_file() else None


def read_options(folder: Path) -> dict:
    """What options.json of a run holds. Raises BadInput where there is none."""
    stored = folder / "options.json"
    if not stored.is_file():
        raise BadInput(f"{folder}: no run folder, it has no options.json")
    return json.loads(stored.read_text())


def refuse_other_options(folder: Path, options: Namespace, asked_by: str) -> None:
    """Raises BadInput where the run in `folder` was begun with options that lead elsewhere."""
    begun = read_options(folder)["options"]
    wanted = jsonable(options)
    for name in sorted(begun.keys() | wanted.keys()):
        if name not in FREE_ON_RESUME and begun.get(name) != wanted.get(name):
            raise BadInput(
                f"{asked_by}: {folder} was begun with --{name} {begun.get(name)}, "
                f"not {wanted.get(name)}; give the same options, or another folder for the run"
            )


def jsonable(options: Namespace) -> dict:
    """The options as options.json stores them."""
    return json.loads(json.dumps(vars(options), default=str))


def save(state: dict, path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> dict:
    """A checkpoint on the CPU; code in it is never run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such checkpoint") from None
