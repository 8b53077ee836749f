"""A room is a folder of code/; what is in it is chosen by file name. No list to edit."""

import argparse
from importlib import import_module
from pathlib import Path
from types import ModuleType

from utils.errors import BadInput

CODE = Path(__file__).resolve().parents[1]


def names(room: str) -> list[str]:
    """The choices in a room such as "methods" or "models/encoders": its files, sorted."""
    return sorted(p.stem for p in (CODE / room).glob("*.py") if not p.stem.startswith("_"))


def load(room: str, name: str, flag: str) -> ModuleType:
    """The module `room/name.py`. Raises BadInput naming `flag` and the choices if there is none."""
    if name not in names(room):
        choices = ", ".join(names(room))
        raise BadInput(f"{flag} {name}: no file {room}/{name}.py; choose from {choices}")
    return import_module(f"{room}/{name}".replace("/", "."))


def parser_of_flags(owner: type) -> argparse.ArgumentParser:
    """Of what `owner.add_options` adds to the command line alone; it raises where others exit."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    if hasattr(owner, "add_options"):
        owner.add_options(parser)
    return parser


def defaults(owner: type) -> dict[str, object]:
    """{flag: default} of what `owner.add_options` adds to the command line."""
    return vars(parser_of_flags(owner).parse_args([]))


def settings(owner: type, options) -> dict[str, object]:
    """The values of the flags that `owner.add_options` declares, by name; {} without options.

    A flag that `options` (of an older run) does not have keeps its default.
    """
    if options is None:
        return {}
    return {k: getattr(options, k, v) for k, v in defaults(owner).items()}
