"""How bad input and interruptions end a command: one clear line and a non-zero exit status."""

import io
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing import active_children

import torch.distributed

from utils.machine import shortage


class BadInput(ValueError):
    """The user's input cannot be used. The message: argument, rule, value, what mends it."""


def check_at_least(least: float, **flags: float) -> None:
    """Raises BadInput for a flag whose value is smaller than `least`, or nan."""
    for flag, value in flags.items():
        if not value >= least:
            raise BadInput(f"--{flag} {value}: must be at least {least}")


def check_positive(**flags: float) -> None:
    """Raises BadInput for a flag whose value is not greater than 0."""
    for flag, value in flags.items():
        if not value > 0:
            raise BadInput(f"--{flag} {value}: must be > 0")


told: list[str] = []  # what was said of an interruption
advice: list[str] = []  # what to do after this process was interrupted


def advise(line: str) -> None:
    """Sets what is added where a command ends because of its surroundings, such as Ctrl-C."""
    advice[:] = [line]


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's main(); exit status 2 for bad input and what the machine lacks or refuses,
    130 for Ctrl-C and SIGTERM, 141 where nobody reads the output any more, as `| head`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as shells start what is behind an `&`
            signal.signal(number, end_in_order)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show ends no run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
    except BadInput as error:
        message = str(error).rsplit("BadInput: ", 1)[-1]  # without the traceback of a data worker
        if (encoding := sys.getfilesystemencoding()) != "utf-8":
            message = f"{message.strip()}; names of files are {encoding} here; set PYTHONUTF8=1"
        print(f"error: {message.strip()}", file=sys.stderr)
        leave(2)
    except BrokenPipeError:
        for number in (1, 2):  # what is still to be written goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        leave(141)
    except (OSError, EOFError, RuntimeError, MemoryError, UnicodeError) as error:
        if not (message := shortage(error)):
            raise
        sys.unraisablehook = lambda unraisable: None  # a loader that is half there cannot be ended
        print("; ".join([f"error: {message}", *advice]), file=sys.stderr)
        leave(2)
    except KeyboardInterrupt as stop:
        say_interrupted(str(stop))
        leave(130)


def end_in_order(number: int, frame) -> None:
    """At the first Ctrl-C or SIGTERM: files and processes are tidied up. A second one does not wait
    for that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end_at_once)
    raise KeyboardInterrupt


def say_interrupted(how: str = "") -> None:
    """Once, also where a second signal comes before the first has ended all."""
    if not told:
        told.append(how or "interrupted")
        print("\n" + "; ".join([*told, *advice]), file=sys.stderr, flush=True)


def end_at_once(number: int, frame) -> None:
    say_interrupted()
    for process in active_children():
        process.terminate()
    os._exit(130)


def leave(status: int) -> None:
    """Ends this process; one of several without waiting for the others, which may wait for it."""
    if not torch.distributed.is_initialized():
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
