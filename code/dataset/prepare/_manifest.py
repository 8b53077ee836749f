"""A prepared tree's list of files and checksums, and whether the tree still agrees with it."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from dataset._files import files_below
from dataset._limits import naming
from utils.atomic import write_text
from utils.errors import BadInput
from utils.machine import usable_cpus

NAME = "manifest.sha256"  # `sha256sum --check manifest.sha256` reads it too
CACHE = "cache/"  # a folder that may come and go


def files_of(root: Path) -> list[str]:
    """The files of a tree in order, relative to it; neither hidden ones nor the manifest."""
    names = sorted(path.relative_to(root).as_posix() for path in files_below(root))
    return [name for name in names if name != NAME and not name.startswith(CACHE)]


def checksum(path: Path) -> str:
    """SHA-256 of a file, "unreadable" where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"


def checksums(root: Path, names: list[str], title: str) -> dict[str, str]:
    """{name: SHA-256} of files of `root`."""
    with ThreadPoolExecutor(usable_cpus()) as pool:
        work = pool.map(lambda name: checksum(root / name), names)
        return dict(zip(names, tqdm(work, total=len(names), desc=title, leave=False, disable=None)))


def read(root: Path) -> dict[str, str]:
    """{name: SHA-256} of `root`/manifest.sha256."""
    with naming(root / NAME, what="damaged"):
        lines = (root / NAME).read_text(encoding="utf-8").split("\n")
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}


def write_digests(root: Path, digests: dict[str, str]) -> None:
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests.items())]
    write_text(root / NAME, "".join(lines))


def write(root: Path) -> int:
    """Lists every file of `root` in `root`/manifest.sha256. Returns their bytes."""
    names = files_of(root)
    write_digests(root, checksums(root, names, "checksums"))
    return sum((root / name).stat().st_size for name in names)


def add(root: Path, folder: str) -> None:
    """Lists the files of `root`/`folder` too, where `root` has a manifest."""
    if not (root / NAME).is_file():
        return
    kept = {name: digest for name, digest in read(root).items() if Path(name).parts[0] != folder}
    names = [name for name in files_of(root) if Path(name).parts[0] == folder]
    write_digests(root, kept | checksums(root, names, "checksums"))


def check(root: Path) -> None:
    """Compares a tree with its manifest, and says so. Raises BadInput naming what differs."""
    if not (root / NAME).is_file():
        raise BadInput(f"{root}: has no {NAME}; it was not prepared to its end, prepare it again")
    expected, present = read(root), set(files_of(root))
    problems = [f"{name}: missing" for name in expected if name not in present]
    problems += [f"{name}: not of this set" for name in sorted(present - expected.keys())]
    names = [name for name in expected if name in present]
    for name, digest in checksums(root, names, "checking").items():
        if digest != expected[name]:
            problems.append(f"{name}: changed since it was prepared")
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise BadInput(f"{root}: {len(problems)} of {len(expected)} files differ{shown}{more}")
    print(f"{root}: all {len(expected)} files are as they were prepared")
