"""A room is a folder of code/; what is in it is chosen by file name. No list to edit."""

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
