"""A command line of train.py, read and checked: the options of a run."""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dataset import Dataset
from dataset.modalities import check_names
from methods import NEEDS, Method
from models.fusion import LateFusion
from models.multimodal import MultimodalModel
from models.of_runs import name_runs, start_encoders
from training import precision
from training.flags import (
    FlagParser,
    HelpWithDefaults,
    answer_published_flags,
    answer_unknown,
    room_flags,
    shared_flags,
)
from utils import distributed, registry
from utils.command import run_names
from utils.errors import BadInput
from utils.run_folder import name_of_run

DATA = Path(__file__).resolve().parents[2] / "data"


def numbers_of(options: argparse.Namespace, flag: str) -> dict[str, float]:
    """{modality: number} of a flag of type `each`; 1 for those that are not named.

    Raises BadInput for a name that is no modality of the run.
    """
    value, modalities = vars(options)[flag], options.modalities
    if not isinstance(value, str):
        return dict.fromkeys(modalities, value)
    named = {name: float(number) for name, number in (part.split("=") for part in value.split(","))}
    if unknown := sorted(named.keys() - set(modalities)):
        raise BadInput(
            f"--{flag} {value}: {unknown[0]} is no modality of this run; choose from "
            f"{', '.join(modalities)}"
        )
    return dict.fromkeys(modalities, 1.0) | named


def check_optimisation(options: argparse.Namespace) -> None:
    """Raises BadInput where a flag of the optimisation would do nothing, or names no modality."""
    check_schedule(options)
    if options.momentum is not None and options.optimizer != "sgd":
        raise BadInput(
            f"--momentum {options.momentum}: is of --optimizer sgd, not {options.optimizer}"
        )
    numbers_of(options, "encoder_rate_scale")
    weights = numbers_of(options, "unimodal_weight")
    method = registry.load_class("methods", options.method, "--method")
    if set(weights.values()) == {1.0}:
        return
    if len(options.modalities) == 1:
        obstacle = "one modality has no loss beside the multimodal one"
    elif not method.trains_unimodal_heads:
        obstacle = f"--method {options.method} trains no unimodal loss"
    elif method.undoes_weights:
        obstacle = f"--method {options.method} makes all losses count alike"
    else:
        return
    raise BadInput(
        f"--unimodal_weight {options.unimodal_weight}: {obstacle}; leave it out, or choose another "
        "method, such as uniform or mmpareto"
    )


def check_schedule(options: argparse.Namespace) -> None:
    """Gives --schedule step its defaults. Raises BadInput where its flags would do nothing."""
    for flag, default in {"lr_decay_step": 30, "lr_decay_ratio": 0.1}.items():
        value = vars(options)[flag]
        if options.schedule == "step":
            setattr(options, flag, value or default)
        elif value is not None:
            raise BadInput(
                f"--{flag} {value}: is of --schedule step, not {options.schedule}. Leave it out "
                "for the published runs: their code builds that schedule and never steps it"
            )


# on which it depends what flags there are
CHOOSING = ("dataset", "data_root", "modalities", "method", "encoder", "fusion")


def build_parser(
    argv: list[str] | None, known: dict[tuple, Any] | None = None
) -> tuple[FlagParser, argparse.Namespace]:
    """The parser of a command line, and what the line chooses: data set, method, modalities.

    The flags of the method and of the modalities' readers are added once both are known, so a flag
    that the chosen ones do not use is refused instead of ignored.

    known: what earlier lines of the same command needed, by what they chose; a line that chooses
    the same builds no parser, and looks into no folder of data.
    """
    chosen, known = shared_part(argv), {} if known is None else known
    key = tuple(vars(chosen)[flag] for flag in CHOOSING)
    if key not in known:
        known[key] = parser_of(chosen)
    parser, chosen.dataset, chosen.modalities = known[key]
    return parser, chosen


def parser_of(chosen: argparse.Namespace) -> tuple[FlagParser, str, list[str]]:
    """(the parser of all lines that choose this, their data set, their modalities)."""
    name = choose_dataset(chosen.dataset)
    dataset = registry.load_class("dataset", name, "--dataset")
    readers = dataset.modalities_at(chosen.data_root)
    modalities = choose_modalities(chosen.modalities, readers)

    parser = FlagParser(
        prog="train.py",
        usage="train.py [flag ...]",
        description="Train encoders and a fusion head with a method for multimodal learning.\n"
        f"Flags and defaults below are those of --dataset {name} --method {chosen.method}.\n"
        "(*) changes no result, so it may be another on --resume.",
        epilog=describe_datasets(),
        formatter_class=HelpWithDefaults,
    )
    shared_flags(parser)
    readers = {m: readers[m] for m in modalities}
    room_flags(parser, chosen.method, chosen.encoder, chosen.fusion, readers)
    take_defaults(parser, dataset)
    return parser, name, modalities


def take_defaults(parser: FlagParser, dataset: type[Dataset]) -> None:
    """Those of a data set, of the flags that the parser has."""
    flags = {action.dest for action in parser.actions.values()}
    parser.set_defaults(**{k: v for k, v in dataset.defaults.items() if k in flags})


@cache
def parser_of_shared_flags(dataset: type[Dataset] | None = None) -> FlagParser:
    parser = FlagParser(add_help=False)
    shared_flags(parser)
    if dataset:
        take_defaults(parser, dataset)
    return parser


def shared_part(argv: list[str] | None) -> argparse.Namespace:
    """The shared flags of a command line that may hold others too, with the defaults of the data
    set that it chooses."""
    name = choose_dataset(parser_of_shared_flags().parse_known_args(argv)[0].dataset)
    dataset = registry.load_class("dataset", name, "--dataset")
    return parser_of_shared_flags(dataset).parse_known_args(argv)[0]


def parse(
    argv: list[str] | None = None, known: dict[tuple, Any] | None = None
) -> argparse.Namespace:
    """The options of one run, with defaults of the data set filled in and everything checked.

    known: as in `build_parser`; nor is a method built again to check the same flags.
    """
    known = {} if known is None else known
    distributed.place()  # refuses what is left over in the environment before it changes a default
    answer_published_flags(sys.argv[1:] if argv is None else argv)
    parser, chosen = build_parser(argv, known)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0].split("=")[0]
        raise BadInput(f"{word}: {answer_unknown(word, parser.actions)}")
    options.dataset, options.modalities = chosen.dataset, chosen.modalities
    if options.data_root is not None:
        check_there(options.data_root, options.dataset)
    options.data_root = options.data_root or DATA / chosen.dataset
    if options.val_fraction and options.val_speakers:
        raise BadInput(
            f"--val_fraction {options.val_fraction}, --val_speakers {options.val_speakers}: both "
            "hold out samples; give one"
        )
    for flag, action in parser.actions.items():
        if action.type is run_names and (text := vars(options)[flag]):
            named = name_runs(f"--{flag}", text, options.modalities, options.random_seed)
            setattr(options, flag, named)
    check_optimisation(options)
    method = registry.load_class("methods", options.method, "--method")
    check_needs(method, options)
    flags = (method, repr(registry.settings(method, vars(options))))
    if flags not in known:
        build_method(options)
        known[flags] = True
    options.device = choose_device(options)
    precision.resolve(options)
    options.run_name = choose_name(options)
    return options


def check_there(data_root: Path, dataset: str) -> None:
    """Raises BadInput where a named folder of data is not there: the demo set is generated only in
    its usual place, not where a name was mistyped."""
    if not data_root.exists():
        how = registry.load_class("dataset", dataset, "--dataset").how_to_prepare()
        raise BadInput(f"--data_root {data_root}: no such folder. {how}")


def build_method(options: argparse.Namespace) -> Method:
    """The method of a run. Raises BadInput for a flag out of range."""
    method = registry.load_class("methods", options.method, "--method")
    try:
        return method(**registry.settings(method, vars(options)))
    except ValueError as error:
        raise BadInput(str(error)) from None


def build_model(options: argparse.Namespace, dataset, readers: dict) -> MultimodalModel:
    """The model of a run, for the items that its readers give."""
    shapes = {modality: readers[modality].shape for modality in options.modalities}
    flags, classes = vars(options), dataset.classes
    model = MultimodalModel(shapes, len(classes), options.encoder, options.fusion, flags)
    if options.init_encoders and not options.resume:
        start_encoders(model, options.init_encoders, classes)
    return model


def describe_datasets() -> str:
    """Every data set: what it is, its modalities, and the defaults it changes."""
    lines = ["data sets, with the defaults that differ from those of the published CREMA-D run:"]
    for name in registry.names("dataset"):
        module = registry.load("dataset", name, "--dataset")
        defaults = registry.load_class("dataset", name, "--dataset").defaults
        lines += [f"  {name}", *(f"    {line}" for line in (module.__doc__ or "").splitlines())]
        if defaults:
            flags = [f"--{flag} {value}" for flag, value in defaults.items()]
            lines.append(" ".join(["    defaults", *flags]))
    return "\n".join(lines)


def choose_dataset(name: str) -> str:
    if name != "auto":
        return name
    return "cremad" if (DATA / "cremad" / "train.csv").is_file() else "demo"


def notice(argv: list[str] | None) -> str:
    """A line that must be printed where the user chose no data set and CREMA-D is not there."""
    if shared_part(argv).dataset != "auto" or choose_dataset("auto") == "cremad":
        return ""
    return (
        "NOTE: CREMA-D is not prepared under data/cremad, so this run uses the GENERATED DEMO SET. "
        "Its numbers say nothing about CREMA-D; to prepare that see data/README.md.\n"
    )


def choose_modalities(names: str | None, available: dict[str, str]) -> list[str]:
    """names: with commas between them; available: {modality: file in modalities/}."""
    modalities = list(available)
    if names is not None:
        modalities = [m.strip() for m in names.split(",") if m.strip()]
        unknown = [m for m in modalities if m not in available]
        if unknown or not modalities or len(set(modalities)) < len(modalities):
            choices = ",".join(available)
            raise BadInput(f"--modalities {names}: choose from {choices}, each at most once")
    check_names(modalities)
    return modalities


def check_needs(method: type[Method], options: argparse.Namespace) -> None:
    """Raises BadInput where the other flags do not give what the method needs, see NEEDS."""
    alone = len(options.modalities) == 1  # then nothing is fused, weighed or taught
    fusion = registry.load_class("models/fusion", options.fusion, "--fusion")
    fusion_flag = f"--fusion {options.fusion}"
    needs = {  # need: (is it met, what stands against it, what mends it)
        "whole_batch": (
            options.accumulate == 1,
            f"--accumulate {options.accumulate}: computes a batch in parts",
            "leave it out",
        ),
        "validation": (
            alone or options.val_fraction > 0 or options.val_speakers,
            "--val_fraction 0: nothing is held out",
            "such as --val_fraction 0.1, or --val_speakers",
        ),
        "unimodal_logits": (
            alone or fusion.has_unimodal_logits,
            f"{fusion_flag}: has no unimodal logits",
            "choose concat, cosine, sum",
        ),
        "gates": (alone or fusion.has_gates, f"{fusion_flag}: has no gates", "choose mmtm"),
        "late_fusion": (
            alone or issubclass(fusion, LateFusion),
            f"{fusion_flag}: encoders meet in it",
            "choose a late one, such as concat",
        ),
        "teachers": (
            alone or bool(vars(options).get("umt_teachers")),
            "--umt_teachers: not given",
            "such as audio=runs/A,visual=runs/B; train them with --method joint --modalities audio",
        ),
        "waits_for_device": (True, "", ""),
    }
    for need in sorted(method.needs):
        is_met, obstacle, mend = needs[need]
        if not is_met:
            raise BadInput(f"{obstacle}; --method {options.method} {NEEDS[need]}; {mend}")


def choose_device(options: argparse.Namespace) -> str:
    """ "cpu", "cuda" or "mps". Raises BadInput for one that is not there."""
    device = options.device
    if options.gpu_ids is not None:
        ids = options.gpu_ids.split(",")
        if not all(part.strip().isdecimal() for part in ids) or len({*map(int, ids)}) < len(ids):
            raise BadInput(
                f"--gpu_ids {options.gpu_ids}: give numbers of GPUs, each once, such as 0 or 0,1; "
                "names such as GPU-... and MIG-... are for CUDA_VISIBLE_DEVICES"
            )
        if len(ids) != distributed.local_world_size():
            raise BadInput(
                f"--gpu_ids {options.gpu_ids}: one process per GPU, so start {len(ids)}: NPROC="
                f"{len(ids)} sh script/... or torchrun --nproc_per_node={len(ids)} train.py ..."
            )
        if device not in ("auto", "cuda"):
            raise BadInput(f"--gpu_ids {options.gpu_ids}: means nothing with --device {device}")
        device = "cuda"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if device == "auto":
        device = "cuda" if available["cuda"] else "cpu"
    if not available[device]:
        raise BadInput(f"--device {device}: not available here; use --device cpu")
    if device == "cuda":
        distributed.card(options.gpu_ids)
    return device


def choose_name(options: argparse.Namespace) -> str:
    """The given name, or DATASET-METHOD-seedN and the first free number (resume: last used)."""
    if options.run_name is not None:
        return options.run_name
    modality = options.modalities if len(options.modalities) == 1 else []
    dataset = registry.load_class("dataset", options.dataset, "--dataset")
    parts = [dataset.name_of(options.data_root), *modality, options.method]
    first = name_of_run(*parts, seed=options.random_seed)
    names = [first]
    while (Path(options.ckpt_path) / names[-1]).exists():
        names.append(f"{first}-{len(names) + 1}")
    *used, free = names
    return used[-1] if options.resume and used else free
