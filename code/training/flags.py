"""The flags of train.py: which there are, what each touches, and what answers a strange one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from dataset._samples import fault_of
from models.multimodal import encoder_classes
from utils import distributed, registry
from utils.command import (
    Parser,
    count,
    each,
    natural,
    non_negative,
    positive,
    run_names,
    share,
    whole,
)
from utils.errors import BadInput
from utils.machine import usable_cpus


class HelpWithDefaults(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, but not those that are None or False: their help texts say what happens."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


TOUCHES = {  # what a flag touches: resume, tables and sweeps read it where the flag is declared
    "results": "what is trained, and how",
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


def dataset_name(text: str) -> str:
    """The type of `--dataset`: also as the published code writes it, CREMAD and KineticSound."""
    return {"kineticsound": "kinetics_sounds"}.get(text.lower(), text.lower())


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
    add(
        "--modalities",
        type=whole,
        metavar="A,B",
        help="which of the data set's modalities; one alone = unimodal baseline (default: all)",
    )
    add(
        "--random_split",
        action="store_true",
        help="draw training and test samples anew, as many of every class, with --random_seed: for "
        "sets that are split at random",
    )
    add(
        "--val_fraction",
        type=share,
        default=0,
        metavar="SHARE",
        help="share of the training split held out to choose best.pt; 0 chooses on the test split, "
        "as published",
    )
    add(
        "--val_speakers",
        type=whole,
        metavar="A,B",
        help="hold out all samples of these speakers, or subjects, of the training split instead",
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

    add = Flags(parser, "model", "results").add_argument
    add("--method", default="mmpareto", metavar="NAME", help=files("methods"))
    add(
        "--encoder",
        default="resnet18",
        metavar="NAME",
        help=files("models/encoders") + "; or one for each modality, audio=cnn,visual=resnet18",
    )
    add("--fusion", default="concat", metavar="NAME", help=files("models/fusion"))
    add(
        "--init_encoders",
        type=run_names,
        metavar="M=RUN,M=RUN",
        help="begin with the encoders of these runs of one modality each, or of those that a "
        "pattern names, such as runs/avmnist-joint-modalities-{modality}-seed{seed}",
    )

    add = Flags(parser, "optimisation", "results").add_argument
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
        owner.add_options(Flags(parser, title, "results"))
    for reader in dict.fromkeys(readers.values()):
        owner = registry.load_class("dataset/modalities", reader, "--modalities")
        owner.add_options(Flags(parser, f"modality file {reader}", "results"))


CHOICES = {  # {room whose files may have flags of their own: the flag that chooses one}
    "methods": "--method",
    "models/encoders": "--encoder",
    "models/fusion": "--fusion",
    "dataset/modalities": "modality file",
}
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
    if not word.startswith("--") or word == "--":
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
        return (
            f"no flag of this run; did you mean {' or '.join(f'--{name}' for name in meant[:4])}?"
        )
    return "no flag of this run; python train.py --help lists them"
