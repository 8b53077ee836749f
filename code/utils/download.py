"""Downloads that are checked before anyone sees them."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from utils.atomic import replacing
from utils.errors import BadInput


def fetch(urls: tuple[str, ...], path: Path) -> Path:
    """Downloads the first of `urls` that answers to `path`, unless `path` is there already.

    The caller checks the content (`check_sha256`), since archives are packed anew now and then
    while what is in them stays. Raises BadInput naming every address tried.
    """
    if path.is_file():
        return path
    problems = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, replacing(path) as temporary:
                total = int(answer.headers.get("Content-Length") or 0) or None
                with (
                    open(temporary, "wb") as file,
                    tqdm.wrapattr(
                        answer, "read", total=total, desc=path.name, disable=None
                    ) as stream,
                ):
                    shutil.copyfileobj(stream, file)
                if total and temporary.stat().st_size != total:
                    raise OSError(f"{temporary.stat().st_size} of {total} bytes")
            return path
        except (urllib.error.URLError, OSError) as error:
            problems.append(f"{url} ({error})")
    raise BadInput(f"cannot download {path.name}: " + "; ".join(problems))


def check_sha256(name: str, content: bytes, expected: str) -> None:
    """Raises BadInput where the SHA-256 of `content` is not `expected`."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BadInput(f"{name}: SHA-256 of its content is {found}, expected {expected}; delete it")
