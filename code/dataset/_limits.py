"""One bad file never ends all: whatever fails at it names it, and none costs more than this."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import BadInput

# The most that one file may hold, whatever its header promises: some 2 GB of memory at their worst.
LIMITS = {
    "pixels": 50_000_000,  # of a picture or of a frame of a video
    "frames": 200_000,  # of a video, two hours at 25 per second
    "seconds of sound": 7200,
    "samples": 50_000_000,  # of sound, as it is and resampled: 17 minutes at 48 kHz
    "bytes": 500_000_000,  # of the frames that are taken, of an array, of a file that is read whole
    "numbers": 25_000_000,  # of an array
    "vertices and faces": 2_000_000,
    "bytes of text": 5_000_000,
    "times the bytes of the archive": 100,  # unpacked; meshes have 5
}


def check_cost(**amounts: float) -> None:
    """Raises BadInput for more than LIMITS allow; `naming` adds whose it is. A blank in the name
    of a limit is `_` here."""
    for name, amount in amounts.items():
        what = name.replace("_", " ")
        if not amount <= LIMITS[what]:
            raise BadInput(f"too large, {amount:,.0f} {what}; at most {LIMITS[what]:,} are read")


@contextmanager
def naming(
    *paths: Path, what: str = "unreadable", but: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Whatever is raised inside becomes BadInput that names the file or files: decoders fail in any
    way.

    what: is wrong with the file where something is raised that does not say so; but: what is raised
    as it is.
    """
    names = ", ".join(map(str, paths))
    try:
        yield
    except BadInput as problem:
        if paths and not any(path.name in str(problem) for path in paths):
            problem.args = (f"{names}: {problem}",)
        raise
    except but:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        line = "".join(x if x.isprintable() else "?" for x in reason.splitlines()[0][:300])
        raise BadInput(f"{names}: {what} ({line})") from error
