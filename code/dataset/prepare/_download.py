"""Downloads that go on where they were interrupted and are checked before anyone sees them."""

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from utils.atomic import locked
from utils.errors import BadInput

T = TypeVar("T")
TIMEOUT_SECONDS = 60  # in which nothing arrives


def fetch(urls: list[str], path: Path, read: Callable[[Path], T]) -> T:
    """What `read` gives of `path`; unless that is there, the first of `urls` is downloaded of which
    `read` raises no BadInput.

    `read` checks the content (`check_sha256`), not the archive: archives are packed anew now and
    then while what is in them stays. An interrupted download leaves a hidden .part file, and the
    next call goes on with it where the server can. Raises BadInput naming every address tried.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    with locked(path.with_name(f".{path.name}.lock")):
        if path.is_file():
            try:
                return read(path)
            except BadInput as problem:
                raise BadInput(f"{problem}; delete {path} and run it again") from None
        for url in urls:
            part = path.with_name(f".{path.name}.{zlib.crc32(url.encode()):08x}.part")
            try:
                download(url, part, path.name)
                content = read(part)
                os.replace(part, path)
                return content
            except BadInput as problem:
                part.unlink()
                problems.append(f"{url} (not what was expected: {problem})")
            except (OSError, http.client.HTTPException, ValueError) as error:
                problems.append(f"{url} ({error or type(error).__name__})")
    raise BadInput(
        f"cannot download {path.name}: {'; '.join(problems)}; try again, or put the file at {path}"
    )


def download(url: str, part: Path, title: str) -> None:
    """Fills `part` with what `url` gives, going on after the bytes it has."""
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the part is not a part of what there is now
            raise
        part.unlink()
        return download(url, part, title)
    with answer:
        if answer.status != 206:  # from the start
            done = 0
        length = answer.headers.get("Content-Length")
        total = int(length) + done if length else None
        bar = {"total": total, "initial": done, "desc": title, "disable": None}
        with (
            open(part, "ab" if done else "wb") as file,
            tqdm.wrapattr(answer, "read", **bar) as stream,
        ):
            shutil.copyfileobj(stream, file)
    if total and part.stat().st_size != total:
        raise OSError(f"{part.stat().st_size} of {total} bytes; run it again to go on")


def check_sha256(name: str, content: bytes, expected: str) -> None:
    """Raises BadInput where the SHA-256 of `content` is not `expected`."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BadInput(f"{name}: SHA-256 of its content is {found}, expected {expected}")
