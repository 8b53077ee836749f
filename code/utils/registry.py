"""A room is a folder of code/; what is in it is chosen by file name. No list to edit."""

import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

from utils.command import Parser
from utils.errors import BadInput

CODE = Path(__file__).resolve().parents[1]
CLASSES = {  # room -> the class that each of its files exports
    "methods": "Method",
    "models/encoders": "Encoder",
    "models/fusion": "Fusion",
    "dataset": "Dataset",
    "dataset/modalities": "Modality",
}


class Contract:
    """What the base class of a room derives from: its public names are all the hooks there are.

    A public name of a file's class that is no hook is refused when the file is loaded, so that a
    misspelt hook is not passed over in silence. Helpers begin with an underscore. Files whose name
    begins with one hold base classes too, and may add hooks.
    """

    @staticmethod
    def add_options(parser) -> None:
        """The flags of a file's class; it is built with exactly these, as keyword arguments."""

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        *folders, file = cls.__module__.split(".")
        room = "/".join(folders)
        if room not in CLASSES or cls.__module__.replace(".", "/") in CLASSES or file[0] == "_":
            return
        parents = cls.__mro__[1:]
        known = {name for parent in parents for name in public_names(parent)}
        if unknown := sorted(public_names(cls) - known):
            ours = [parent for parent in parents if issubclass(parent, Contract)]
            hooks = sorted({name for parent in ours for name in public_names(parent)})
            raise BadInput(
                f"{room}/{file}.py: {cls.__name__}.{unknown[0]} is no hook; choose from "
                f"{', '.join(hooks)}, or begin the name of a helper with _"
            )


def public_names(owner: type) -> set[str]:
    """What a class itself defines or declares, without what begins with an underscore."""
    declared = [*vars(owner), *vars(owner).get("__annotations__", {})]
    return {name for name in declared if not name.startswith("_")}


def names(room: str) -> list[str]:
    """The choices in a room such as "methods" or "models/encoders": its files, sorted."""
    return sorted(p.stem for p in (CODE / room).glob("*.py") if p.stem[0] not in "_.")


def load(room: str, name: str, flag: str) -> ModuleType:
    """The module `room/name.py`. Raises BadInput naming `flag` and the choices if there is none."""
    if name not in names(room):
        choices = ", ".join(names(room))
        raise BadInput(f"{flag} {name}: no file {room}/{name}.py; choose from {choices}")
    return import_module(f"{room}/{name}".replace("/", "."))


@cache
def load_class(room: str, name: str, flag: str) -> type:
    """The class that `room/name.py` exports.

    Raises BadInput where it exports none, and where it declares a flag that the class does not take
    as a keyword argument.
    """
    module, wanted = load(room, name, flag), CLASSES[room]
    there = dict(inspect.getmembers(module, inspect.isclass))
    there = {n: c for n, c in there.items() if c.__module__ == module.__name__}
    if wanted not in there or not issubclass(there[wanted], Contract):
        raise BadInput(
            f"{flag} {name}: {room}/{name}.py exports no class {wanted} that derives from a base "
            f"class of {room}/__init__.py; its classes: {', '.join(there) or 'none'}"
        )
    taken = inspect.signature(there[wanted]).parameters
    if unknown := [declared for declared in defaults(there[wanted]) if declared not in taken]:
        raise BadInput(
            f"{room}/{name}.py: declares the flag --{unknown[0]}, which {wanted} does not take; it "
            f"takes {', '.join(taken) or 'nothing'}"
        )
    return there[wanted]


def parser_of_flags(owner: type) -> Parser:
    """A parser of `owner`'s flags alone."""
    parser = Parser(add_help=False)
    owner.add_options(parser)
    return parser


@cache
def defaults(owner: type) -> Mapping[str, object]:
    """{flag: default} of what `owner.add_options` adds to the command line."""
    return MappingProxyType(vars(parser_of_flags(owner).parse_args([])))


def settings(owner: type, flags: Mapping[str, object]) -> dict[str, object]:
    """Those of `flags` that `owner.add_options` declares: the keywords it is built with."""
    return {flag: flags[flag] for flag in defaults(owner) if flag in flags}
