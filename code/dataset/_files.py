"""Which files there are: one walk for all preparations, readers, caches and manifests."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from dataset._samples import fault_of
from utils.errors import BadInput

# What systems, browsers and editors leave between files: hidden files, macOS's resource forks and
# `__MACOSX`, Windows' `Thumbs.db` and `desktop.ini`, locks, copies that editors keep, parts.
NO_DATA = re.compile(
    r"\..*|__MACOSX|Icon\r|(eh)?Thumbs\.db|desktop\.ini|~\$.*|.*~|"
    r".*\.(tmp|temp|lock|lck|swp|part|partial|crdownload)",
    re.IGNORECASE | re.DOTALL,
)
LEFTOVER = "belongs to no data set"
SHOWN = 20  # of many names


def look_into(folder: Path) -> tuple[list[Path], dict[Path, str]]:
    """(its files and folders in the order of their names, {what is left out: why}).

    Left out is what no data set means, what cannot be named in a list of samples, and what is
    neither a file nor a folder, such as a link that leads nowhere. Both empty without a folder.
    Raises BadInput for a folder that cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return [], {}
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror})") from None
    kept, left_out = [], {}
    for name in names:
        path = folder / name
        if NO_DATA.fullmatch(name):
            left_out[path] = LEFTOVER
        elif fault := fault_of(name):
            left_out[path] = f"its name {fault}"
        elif not os.path.isfile(path) and not os.path.isdir(path):
            left_out[path] = "no file and no folder"
        else:
            kept.append(path)
    return kept, left_out


def entries_of(folder: Path) -> list[Path]:
    """Its files and folders in the order of their names, without what belongs to no data set."""
    return look_into(folder)[0]


def id_of(entry: Path) -> str:
    """The sample that a file or a folder of a modality belongs to: its name without the suffix."""
    return entry.name if entry.is_dir() else entry.stem


def walk(root: Path) -> tuple[list[Path], dict[Path, str]]:
    """(all files below a folder in the order of their paths, {what is left out: why}).

    Links to folders are followed, after all that lies there itself, and each folder is read once: a
    link to one that was read, or that holds `root`, is left out.
    """
    files, left_out = [], {}
    read = {os.path.realpath(folder) for folder in Path(os.path.realpath(root)).parents}
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if (real := os.path.realpath(folder)) in read:
            left_out[folder] = "a link to a folder that is read already"
            continue
        read.add(real)
        try:
            kept, faults = look_into(folder)
        except BadInput as problem:
            kept, faults = [], {folder: str(problem)}
        left_out |= faults
        for path in kept:
            if not path.is_dir():
                files.append(path)
            else:
                (links if path.is_symlink() else folders).append(path)
    return sorted(files), left_out


def files_below(root: Path) -> list[Path]:
    """All files below a folder in the order of their paths, see `walk`."""
    return walk(root)[0]


def raw_files(root: Path) -> list[Path]:
    """All files below a folder; says what is left out."""
    files, left_out = walk(root)
    tell_left_out(root, left_out)
    return files


def one_for_each(files: Iterable[Path], id_of: Callable[[Path], str | None]) -> dict[str, Path]:
    """{id: its file}, the least deep one, then the first by its path; says which others there are.

    id_of: of a file; None for a file that is none of a sample, which is passed over.
    """
    chosen: dict[str, Path] = {}
    others = {}
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        if (name := id_of(path)) is not None and chosen.setdefault(name, path) != path:
            others[path] = f"{chosen[name]} is of the same sample"
    if others:
        tell_left_out(Path(os.path.commonpath([path.parent for path in others])), others)
    return {name: chosen[name] for name in sorted(chosen)}


def tell_left_out(root: Path, left_out: dict[Path, str]) -> None:
    """Prints how many files and folders of `root` are left out, and which and why; what belongs to
    no data set comes last."""
    if not left_out:
        return
    paths = sorted(left_out, key=lambda path: (left_out[path] == LEFTOVER, path))
    some = [f"{os.path.relpath(path, root)}: {left_out[path]}" for path in paths[:SHOWN]]
    more = "; ..." if len(left_out) > SHOWN else ""
    line = f"NOTE: {len(left_out)} left out of {root}: {'; '.join(some)}{more}"
    print(line.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n"), flush=True)
