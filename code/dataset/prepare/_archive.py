"""Archives to folders, whatever is in the archive."""

import gzip
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from dataset._files import raw_files, tell_left_out
from dataset._limits import LIMITS, check_cost, naming
from utils.atomic import new_folder, remove_leftovers
from utils.errors import BadInput

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
BLOCK = 2**20  # bytes read at a time


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks a zip or tar file to `folder`, unless that is there; it appears complete or not at
    all.

    Raises BadInput for a damaged archive (its checksums are compared), for one with a name or a
    link that leads out of the folder, and for one that holds too much.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, folder.name)
    print(f"unpacking {archive} to {folder}", flush=True)
    with naming(archive, what="cannot be unpacked"), new_folder(folder) as temporary:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:  # writes links as plain files
                members = file.infolist()
                for member in members:
                    if leads_out(member.filename):
                        raise BadInput(f"{archive}: {member.filename!r} leads out of the archive")
                check_unpacked(archive, temporary, sum(member.file_size for member in members))
                file.extractall(temporary)
        else:
            with opened_tar(archive) as file:
                counted = counted_members(file, archive, temporary)
                file.extractall(temporary, members=counted, filter="data")
    return folder


def raw_with_folders(source: Path, downloads: Path) -> Iterator[tuple[Path, list[str]]]:
    """(file, the folders that it lies in, from the source's own on). The files of an archive lie in
    a folder of its name; they are unpacked below `downloads`, anew for an archive that changed. An
    archive in an archive is left out, which is said."""
    home = Path(os.path.abspath(source))  # so that `--source .` has a name
    if is_archive(source):
        home, paths = home.parent, [home]
    else:
        paths = [home / path.relative_to(source) for path in raw_files(source)]
    nested = {}
    for path in paths:
        folders = [home.name, *path.relative_to(home).parts[:-1]]
        if not is_archive(path):
            yield path, folders
            continue
        name, status = path.name.split(".")[0], path.stat()
        stamp = zlib.crc32(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
        unpacked = unpack(path, downloads / f"{name}-{stamp:08x}")
        for file in raw_files(unpacked):
            if is_archive(file):
                nested[file] = "an archive in an archive, unpack it"
            else:
                yield file, [*folders, name, *file.relative_to(unpacked).parts[:-1]]
    tell_left_out(downloads, nested)


def leads_out(name: str) -> bool:
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.anchor or ".." in path.parts for path in paths)


def check_unpacked(archive: Path, folder: Path, size: int) -> None:
    """Raises BadInput where an archive holds more than it can mean, or than the disk can hold."""
    check_cost(times_the_bytes_of_the_archive=size / archive.stat().st_size)
    if size > (free := shutil.disk_usage(folder).free):
        raise BadInput(f"{archive}: holds {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


@contextmanager
def opened_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """A tar file, packed by gzip or not. Where all went well it has been read to its end, so that
    its checksum was compared: what follows the members must be zeros, at least a block of them."""
    with open(archive, "rb") as file, ExitStack() as stack:
        if file.read(2) == b"\x1f\x8b":
            file = stack.enter_context(gzip.open(archive))
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
            file.seek(tar.offset)
            count = 0
            while block := file.read(BLOCK):
                if block.strip(b"\0"):
                    raise BadInput(f"{archive}: damaged, what follows its members is none")
                count += len(block)
            if count < tarfile.BLOCKSIZE:
                raise BadInput(f"{archive}: truncated, it has no end")


def counted_members(tar: tarfile.TarFile, archive: Path, folder: Path) -> Iterator[tarfile.TarInfo]:
    """Its members, as long as they do not become too much."""
    size = 0
    for member in tar:
        size += member.size
        check_unpacked(archive, folder, size)
        yield member


def read_gzip(path: Path) -> bytes:
    """What a file packed by gzip holds; its checksum is compared."""
    with naming(path), gzip.open(path) as file:
        content = file.read(LIMITS["bytes"] + 1)
        check_cost(bytes=len(content))
        return content
