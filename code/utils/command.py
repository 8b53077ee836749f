"""How every command reads its line: help as written, a wrong value answered in one line."""

import argparse
import math
from collections.abc import Callable

from utils.errors import BadInput


class Parser(argparse.ArgumentParser):
    """A parser whose errors are BadInput: one line, without the usage of all flags."""

    def __init__(self, prog: str = "", description: str = "", **settings):
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, description=description, allow_abbrev=False, **settings)

    def declares(self, flag: str) -> bool:
        return flag in self._option_string_actions

    def error(self, message: str):
        """argparse's "argument --epochs: 0: must ..." becomes "--epochs 0: must ..."."""
        if message.startswith("argument "):
            message = message.removeprefix("argument ").replace(": ", " ", 1)
        raise BadInput(message)


def number(kind: type, rule: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """A type of flags: a number for which `holds`; `rule` says so in words."""

    def read(text: str) -> float:
        value = kind(text)
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{value}: must be {rule}")
        return value

    read.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return read


count = number(int, "at least 1", lambda n: n >= 1)
natural = number(int, "at least 0", lambda n: n >= 0)
positive = number(float, "a positive number", lambda x: 0 < x < math.inf)
non_negative = number(float, "at least 0", lambda x: 0 <= x < math.inf)
share = number(float, "at least 0 and below 1", lambda x: 0 <= x < 1)


def listed(kind: type) -> Callable[[str], list]:
    """A type of flags: several values with commas between them."""

    def read(text: str) -> list:
        return [kind(part) for part in text.split(",")]

    read.__name__ = f"list of {kind.__name__}"
    return read


def each(kind: Callable[[str], float]) -> Callable[[str], float | str]:
    """A type of flags: a number for all modalities, or as text a number for each that is named,
    such as audio=2,visual=0.5."""

    def read(text: str) -> float | str:
        if "=" not in text:
            return kind(text)
        parts = [part.partition("=") for part in text.split(",")]
        if len({name for name, _, _ in parts}) < len(parts):
            raise argparse.ArgumentTypeError(f"{text}: names a modality twice")
        return ",".join(f"{name.strip()}={kind(number)}" for name, _, number in parts)

    read.__name__ = kind.__name__
    return read


def pairs(words: list[str]) -> list[tuple[str, str | None]]:
    """[(flag without dashes, what was given for it)] in order; None for one without a value."""
    found: list[tuple[str, str | None]] = []
    for position, word in enumerate(words):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found.append((name, value or None))
        elif position == 0 or not words[position - 1].startswith("--"):
            raise BadInput(f"{word}: belongs to no flag; write lists without blanks, such as 0,1,2")
        else:
            found[-1] = (found[-1][0], word)
    return found


def whole(text: str) -> str:
    """The type of a flag whose value may hold commas: a sweep does not split it."""
    return text


def run_names(text: str) -> str:
    """The type of a flag that names a run for each modality, see `models.of_runs`."""
    return text
