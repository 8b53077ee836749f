"""The options of runs that are stored, older ones too: completed, checked, compared."""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path

from training.flags import FlagParser, room_flags, shared_flags
from utils import registry
from utils.errors import BadInput


@cache
def flags_of(
    method: str, encoder: str, fusion: str, readers: tuple[tuple[str, str], ...]
) -> tuple[dict[str, object], dict[str, str], dict[str, argparse.Action]]:
    """({flag: default}, {flag: what it touches}, {flag: its action}) of all runs with these
    choices."""
    parser = FlagParser(add_help=False)
    shared_flags(parser)
    room_flags(parser, method, encoder, fusion, dict(readers))
    actions = {action.dest: action for action in parser.actions.values()}
    return vars(parser.parse_args([])), parser.touches, actions


def flags_of_run(
    content: dict,
) -> tuple[dict[str, object], dict[str, str], dict[str, argparse.Action]]:
    """`flags_of` the run whose options.json holds `content`."""
    options, readers = content["options"], tuple(readers_of_run(content).items())
    return flags_of(options["method"], options["encoder"], options["fusion"], readers)


def readers_of_run(content: dict) -> dict[str, str]:
    """{modality: its file in modalities/} of the run whose options.json holds `content`."""
    options, data = content["options"], content.get("data") or {}
    dataset = registry.load_class("dataset", options["dataset"], "--dataset")
    readers = data.get("readers") or dataset.modalities
    return {modality: readers[modality] for modality in options["modalities"]}


REMOVED = {"missing": "drop", "mbt_layer": None}  # a flag that is gone: what its absence means
# a flag whose default is not what older runs did: what they did
BEFORE = {"agm_head": False, "cagrad_rescale": "paper"}


def completed(path: Path, content: dict) -> dict:
    """The options of a run stored in the file `path`: those it lacks, being older than a flag, have
    its default, or what BEFORE names.

    Raises BadInput where it was begun with a flag that is gone.
    """
    defaults, _, actions = flags_of_run(content)
    stored = content["options"]
    for flag, usual in REMOVED.items():
        if stored.get(flag, usual) != usual:
            raise BadInput(
                f"{path}: was begun with --{flag} {stored[flag]}, which is no longer there; use "
                f"the code it was begun with, commit {content['environment']['commit']}"
            )
    if "schedule" not in stored:  # there --lr_decay_step 0 meant none
        if stored.get("lr_decay_step"):
            stored = stored | {"schedule": "step"}
        else:
            stored = stored | {"lr_decay_step": None, "lr_decay_ratio": None}
    options = jsonable(defaults) | {k: v for k, v in (BEFORE | stored).items() if k in defaults}
    for flag, value in options.items():
        if not could_be(value, actions[flag]):
            raise BadInput(f"{path}: no run has --{flag} {value!r}; undo the change")
    return options


def could_be(value: object, action: argparse.Action) -> bool:
    """Whether options.json may hold this value of a flag."""
    if action.dest == "modalities" or value == action.default:
        return True
    if action.nargs == 0:
        return value is None or isinstance(value, bool)
    try:
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        read = action.type(text) if action.type else text
    except (ValueError, argparse.ArgumentTypeError):
        return False
    is_choice = action.choices is None or value in action.choices
    return is_choice and jsonable([read]) == [value]


def growing(options: dict) -> set[str]:
    """The flags that may be greater on --resume than the run was begun with: what was trained so
    far is then what a longer run would have trained."""
    return set() if options["schedule"] == "cosine" else {"epochs"}


def jsonable(options):
    """Options as options.json stores them."""
    return json.loads(json.dumps(options, default=str))
