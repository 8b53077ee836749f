"""Files and folders that are either complete or not there, whenever the process dies."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from utils.errors import BadInput

HELD = (errno.EACCES, errno.EAGAIN)  # how a system says that another process has the lock
_claims: list[IO] = []  # the one of this process, kept open


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """An OSError in this block names `path` where it names no file, as that of a full disk does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the path this yields; on success it replaces `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming_file(path):
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append(path: Path, text: str) -> None:
    """Adds `text` to the end of a file. It is on the disk when this returns."""
    with naming_file(path), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill the folder this yields; on success it becomes `path`, else it is removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this number
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        try:
            shutil.rmtree(temporary, ignore_errors=True)
        finally:  # torch raises anywhere, here too, when another process that reads data dies
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process of the machine at a time, by a lock on the file `path`."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(path: Path) -> None:
    """Makes this process the only one that has a lock on the file `path`, until it ends or claims
    another. The kernel releases it, however the process ends.

    Raises BadInput naming the process that has it. Says so where the file system has no locks.
    """
    release_claim()
    with naming_file(path):
        file = open(path, "a+", encoding="utf-8")
    _claims.append(file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock: workers do not inherit it
    except OSError as error:
        if error.errno not in HELD:
            print(
                f"NOTE: {path}: no locks here ({error.strerror}); resume in one process at a time"
            )
            return
        file.seek(0)
        raise BadInput(
            f"{path.parent}: {file.read() or 'another process'} writes into it; wait for its end, "
            "or end it"
        ) from None
    with naming_file(path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()


def release_claim() -> None:
    """Gives up what this process has claimed."""
    while _claims:
        _claims.pop().close()


def final_name(path: Path) -> str:
    """The name that `path` has, or will have where `new_folder` has yielded it."""
    if path.name.startswith(".") and path.name.endswith(".tmp"):
        return path.name[1:].rsplit(".", 2)[0]
    return path.name


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Removes what killed processes left in `folder` of `replacing` and `new_folder`.

    name: of the file or folder that was to appear, by default any. What a living process writes is
    left alone.
    """
    for leftover in folder.glob(f".{glob.escape(name) if name else '*'}.*.tmp"):
        process = leftover.name.split(".")[-2]
        if not process.isdecimal():
            continue
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        except PermissionError:  # it lives, as somebody else's
            pass


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
