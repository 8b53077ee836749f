"""What is in a run folder, and reading it: options.json, checkpoints, lines of JSON."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import torch

from utils.atomic import replacing
from utils.errors import BadInput


def name_of_run(*parts: str, seed: int | str) -> str:
    """ "demo-mmpareto-gamma-2-seed0" of the parts "demo", "mmpareto", "--gamma", "2"."""
    words = [word.lstrip("-").replace("/", "_") for part in parts for word in part.split()]
    return "-".join([*words, f"seed{seed}"])


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
        "gpu": torch.cuda.get_device_name() if cuda else "none",
    }


def processor() -> str:
    """Model name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def read_stored(folder: Path) -> dict:
    """What options.json of a run holds. Raises BadInput where there is none."""
    stored = folder / "options.json"
    if not stored.is_file():
        raise BadInput(f"{folder}: no run folder, it has no options.json")
    return json.loads(stored.read_text())


def shapes_of(data: dict) -> dict[str, list[int]]:
    """{modality: shape of an item} of a stored run. An older one tells channels and readers alone,
    which is all that its encoders depend on."""
    if "shapes" in data:
        return data["shapes"]
    clips = {m for m, reader in data["readers"].items() if reader == "frames"}
    return {m: [1] * (m in clips) + [c, 1, 1] for m, c in data["channels"].items()}


def save(state: dict, path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load(path: Path) -> dict:
    """A checkpoint on the CPU; code in it is never run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such checkpoint") from None


def read_jsonl(path: Path) -> list[dict]:
    """The records of a file, without a last line that a killed process left incomplete."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def cost_of(folder: Path) -> dict[str, float]:
    """{"minutes", "peak_gb"} that the training of a run took, as far as times.jsonl tells."""
    times = read_jsonl(folder / "times.jsonl")
    found = {"minutes": sum(record["seconds"] for record in times) / 60} if times else {}
    if peaks := [record["peak_mb"] for record in times if "peak_mb" in record]:
        found["peak_gb"] = max(peaks) / 1e3
    return found
