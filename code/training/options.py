"""The command line of train.py: flags shared by all runs, and those of what they choose."""

from __future__ import annotations

import argparse
import json
import os
import sys
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import torch

from dataset._samples import fault_of
from dataset.modalities import check_names
from methods import NEEDS, Method
from models.fusion import LateFusion
from models.multimodal import MultimodalModel, encoder_classes
from training import precision
from utils import distributed, registry
from utils.command import Parser, count, natural, non_negative, positive, share, whole
from utils.errors import BadInput
from utils.run_folder import name_of_run

DATA = Path(__file__).resolve().parents[2] / "data"


class HelpWithDefaults(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, but not those that are None or False: their help texts say what happens."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class FlagParser(Parser):
    """A parser in which every flag is declared under what it touches, one of TOUCHES: resume,
    tables and sweeps read it there, and `--help` shows it."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.declared = []  # (group, what its flags touch)

    def group(self, touches: str, title: str = ""):
        """A group of flags that touch this, to which flags are added."""
        group = self.add_argument_group(title or TOUCHES[touches])
        self.declared.append((group, touches))
        return group

    @property
    def touches(self) -> dict[str, str]:
        """{flag: what it touches}."""
        return {a.dest: touched for group, touched in self.declared for a in group._group_actions}

    @property
    def actions(self) -> dict[str, argparse.Action]:
        """{every spelling of a flag, without dashes: its action}."""
        return {flag.lstrip("-"): a for flag, a in self._option_string_actions.items()}


TOUCHES = {
    "compared": "what is trained: runs that differ here can share a table",
    "results": "how it is trained: runs of a table are alike here",
    "speed": "how fast: changes no result, free to change on --resume",
    "place": "where it is read and written: changes no result, free to change on --resume",
}


def folder_name(text: str) -> str:
    """The type of `--run_name`."""
    if fault := fault_of(text):
        raise argparse.ArgumentTypeError(f"{text!r}: {fault}; give a plain folder name")
    return text


def shared_flags(parser: FlagParser) -> None:
    """Flags of every run. Defaults: the published CREMA-D run."""

    def files(room: str) -> str:
        return f"a file of {room}/: " + ", ".join(registry.names(room))

    add = parser.group("compared").add_argument
    add("--method", default="mmpareto", metavar="NAME", help=files("methods"))
    add(
        "--modalities",
        type=whole,
        metavar="A,B",
        help="which of the data set's modalities; one alone = unimodal baseline (default: all)",
    )
    add(
        "--encoder",
        default="resnet18",
        metavar="NAME",
        help=files("models/encoders") + "; or one for each modality, audio=cnn,visual=resnet18",
    )
    add("--fusion", default="concat", metavar="NAME", help=files("models/fusion"))
    add(
        "--val_fraction",
        type=share,
        default=0,
        metavar="SHARE",
        help="share of the training split held out to choose best.pt; 0 chooses on the test split, "
        "as published",
    )
    add(
        "--random_seed", type=natural, default=0, help="of weights, order, augmentation, validation"
    )

    add = parser.group("results").add_argument
    add(
        "--dataset",
        default="auto",
        metavar="NAME",
        type=dataset_name,
        help=files("dataset") + "; auto = cremad if it is prepared, else demo",
    )
    add(
        "--batch_size",
        type=count,
        default=64,
        help="samples per step, over all processes; the short last batch is kept",
    )
    add(
        "--accumulate",
        type=count,
        default=1,
        metavar="PARTS",
        help="compute a batch in so many parts, for memory; only the normalisation sees smaller "
        "batches",
    )
    add("--epochs", type=count, default=50, help="passes over the training split")
    add(
        "--optimizer",
        choices=("sgd", "adam", "adamw"),
        default="sgd",
        help="sgd has momentum 0.9 and weight decay 1e-4; the others have PyTorch's defaults",
    )
    add(
        "--weight_decay",
        type=non_negative,
        help="of all parameters (default: 1e-4 with sgd, as published; else PyTorch's)",
    )
    add("--learning_rate", type=positive, default=0.002, help="of the first epoch")
    add(
        "--lr_decay_step",
        type=natural,
        default=0,
        metavar="EPOCHS",
        help="multiply the rate by --lr_decay_ratio every so many epochs; 0 = never, as published",
    )
    add("--lr_decay_ratio", type=positive, default=0.1, help="see --lr_decay_step")
    add(
        "--clip_grad",
        type=non_negative,
        default=0,
        metavar="NORM",
        help="clip the norm of the whole gradient, after the method; 0 = off",
    )
    add(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: cuda if any"
    )
    add(
        "--amp",
        choices=("off", "bf16", "fp16"),
        default="off",
        help="forward pass in half precision; fp16 with loss scaling",
    )
    add("--tf32", action="store_true", help="on a GPU: 10-bit products, faster, less exact")
    add("--compile", action="store_true", help="torch.compile every encoder; slow first step")
    add(
        "--channels_last",
        action=argparse.BooleanOptionalAction,
        help="memory layout of the weights (default: yes on a CPU and with --amp)",
    )
    add(
        "--sync_batchnorm",
        action="store_true",
        help="several GPUs: normalise over the whole batch instead of each process's share",
    )

    add = parser.group("speed").add_argument
    add(
        "--gpu_ids",
        type=whole,
        metavar="IDS",
        help="which GPUs to use, as CUDA_VISIBLE_DEVICES; several with NPROC=2 sh script/...",
    )
    add(
        "--cache",
        choices=("on", "off"),
        default="on",
        help="pack decoded samples once into a file that is mapped to memory; off = read the "
        "prepared files, as published",
    )
    add(
        "--num_workers",
        type=natural,
        default=max(1, min(8, ((os.cpu_count() or 1) - 1) // distributed.local_world_size())),
        metavar="N",
        help="processes that read data, for each that trains; results do not depend on it",
    )

    add = parser.group("place").add_argument
    add("--data_root", type=Path, metavar="DIR", help="prepared data set (default: data/NAME)")
    add("--cache_dir", type=Path, metavar="DIR", help="where (default: DATA_ROOT/cache)")
    add("--ckpt_path", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    add(
        "--run_name",
        type=folder_name,
        metavar="NAME",
        help="the run's folder (default: DATASET-METHOD-seedN, numbered on when it exists)",
    )
    add("--resume", action="store_true", help="continue the run of this name from its last epoch")
    add("--tensorboard", action=argparse.BooleanOptionalAction, default=True, help="write events")


def room_flags(
    parser: FlagParser, method: str, encoder: str, fusion: str, readers: dict[str, str]
) -> None:
    """The flags of the files that a run chooses. readers: {modality: file in modalities/}."""
    chosen = {f"method {method}": registry.load_class("methods", method, "--method")}
    for build in dict.fromkeys(encoder_classes(encoder, list(readers)).values()):
        chosen[f"encoder {build.__module__.split('.')[-1]}"] = build
    if len(readers) > 1:
        chosen[f"fusion {fusion}"] = registry.load_class("models/fusion", fusion, "--fusion")
    for title, owner in chosen.items():
        owner.add_options(parser.group("compared", f"flags of {title}"))
    for reader in dict.fromkeys(readers.values()):
        owner = registry.load_class("dataset/modalities", reader, "--modalities")
        owner.add_options(parser.group("results", f"flags of modality file {reader}"))


PUBLISHED = {  # flags of the published command line that are not here, and what stands for them
    "--model": "choose the method, --method mmpareto, uniform or joint",
    "--n_classes": "leave it out; the data set says how many there are",
    "--train": "leave it out; train.py trains, python evaluate.py RUN evaluates",
    "--use_tensorboard": "leave it out; events are written unless --no-tensorboard",
    "--clip_grad": "give the norm to clip to, such as --clip_grad 40; the published code accepts "
    "the flag and clips nothing, which is the default here",
}


def answer_published_flags(argv: list[str]) -> None:
    """Raises BadInput with a line for each flag that is written as for the published code."""
    answers = []
    for word, following in zip(argv, [*argv[1:], "--"]):
        flag = word.split("=")[0]
        has_value = "=" in word or not following.startswith("--")
        if flag in PUBLISHED and not (flag == "--clip_grad" and has_value):
            answers.append(f"\n  {flag}: {PUBLISHED[flag]}")
    if answers:
        raise BadInput("the published code's flags are others here" + "".join(answers))


def dataset_name(text: str) -> str:
    """The type of `--dataset`: also as the published code writes it, CREMAD and KineticSound."""
    return {"kineticsound": "kinetics_sounds"}.get(text.lower(), text.lower())


def build_parser(argv: list[str] | None) -> tuple[FlagParser, argparse.Namespace]:
    """The parser of a command line, and what the line chooses: data set, method, modalities.

    The flags of the method and of the modalities' readers are added once both are known, so a flag
    that the chosen ones do not use is refused instead of ignored.
    """
    chosen = shared_part(argv)
    chosen.dataset = choose_dataset(chosen.dataset)
    dataset = registry.load_class("dataset", chosen.dataset, "--dataset")
    readers = dataset.modalities_at(chosen.data_root)
    chosen.modalities = choose_modalities(chosen.modalities, readers)

    parser = FlagParser(
        prog="train.py",
        description="Train encoders and a fusion head with a method for multimodal learning.\n"
        f"Flags and defaults below are those of --dataset {chosen.dataset} --method "
        f"{chosen.method}.",
        epilog=describe_datasets(),
        formatter_class=HelpWithDefaults,
    )
    shared_flags(parser)
    readers = {m: readers[m] for m in chosen.modalities}
    room_flags(parser, chosen.method, chosen.encoder, chosen.fusion, readers)
    flags = {action.dest for action in parser.actions.values()}
    parser.set_defaults(**{k: v for k, v in dataset.defaults.items() if k in flags})
    return parser, chosen


def shared_part(argv: list[str] | None) -> argparse.Namespace:
    """The shared flags of a command line that may hold others too."""
    parser = FlagParser(add_help=False)
    shared_flags(parser)
    return parser.parse_known_args(argv)[0]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of one run, with defaults of the data set filled in and everything checked."""
    answer_published_flags(sys.argv[1:] if argv is None else argv)
    parser, chosen = build_parser(argv)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = sorted(f"--{flag}" for flag in parser.actions if len(flag) > 1)
        near = get_close_matches(unknown[0].split("=")[0], flags, 1, cutoff=0.75)
        meant = f"; did you mean {near[0]}? Or" if near else ";"
        raise BadInput(f"{unknown[0]}: no flag of this run{meant} choose from {', '.join(flags)}")
    options.dataset, options.modalities = chosen.dataset, chosen.modalities
    if options.data_root is not None:
        check_there(options.data_root, options.dataset)
    options.data_root = options.data_root or DATA / chosen.dataset
    check_needs(registry.load_class("methods", options.method, "--method"), options)
    build_method(options)
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
    options, data = content["options"], content.get("data") or {}
    dataset = registry.load_class("dataset", options["dataset"], "--dataset")
    readers = data.get("readers") or dataset.modalities
    chosen = tuple((m, readers[m]) for m in options["modalities"])
    return flags_of(options["method"], options["encoder"], options["fusion"], chosen)


@cache
def compared_settings() -> list[str]:
    """The flags of all runs by which the rows of a table may differ, besides method, modalities and
    seed, which each row says."""
    parser = FlagParser(add_help=False)
    shared_flags(parser)
    in_every_row = ("method", "modalities", "random_seed")
    touches = parser.touches.items()
    return [flag for flag, what in touches if what == "compared" and flag not in in_every_row]


REMOVED = {"missing": "drop"}  # a flag that is gone: the value that its absence means


def completed(folder: Path, content: dict) -> dict:
    """The options of a stored run: those it lacks, being older than a flag, have its default.

    Raises BadInput where it was begun with a flag that is gone.
    """
    defaults, _, actions = flags_of_run(content)
    stored = content["options"]
    for flag in stored.keys() & actions.keys():
        if not could_be(stored[flag], actions[flag]):
            raise BadInput(
                f"{folder / 'options.json'}: no run has --{flag} {stored[flag]!r}; undo the change"
            )
    for flag, usual in REMOVED.items():
        if stored.get(flag, usual) != usual:
            raise BadInput(
                f"{folder}: was begun with --{flag} {stored[flag]}, which is no longer there; use "
                f"the code it was begun with, commit {content['environment']['commit']}"
            )
    return jsonable(defaults) | {k: v for k, v in stored.items() if k in defaults}


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
    return {"epochs"}


def jsonable(options):
    """Options as options.json stores them."""
    return json.loads(json.dumps(options, default=str))


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
    flags = vars(options)
    return MultimodalModel(shapes, len(dataset.classes), options.encoder, options.fusion, flags)


def describe_datasets() -> str:
    """Every data set: what it is, its modalities, and the defaults it changes."""
    lines = ["data sets, with the defaults that differ from those of the published CREMA-D run:"]
    for name in registry.names("dataset"):
        module = registry.load("dataset", name, "--dataset")
        defaults = registry.load_class("dataset", name, "--dataset").defaults
        lines += [f"  {name}", *(f"    {line}" for line in module.__doc__.splitlines())]
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
            alone or options.val_fraction > 0,
            "--val_fraction 0: nothing is held out",
            "such as --val_fraction 0.1",
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
        if not all(part.strip().isdecimal() for part in ids):
            raise BadInput(f"--gpu_ids {options.gpu_ids}: give numbers of GPUs, such as 0 or 0,1")
        if len(ids) != distributed.local_world_size():
            raise BadInput(
                f"--gpu_ids {options.gpu_ids}: one process per GPU, so start {len(ids)}: NPROC="
                f"{len(ids)} sh script/... or torchrun --nproc_per_node={len(ids)} train.py ..."
            )
        if device not in ("auto", "cuda"):
            raise BadInput(f"--gpu_ids {options.gpu_ids}: means nothing with --device {device}")
        os.environ["CUDA_VISIBLE_DEVICES"] = options.gpu_ids
        device = "cuda"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if device == "auto":
        return "cuda" if available["cuda"] else "cpu"
    if not available[device]:
        raise BadInput(f"--device {device}: not available here; use --device cpu")
    return device


def choose_name(options: argparse.Namespace) -> str:
    """The given name, or DATASET-METHOD-seedN and the first free number (resume: last used)."""
    if options.run_name is not None:
        return options.run_name
    modality = options.modalities if len(options.modalities) == 1 else []
    parts = [options.dataset, *modality, options.method]
    first = name_of_run(*parts, seed=options.random_seed)
    names = [first]
    while (Path(options.ckpt_path) / names[-1]).exists():
        names.append(f"{first}-{len(names) + 1}")
    *used, free = names
    return used[-1] if options.resume and used else free
