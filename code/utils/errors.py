"""How bad input and interruptions end a command: one clear line and a non-zero exit status."""

import os
import sys
from collections.abc import Callable


class BadInput(ValueError):
    """The user's input cannot be used. The message: argument, rule, value, what mends it."""


advice: list[str] = []  # what to do after this process was interrupted


def advise(line: str) -> None:
    """Sets what `run_command` and `distributed.stop` add to "interrupted"."""
    advice[:] = [line]


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's main(); exit status 2 for bad input, 130 for Ctrl-C."""
    try:
        main()
    except BadInput as error:
        message = str(error).rsplit("BadInput: ", 1)[-1]  # without the traceback of a data worker
        print(f"error: {message.strip()}", file=sys.stderr)
        leave(2)
    except KeyboardInterrupt as stop:
        print("\n" + "; ".join([str(stop) or "interrupted", *advice]), file=sys.stderr)
        leave(130)


def leave(status: int) -> None:
    """Ends this process; one of several without waiting for the others, which may wait for it."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
