"""Files cut short and damaged at random, and what a reader makes of them."""

import os
import random
import time

from utils.errors import BadInput

QUICK = range(12)  # seeds of the quick suite; the slow tests have those of --fuzz


def outcome(read, path):
    """What `read` gives of a file; None where it is refused by its name, whatever else is wrong."""
    try:
        return read(path)
    except BadInput as problem:
        assert path.name in str(problem)
        return None


def cut(content, seed):
    draw = random.Random(seed)
    last_bytes = draw.randrange(1, min(40, len(content)))
    return content[: draw.choice([draw.randrange(len(content)), -last_bytes])]


def damaged(content, seed):
    """Some bytes changed, more often in the first part, where the headers are."""
    draw, changed = random.Random(seed), bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 5])):
        changed[int(len(content) * draw.random() ** draw.choice([1, 5]))] = draw.randrange(256)
    return bytes(changed)


def fails(files, how):
    """Work that ends in any way at one file, and leaves its mark for others."""
    if files[0].name != "bad.mp4":
        files[0].touch()
    elif isinstance(how, Exception):
        if isinstance(how, OSError):
            how.filename = str(files[0])
        raise how
    elif how == "recursion":
        fails(files, how)
    elif how == "encoding":
        b"\xff".decode()
    elif how == "exit":
        os._exit(3)
    elif how == "hang":
        time.sleep(60)
    else:
        os.kill(os.getpid(), how)
