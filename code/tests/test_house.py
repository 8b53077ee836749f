"""The house: which room may import from which. Arrows run down, commands import no command."""

import ast
from pathlib import Path

import pytest
from commands import CODE

FLOORS = {  # a room may import from its own and from lower ones
    "utils": 0,
    "mmpareto": 0,
    "trials": 0,
    "dataset": 1,
    "models": 1,
    "methods": 2,
    "training": 3,
    "analysis": 4,
    "figures": 5,
}
COMMANDS = {file.stem for file in CODE.glob("*.py")} - {"mmpareto"}
FILES = [f.relative_to(CODE) for f in sorted(CODE.rglob("*.py"))]
FILES = [f for f in FILES if f.parts[0] not in ("tests", "examples", "script", "runs")]


def imported(file: Path) -> set[str]:
    """The rooms and commands that a file imports from."""
    names = set()
    for node in ast.walk(ast.parse((CODE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("room", [*FLOORS, "commands"])
def test_arrows_run_down_and_no_command_is_imported(room):
    if room == "commands":
        files = [f for f in FILES if f.stem in COMMANDS and len(f.parts) == 1]
    else:
        files = [f for f in FILES if f.parts[0] in (room, f"{room}.py")]
    assert files
    below = {other for other in FLOORS if other == room or FLOORS[other] < FLOORS.get(room, 9)}
    for file in files:
        rooms = imported(file) & (FLOORS.keys() | COMMANDS)
        if file == Path("training/workers.py"):  # a run is what train.py does, a probe evaluate.py
            rooms -= {"train", "evaluate"}
        assert rooms <= below, f"{file} imports from {', '.join(rooms - below)}"


def test_every_folder_with_code_is_a_room_that_is_known():
    folders = {f.parts[0] for f in FILES if len(f.parts) > 1}
    assert folders == FLOORS.keys() - {"mmpareto"}


def test_code_is_no_package():
    """`code/__init__.py` would shadow Python's own module `code`, and pdb with it."""
    assert not (CODE / "__init__.py").exists()
