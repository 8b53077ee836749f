"""Archives to folders, whatever is in the archive."""

import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from utils.atomic import new_folder, remove_leftovers
from utils.errors import BadInput

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks a zip or tar file to `folder`, unless that is there; it appears complete or not at
    all.

    Raises BadInput for a damaged archive (its checksums are compared), and for one with a name or a
    link that leads out of the folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, folder.name)
    print(f"unpacking {archive} to {folder}", flush=True)
    damaged = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError)
    try:
        with new_folder(folder) as temporary:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:  # writes links as plain files
                    for name in file.namelist():
                        if leads_out(name):
                            raise BadInput(f"{archive}: {name!r} leads out of the archive")
                    file.extractall(temporary)
            else:
                with tarfile.open(archive) as file:
                    file.extractall(temporary, filter="data")
    except tarfile.FilterError as error:
        raise BadInput(f"{archive}: {error.tarinfo.name!r} leads out of the archive") from error
    except damaged as error:
        raise BadInput(f"{archive}: cannot be unpacked ({error})") from error
    return folder


def leads_out(name: str) -> bool:
    paths = PurePosixPath(name), PureWindowsPath(name)
    return any(path.anchor or ".." in path.parts for path in paths)
