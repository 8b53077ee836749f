"""What is in a run folder, written and read: options.json, checkpoints, lines of JSON, results.

All carry a checksum, so that what is read is what was written; older files have none.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import torch

from utils.atomic import replacing, write_text
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


def checksum(record: dict) -> str:
    return f"{zlib.crc32(json.dumps(record).encode()):08x}"


def sealed(record: dict, indent: int | None = None) -> str:
    """A record as JSON with the checksum that `opened` compares as its last entry."""
    return json.dumps(record | {"checksum": checksum(record)}, indent=indent)


def opened(text: str | bytes) -> dict:
    """What was `sealed`, or an older record. Raises ValueError where it is not what was written."""
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError(error) from None
    if not isinstance(record, dict):
        raise ValueError("no record")
    stored = record.pop("checksum", None)
    content, _, end = (text.encode() if isinstance(text, str) else text).rpartition(b', "checksum"')
    # as it was written, on one line
    if end == b': "%08x"}' % zlib.crc32(b"}", zlib.crc32(content)):
        return record
    if stored not in (None, checksum(record)):
        raise ValueError("not what its checksum says")
    return record


def read_record(path: Path, mend: str) -> dict:
    """A file that holds one record. Raises BadInput with what mends it where it is damaged."""
    try:
        return opened(path.read_bytes())
    except ValueError as error:
        problem = f"damaged, or changed since it was written ({error})"
        raise BadInput(f"{path}: {problem}; {mend}") from None


STORED = {  # what options.json holds: {part: {entry that must be there: its kind}}
    "options": dict(dataset=str, method=str, encoder=str, fusion=str, modalities=list)
    | dict(random_seed=int, epochs=int, val_fraction=(int, float), data_root=str),
    "environment": dict(torch=str, commit=str, cpu=str, gpu=str),
    "data": dict(classes=list, readers=dict),
}


def read_stored(folder: Path) -> dict:
    """What options.json of a run holds. Raises BadInput where there is none, or a damaged one."""
    path = folder / "options.json"
    if not path.is_file():
        raise BadInput(f"{folder}: no run folder, it has no options.json")
    mend = "undo the change, or take away its checksum to use it as it stands"
    content = read_record(path, mend)
    content["data"] = content.get("data")  # the oldest runs do not say
    for part, kinds in STORED.items():
        stored = content.get(part)
        if part == "data" and stored is None:
            continue
        for entry, kind in kinds.items():
            if not isinstance(stored, dict) or not isinstance(stored.get(entry), kind):
                raise BadInput(f"{path}: has no {part} with a usable {entry}; undo the change")
    modalities, readers = content["options"]["modalities"], (content["data"] or {}).get("readers")
    if not modalities or not all(isinstance(m, str) for m in modalities):
        raise BadInput(f"{path}: has no options with usable modalities; undo the change")
    if readers and not all(isinstance(readers.get(m), str) for m in modalities):
        raise BadInput(f"{path}: has no data with usable readers; undo the change")
    samples = (content["data"] or {}).get("samples") or {}  # the oldest runs do not say
    if not isinstance(samples, dict) or not all(isinstance(n, int) for n in samples.values()):
        raise BadInput(f"{path}: has no data with usable samples; undo the change")
    return content


def write_result(path: Path, checkpoint: str, result: dict) -> None:
    """Keeps in a run folder what was measured of its `checkpoint`.pt."""
    of = fingerprint(path.with_name(f"{checkpoint}.pt"))
    write_text(path, sealed({"checkpoint": checkpoint, "of": of} | result))


def read_result(path: Path) -> dict | None:
    """What `write_result` has kept; None where that is nothing, damaged, or of a checkpoint that
    has changed. Where checkpoints were deleted, and in older files, it is taken as it stands."""
    try:
        result = opened(path.read_bytes())
        of = fingerprint(path.with_name(f"{result['checkpoint']}.pt"))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return result if None in (of, result.get("of")) or of == result["of"] else None


def fingerprint(checkpoint: Path) -> int | None:
    """Of a checkpoint's last bytes, which hold the checksums of its parts; None where there is
    none."""
    if not checkpoint.is_file():
        return None
    with open(checkpoint, "rb") as file:
        file.seek(-min(checkpoint.stat().st_size, 1 << 16), os.SEEK_END)
        return zlib.crc32(file.read())


def shapes_of(data: dict) -> dict[str, list[int]]:
    """{modality: shape of an item} of a stored run. An older one tells channels and readers alone,
    which is all that its encoders depend on."""
    if "shapes" in data:
        return data["shapes"]
    clips = {m for m, reader in data["readers"].items() if reader == "frames"}
    return {m: [1] * (m in clips) + [c, 1, 1] for m, c in data["channels"].items()}


def save(state: dict, path: Path) -> None:
    """Writes a checkpoint: a zip file, in which every part has a checksum."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)  # not to a path, whose name it would put into the file
        except RuntimeError as error:  # PyTorch hides that of a full disk behind it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def load(path: Path) -> dict:
    """A checkpoint of a run on the CPU, compared with its checksums; code in it is never run.

    Raises BadInput with what mends it where it is not there, damaged, or not of the folder's run.
    """
    state, problem = _read(path)
    if not problem:
        return state
    other = path.with_name("best.pt" if path.name == "last.pt" else "last.pt")
    whole, others_problem = _read(other)
    if others_problem:
        mend = f"nor can {other.name} be used; begin again under another --run_name"
    else:
        mend = f"{other.name} can be used, with --checkpoint {other.stem}"
        if other.name == "best.pt":
            epoch = whole["progress"]["epoch"] - 1
            mend += f"; copied to last.pt, --resume goes on after epoch {epoch}"
    raise BadInput(f"{path}: {problem}; {mend}")


def _read(path: Path) -> tuple[dict, str]:
    """(checkpoint, what is wrong with it); "" where it is what a run has written."""
    if not path.is_file():
        return {}, "no such checkpoint"
    try:
        with zipfile.ZipFile(path) as file:
            if damaged := file.testzip():
                return {}, f"damaged, {damaged} is not what its checksum says"
        state = torch.load(path, map_location="cpu", weights_only=True)
        run = state["progress"].get("run")
        is_whole = {"epoch", "step", "best"} <= state["progress"].keys()
        if not is_whole or not isinstance(state["model"], dict):
            return {}, "no checkpoint of a run"
    except OSError:
        raise
    except Exception as error:  # each kind of damage has its own
        first, *_ = [*str(error).strip().splitlines(), ""]
        return {}, f"damaged, or no checkpoint of a run ({type(error).__name__}: {first[:60]})"
    if run not in (None, read_stored(path.parent).get("run")):
        return {}, "of another run than the folder's"
    return state, ""


def fill(part, state: dict, path: Path) -> None:
    """`part.load_state_dict(state)`. Raises BadInput naming the file where that does not fit."""
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        (reason, *_) = [*str(error).splitlines(), ""]
        raise BadInput(
            f"{path}: does not fit {type(part).__name__} of the options of {path.parent} ({reason})"
        ) from None


MEASURED = {"times.jsonl": "seconds"}  # what each record of a file has besides its epoch


def read_jsonl(
    path: Path, until: float = math.inf, entries: Collection[str] | None = None
) -> list[dict]:
    """The records of epochs before `until`, without what a killed process left at the end.

    entries: what is kept of each record, by default all; a long file is read faster for some.
    Raises BadInput for a line that is damaged, or of a later epoch, with such a record behind it.
    """
    if not path.is_file():
        return []
    records, end, some_sealed, measured = [], 0, False, MEASURED.get(path.name, "step")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        is_sealed = b'"checksum"' in line
        some_sealed = some_sealed or is_sealed
        try:
            record = opened(line)
            is_kept = record["epoch"] < until and is_sealed == some_sealed and measured in record
        except (ValueError, KeyError, TypeError):
            is_kept = False
        if is_kept and end:
            raise BadInput(
                f"{path} line {end}: damaged, and records follow it; nothing was changed. Restore "
                "the file, or take this line out to go on without it"
            )
        if is_kept:
            if entries is not None:
                record = {entry: record[entry] for entry in entries if entry in record}
            records.append(record)
        elif not end:
            end = number
    return records


def cost_of(folder: Path, epochs: int | None = None) -> dict[str, float]:
    """{"minutes", "peak_gb"} that the training of a run took, as far as times.jsonl tells.

    epochs: of a finished run. Raises BadInput where the file tells of some only.
    """
    times = read_jsonl(folder / "times.jsonl")
    if epochs is not None and len(times) not in (0, epochs):
        raise BadInput(
            f"{folder / 'times.jsonl'}: does not hold epochs 0 to {epochs - 1}, each once; restore "
            "it, or delete it to leave out what the run cost"
        )
    found = {"minutes": sum(record["seconds"] for record in times) / 60} if times else {}
    if peaks := [record["peak_mb"] for record in times if "peak_mb" in record]:
        found["peak_gb"] = max(peaks) / 1e3
    return found
