"""The command line of train.py: flags shared by all runs, and those of what they choose."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
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
from utils.command import Parser, count, each, natural, non_negative, positive, share, whole
from utils.errors import BadInput
from utils.machine import usable_cpus
from utils.run_folder import name_of_run

DATA = Path(__file__).resolve().parents[2] / "data"


CHOICES = {  # {room whose files may have flags of their own: the flag that chooses one}
    "methods": "--method",
    "models/encoders": "--encoder",
    "models/fusion": "--fusion",
    "dataset/modalities": "modality file",
}


class HelpWithDefaults(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, but not those that are None or False: their help texts say what happens."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


TOUCHES = {  # what a flag touches: resume and tables read it where the flag is declared
    "compared": "what is trained: changes the results",
    "results": "how it is trained: changes the results",
    "speed": "how fast: changes no result",
    "place": "where it is read and written: changes no result",
}
FREE = ("speed", "place")  # free to change on --resume


class FlagParser(Parser):
    """A parser in which every flag stands in a group of the help and touches one of TOUCHES."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.touches: dict[str, str] = {}  # {flag: what it touches}

    @property
    def actions(self) -> dict[str, argparse.Action]:
        """{every spelling of a flag, without dashes: its action}."""
        return {flag.lstrip("-"): a for flag, a in self._option_string_actions.items()}


class Flags:
    """The flags of a group of the help that touch this, one of TOUCHES."""

    def __init__(self, parser: FlagParser, title: str, touches: str):
        groups = {group.title: group for group in parser._action_groups}
        self.group = groups.get(title) or parser.add_argument_group(title)
        self.parser, self.touches = parser, touches

    def add_argument(self, *names: str, **settings) -> None:
        if self.touches in FREE:
            settings["help"] += " (*)"
        self.parser.touches[self.group.add_argument(*names, **settings).dest] = self.touches

    def declares(self, flag: str) -> bool:
        return self.parser.declares(flag)


def folder_name(text: str) -> str:
    """The type of `--run_name`."""
    if fault := fault_of(text):
        raise argparse.ArgumentTypeError(f"{text!r}: {fault}; give a plain folder name")
    return text


def shared_flags(parser: FlagParser) -> None:
    """Flags of every run. Defaults: the published CREMA-D run."""

    def files(room: str) -> str:
        return f"a file of {room}/: " + ", ".join(registry.names(room))

    add = Flags(parser, "data", "results").add_argument
    add(
        "--dataset",
        default="auto",
        metavar="NAME",
        type=dataset_name,
        help=files("dataset") + "; auto = cremad if it is prepared, else demo",
    )
    add = Flags(parser, "data", "compared").add_argument
    add(
        "--modalities",
        type=whole,
        metavar="A,B",
        help="which of the data set's modalities; one alone = unimodal baseline (default: all)",
    )
    add(
        "--val_fraction",
        type=share,
        default=0,
        metavar="SHARE",
        help="share of the training split held out to choose best.pt; 0 chooses on the test split, "
        "as published",
    )
    add = Flags(parser, "data", "place").add_argument
    add("--data_root", type=Path, metavar="DIR", help="prepared data set (default: data/NAME)")
    add("--cache_dir", type=Path, metavar="DIR", help="where (default: DATA_ROOT/cache)")
    add = Flags(parser, "data", "speed").add_argument
    add(
        "--cache",
        choices=("on", "off"),
        default="on",
        help="pack decoded samples once into a file that is mapped to memory; off = read the "
        "prepared files, as published",
    )

    add = Flags(parser, "model", "compared").add_argument
    add("--method", default="mmpareto", metavar="NAME", help=files("methods"))
    add(
        "--encoder",
        default="resnet18",
        metavar="NAME",
        help=files("models/encoders") + "; or one for each modality, audio=cnn,visual=resnet18",
    )
    add("--fusion", default="concat", metavar="NAME", help=files("models/fusion"))

    add = Flags(parser, "optimisation", "compared").add_argument
    add(
        "--random_seed", type=natural, default=0, help="of weights, order, augmentation, validation"
    )
    add(
        "--encoder_rate_scale",
        type=each(positive),
        default=1.0,
        metavar="FACTOR",
        help="times the learning rate, for every encoder, or for some: audio=2,visual=0.5",
    )
    add(
        "--unimodal_weight",
        type=each(non_negative),
        default=1.0,
        metavar="WEIGHT",
        help="times the loss of every modality, or of some: audio=2; the multimodal loss has 1",
    )
    add = Flags(parser, "optimisation", "results").add_argument
    add("--epochs", type=count, default=50, help="passes over the training split")
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
    add("--momentum", type=share, metavar="SHARE", help="of sgd (default: 0.9, as published)")
    add("--learning_rate", type=positive, default=0.002, help="of the first epoch")
    add(
        "--schedule",
        choices=("constant", "step", "cosine"),
        default="constant",
        help="of the rate: constant, as published; a factor every so many epochs; or half a cosine "
        "that would be 0 after the last epoch",
    )
    add(
        "--lr_decay_step",
        type=count,
        metavar="EPOCHS",
        help="the epochs of --schedule step (default: 30)",
    )
    add(
        "--lr_decay_ratio",
        type=positive,
        metavar="FACTOR",
        help="the factor of --schedule step (default: 0.1)",
    )
    add(
        "--clip_grad",
        type=non_negative,
        default=0,
        metavar="NORM",
        help="clip the norm of the whole gradient, after the method; 0 = off",
    )

    add = Flags(parser, "machine", "results").add_argument
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
    add = Flags(parser, "machine", "speed").add_argument
    add(
        "--gpu_ids",
        type=whole,
        metavar="IDS",
        help="which GPUs to use, counted from 0 among those that CUDA_VISIBLE_DEVICES leaves; "
        "several with NPROC=2 sh script/...",
    )
    add(
        "--num_workers",
        type=natural,
        default=max(1, min(8, (usable_cpus() - 1) // distributed.local_world_size())),
        metavar="N",
        help="processes that read data, for each that trains; results do not depend on it",
    )

    add = Flags(parser, "run", "place").add_argument
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
        owner.add_options(Flags(parser, title, "compared"))
    for reader in dict.fromkeys(readers.values()):
        owner = registry.load_class("dataset/modalities", reader, "--modalities")
        owner.add_options(Flags(parser, f"modality file {reader}", "results"))


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


def answer_unknown(word: str, known: Iterable[str]) -> str:
    """What is wrong with a word of the command line that no flag takes.

    known: the flags of the run, without dashes.
    """
    if not word.startswith("--"):
        return "belongs to no flag"
    flag = word[2:]
    owners = [
        f"{choice} {name}"
        for room, choice in CHOICES.items()
        for name in registry.names(room)
        if registry.parser_of_flags(registry.load_class(room, name, choice)).declares(f"--{flag}")
    ]
    if owners:
        return f"no flag of this run, but of {', '.join(owners)}"
    meant = (
        get_close_matches(flag, known, 1, cutoff=0.75)
        or [name for name in known if flag == "".join(w[0] for w in name.split("_"))]  # --lr
        or [name for name in known if flag in name.split("_") or name.startswith(flag)]  # --seed
    )
    if meant:
        return f"no flag of this run; did you mean {' or '.join(f'--{name}' for name in meant)}?"
    return "no flag of this run; python train.py --help lists them"


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
        usage="train.py [flag ...]",
        description="Train encoders and a fusion head with a method for multimodal learning.\n"
        f"Flags and defaults below are those of --dataset {chosen.dataset} --method "
        f"{chosen.method}.\n(*) changes no result, so it may be another on --resume.",
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
    distributed.place()  # refuses what is left over in the environment before it changes a default
    answer_published_flags(sys.argv[1:] if argv is None else argv)
    parser, chosen = build_parser(argv)
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0].split("=")[0]
        raise BadInput(f"{word}: {answer_unknown(word, parser.actions)}")
    options.dataset, options.modalities = chosen.dataset, chosen.modalities
    if options.data_root is not None:
        check_there(options.data_root, options.dataset)
    options.data_root = options.data_root or DATA / chosen.dataset
    check_optimisation(options)
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


REMOVED = {"missing": "drop"}  # a flag that is gone: the value that its absence means


def completed(folder: Path, content: dict) -> dict:
    """The options of a stored run: those it lacks, being older than a flag, have its default.

    Raises BadInput where it was begun with a flag that is gone.
    """
    defaults, _, actions = flags_of_run(content)
    stored = content["options"]
    for flag, usual in REMOVED.items():
        if stored.get(flag, usual) != usual:
            raise BadInput(
                f"{folder}: was begun with --{flag} {stored[flag]}, which is no longer there; use "
                f"the code it was begun with, commit {content['environment']['commit']}"
            )
    if "schedule" not in stored:  # there --lr_decay_step 0 meant none
        if stored.get("lr_decay_step"):
            stored = stored | {"schedule": "step"}
        else:
            stored = stored | {"lr_decay_step": None, "lr_decay_ratio": None}
    options = jsonable(defaults) | {k: v for k, v in stored.items() if k in defaults}
    for flag, value in options.items():
        if not could_be(value, actions[flag]):
            raise BadInput(
                f"{folder / 'options.json'}: no run has --{flag} {value!r}; undo the change"
            )
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
