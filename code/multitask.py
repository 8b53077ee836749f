"""MultiMNIST: one trunk, several tasks of different difficulty, on real digits.

python multitask.py                                downloads MNIST, trains, prints, draws
python multitask.py --noise 0,0.3,0.6 --source DIR_WITH_THE_MNIST_FILES     three tasks
python multitask.py --rates 0.0025,0.005,0.01 --seeds 0,1,2,3,4  each method at its own best rate
python multitask.py --from ../results/multimnist                 what was recorded, nothing trained

A picture holds a digit for every task side by side, more or less drowned in noise; the trunk is
shared, each task has a linear head. As in the paper: two digits, and salt and pepper in place of
half of the right one's pixels. Each task is also trained alone, for comparison. The methods
are those of methods/ that need losses only; the trunk is their one group, the tasks' losses its
objectives, by the same `integrate` as everywhere. A run that is stored is not trained again.

With --rates the protocol is that of trial.py: rates are chosen with seeds of their own on pictures
of digits that are held out, further ones are tried where the best is at an end, and the runs that
are reported have all digits for training. A run that diverges knows no digit, and none is reported.

Source: Wei & Hu 2024, Sec. 4.6, Table 5 and Appendix C; network, sizes and rate are not published,
so these are ours. Two digits in a picture: Sabour et al. 2017.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR
from tqdm import tqdm

from analysis import tasks
from analysis.tasks import ALONE, TaskRun, accuracies
from analysis.trials import RATE, TUNING
from dataset.prepare.avmnist import mnist
from figures._style import legend_beside, look_of, plt, save
from methods import ForwardPass, mgda_ub, rlw, uniform
from methods._per_loss import PerLoss
from models.metrics import answers
from models.reach import groups_of
from training.messages import align
from training.options import DATA
from training.rates import best_rate, flat, tune
from training.record import Diverged
from utils import registry
from utils.atomic import write_text
from utils.command import Parser, count, listed, positive
from utils.errors import BadInput, run_command
from utils.machine import usable_cpus
from utils.run_folder import environment, name_of_run
from utils.seed import seed_everything

METHODS = (  # those of Table 5; the controls
    "uniform,pareto,gradnorm,pcgrad,metabalance,mmpareto,"
    "mmpareto --rescale encoder,mmpareto --gamma 1,uniform --encoder_grad_scale 1.5,"
    "random_in_conflict"
)
FAMILIES = (PerLoss, uniform.Method, rlw.Method, mgda_ub.Method)  # they look at losses only
CLASSES, WIDTH = 10, 128
OLDER = {"noise_kind": "gaussian", "schedule": "constant"}  # of runs that do not say
HELD_OUT = 6  # one digit in so many of MNIST's training split, while rates are chosen
SETTINGS = (
    "noise_kind",
    "noise",
    "encoder",
    "epochs",
    "batch_size",
    "schedule",
    "train_size",
    "test_size",
)


def task_names(noise: list[float]) -> list[str]:
    return [f"digit {number + 1} (noise {level:g})" for number, level in enumerate(noise)]


def gaussian(pictures: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """level: the standard deviation of what is added to pixels in [0, 1]."""
    return pictures + level * torch.randn(pictures.shape, generator=generator)


def salt_and_pepper(pictures: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """level: the share of pixels that are white or black instead, as often the one as the other."""
    hit = torch.rand(pictures.shape, generator=generator) < level
    return torch.where(hit, torch.rand(pictures.shape, generator=generator).round(), pictures)


NOISE = {"salt_and_pepper": salt_and_pepper, "gaussian": gaussian}


def make_pictures(
    digits: Tensor, labels: Tensor, kind: str, noise: list[float], samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 28, 28 T) with digit t in column t, and classes (N, T).

    digits (M, 28, 28) uint8, labels (M,); kind: of NOISE; noise: its level for each task. The
    digits of a picture are drawn independently.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(digits), (samples, len(noise)), generator=generator)
    pictures = digits[rows].float() / 255  # (N, T, 28, 28)
    pictures = NOISE[kind](pictures, torch.tensor(noise)[:, None, None], generator)
    return pictures.permute(0, 2, 1, 3).flatten(2)[:, None], labels[rows]


class Trunk(nn.Module):
    """The stages of an encoder, then a layer over the places that its own average would mix.

    Input (N, 1, 28, 28 T) for T digits; output (N, WIDTH).
    """

    def __init__(self, encoder: str, digits: int):
        super().__init__()
        build = registry.load_class("models/encoders", encoder, "--encoder")
        self.encoder = build((1, 28, 28 * digits))
        if not self.encoder.stage_widths:
            raise BadInput(
                f"--encoder {encoder}: has no stages that give maps; choose cnn, resnet18"
            )
        self.grid = (2, 2 * digits)
        self.layer = nn.Linear(4 * digits * self.encoder.stage_widths[-1], WIDTH)

    def forward(self, pictures: Tensor) -> Tensor:
        maps = self.encoder.begin(pictures)
        for stage in self.encoder.stages:
            maps = stage(maps)
        return self.layer(adaptive_avg_pool2d(maps, self.grid).flatten(1)).relu()


class SharedTrunk(nn.Module):
    """A trunk, and a linear head per task."""

    def __init__(self, encoder: str, digits: int, tasks: list[str]):
        super().__init__()
        self.trunk = Trunk(encoder, digits)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, CLASSES) for _ in tasks)
        self.tasks = tasks

    def forward(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(N, 1, 28, 28 T) -> {task: (N, K)}, features (N, WIDTH)."""
        features = self.trunk(pictures)
        return {t: head(features) for t, head in zip(self.tasks, self.heads)}, features

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        return {"trunk": list(self.trunk.parameters())}

    def groups(self, losses: dict[str, Tensor]) -> dict[str, list[nn.Parameter]]:
        return groups_of(losses, self.encoder_parameters(), self.parameters())


def build_method(arm: str):
    """The method of "name" or "name --flag value ...".

    Raises BadInput for one that needs more than losses, and for flags it does not have.
    """
    name, *flags = arm.split()
    build = registry.load_class("methods", name, "--methods")
    if not issubclass(build, FAMILIES):
        raise BadInput(f"--methods {name}: needs modalities, not tasks alone")
    try:
        options, unknown = registry.parser_of_flags(build).parse_known_args(flags)
        if unknown:
            raise ValueError(f"{name} has no {' '.join(unknown)}")
        return build(**vars(options))
    except ValueError as error:
        raise BadInput(f"--methods {arm}: {error}") from None


def train_run(options, method, tasks: list[int], rate: float, seed: int, data: dict) -> dict:
    """{accuracy: {task: share}, conflict: share of steps} of a training on some of the tasks.

    Raises Diverged where its weights are no longer finite.
    """
    seed_everything(seed)
    names = [task_names(options.noise)[t] for t in tasks]
    model = SharedTrunk(options.encoder, len(options.noise), names).to(options.device)
    model = model.to(memory_format=torch.channels_last)  # 0.76 of the time of a step, on a CPU
    method.start_epoch(0, model, {}, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    decays = options.schedule == "cosine"
    scheduler = CosineAnnealingLR(optimizer, options.epochs) if decays else ConstantLR(optimizer, 1)
    pictures, targets = data["train"]
    order = torch.Generator().manual_seed(seed)
    cosines = []
    for epoch in range(options.epochs):
        model.train()
        for batch in torch.randperm(len(pictures), generator=order).split(options.batch_size):
            target = targets[batch][:, tasks].to(options.device)
            logits, features = model(pictures[batch].to(options.device))
            losses = {n: cross_entropy(x, y) for (n, x), y in zip(logits.items(), target.T)}
            optimizer.zero_grad()
            forward = ForwardPass(losses, logits, {"trunk": features}, target, epoch)
            method.backward(forward, model)
            diagnostics = method.integrate(model)
            optimizer.step()
            if "cosine/trunk" in diagnostics:
                cosines.append(diagnostics["cosine/trunk"])
        scheduler.step()
    if not all(p.isfinite().all() for p in model.parameters()):
        raise Diverged(f"diverges at rate {rate:g}; name smaller ones")
    model.eval()
    pictures, targets = data["test"]
    hits = []
    with torch.no_grad():
        for x, y in zip(pictures.split(500), targets[:, tasks].split(500)):
            logits, _ = model(x.to(options.device))
            hits.append(torch.stack([answers(v).cpu() for v in logits.values()], 1) == y)
    accuracy = torch.cat(hits).double().mean(0).tolist()
    conflict = (torch.stack(cosines) <= 0).double().mean().item() if cosines else None
    return {"accuracy": dict(zip(names, accuracy)), "conflict": conflict}


def load(options: argparse.Namespace, is_tuning: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """{split: (pictures, classes)}, the same for every run. While rates are chosen both are of
    training digits, and no digit is in both."""
    digits = {}
    for split in ("train", "test"):
        pictures, labels = mnist(split, options.source, DATA / "avmnist" / "downloads")
        digits[split] = torch.tensor(pictures), torch.tensor(labels).long()
    if is_tuning:
        count = len(digits["train"][0])
        halves = zip(*(x.tensor_split([count - count // HELD_OUT]) for x in digits["train"]))
        digits = dict(zip(digits, halves))
    noise = options.noise_kind, options.noise
    return {
        "train": make_pictures(*digits["train"], *noise, options.train_size, seed=1000),
        "test": make_pictures(*digits["test"], *noise, options.test_size, seed=1001),
    }


Arm = tuple[str, tuple[int, ...]]  # a method with its flags, or ALONE, and the tasks


class Stage:
    """Runs with the same seeds, and where they are stored."""

    def __init__(self, options: argparse.Namespace, seeds: list[int], is_tuning: bool):
        self.options, self.seeds, self.is_tuning = options, seeds, is_tuning
        self.folder = options.output / TUNING if is_tuning else options.output

    @cached_property
    def data(self) -> dict[str, tuple[Tensor, Tensor]]:
        return load(self.options, self.is_tuning)

    def settings(self, rate: float) -> dict:
        return {name: vars(self.options)[name] for name in SETTINGS} | {RATE: rate}

    def file(self, arm: str, numbers: tuple[int, ...], rate: float, seed: int) -> Path:
        more = ["--rate", f"{rate:g}"] * self.is_tuning
        return self.folder / f"{name_of_run(arm, *map(str, numbers), *more, seed=seed)}.json"

    def train(self, arm: str, numbers: tuple[int, ...], rate: float, seed: int) -> None:
        """Stores a run that is not there."""
        method = build_method("uniform" if arm == ALONE else arm)
        try:
            result = train_run(self.options, method, list(numbers), rate, seed, self.data)
        except Diverged as error:
            if not self.is_tuning:
                raise BadInput(f"{arm}, seed {seed}: {error}") from None
            names = task_names(self.options.noise)
            result = {"accuracy": {names[n]: 0.0 for n in numbers}, "conflict": None}
        result |= {"settings": self.settings(rate), "environment": environment()}
        path = self.file(arm, numbers, rate, seed)
        write_text(path, json.dumps(result, indent=1) + "\n")

    def read(self, arm: str, numbers: tuple[int, ...], rate: float, seed: int) -> TaskRun:
        file, settings = self.file(arm, numbers, rate, seed), self.settings(rate)
        result = json.loads(file.read_text())
        if OLDER | result["settings"] != settings:
            raise BadInput(f"{file}: has other settings; choose another --output or delete it")
        accuracy = {task: 100 * share for task, share in result["accuracy"].items()}
        conflict = None if result["conflict"] is None else 100 * result["conflict"]
        del settings[RATE]
        return TaskRun(file, arm, seed, rate, settings, result["environment"], accuracy, conflict)

    def run(self, rates: dict[Arm, list[float]]) -> dict[Arm, dict[float, list[TaskRun]]]:
        """{arm: {rate: its runs}} of the arms and rates that are asked for."""
        asked = [
            (*arm, rate, seed)
            for seed in self.seeds
            for arm, of_arm in rates.items()
            for rate in of_arm
        ]
        for run in asked:
            if self.file(*run).is_file():
                self.read(*run)  # refuses what is of other settings
        missing = [run for run in asked if not self.file(*run).is_file()]
        bar = {"total": len(missing), "desc": "tuning" if self.is_tuning else "runs"}
        for _ in tqdm(worked_off(self, missing), **bar):
            pass
        found = {arm: {rate: [] for rate in of_arm} for arm, of_arm in rates.items()}
        for *arm, rate, seed in asked:
            found[tuple(arm)][rate].append(self.read(*arm, rate, seed))
        return found


def begin_worker(stage: Stage, threads: int) -> None:
    """What a process of `worked_off` does first."""
    global _stage
    _stage = stage
    torch.set_num_threads(threads)


def train_there(run: tuple) -> None:
    _stage.train(*run)


def worked_off(stage: Stage, runs: list[tuple]) -> Iterator[None]:
    """Trains them, several at the same time with --jobs."""
    jobs = min(stage.options.jobs, len(runs))
    if jobs < 2:
        for run in runs:
            yield stage.train(*run)
        return
    settings = dict(initializer=begin_worker, initargs=(stage, max(1, usable_cpus() // jobs)))
    with ProcessPoolExecutor(jobs, get_context("spawn"), **settings) as pool:
        yield from pool.map(train_there, runs)


def carry_out(options: argparse.Namespace) -> tuple[list[TaskRun], list[TaskRun]]:
    """(runs by which rates were chosen, runs that are reported)."""
    everything = tuple(range(len(options.noise)))
    arms: list[Arm] = [(ALONE, (task,)) for task in everything]
    arms += [(arm, everything) for arm in options.methods]
    rates, tuned = {arm: [options.learning_rate] for arm in arms}, {}
    if options.rates:
        tuned = tune(Stage(options, options.tuning_seeds, True).run, arms, options.rates)
        rates = {arm: [best_rate(of_arm)] for arm, of_arm in tuned.items()}
    tested = Stage(options, options.seeds, False).run(rates)
    return flat(tuned), flat(tested)


def draw(rows: dict[str, list[TaskRun]]) -> plt.Figure:
    """The plane of two tasks' accuracies, Figure 1(b), for every pair of tasks."""
    names = dict.fromkeys(task for runs in rows.values() for task in runs[0].accuracy)
    pairs = list(itertools.combinations(names, 2))
    size = (5.4 * len(pairs) + 2.6, 5)
    figure, axes = plt.subplots(1, len(pairs), figsize=size, squeeze=False)
    for axis, (a, b) in zip(axes[0], pairs):
        for row, runs in rows.items():
            x, y = accuracies(runs, a), accuracies(runs, b)
            if x and y:
                name, style = look_of(row)
                axis.scatter(x, y, s=22, alpha=0.5, linewidths=0, **style)
                label = f"{name} (n = {len(runs)})"
                axis.scatter(np.mean(x), np.mean(y), s=110, label=label, **style)
            elif x:
                axis.axvline(np.mean(x), color="grey", linestyle="--", linewidth=1)
            elif y:
                axis.axhline(np.mean(y), color="grey", linestyle="--", linewidth=1)
        axis.scatter([], [], s=22, alpha=0.5, color="grey", label="one seed; large: the mean")
        axis.plot([], [], color="grey", linestyle="--", linewidth=1, label="the task alone, mean")
        axis.set(xlabel=f"{a}, test accuracy (%)", ylabel=f"{b}, test accuracy (%)")
    legend_beside(figure)
    return figure


def read_options(argv) -> argparse.Namespace:
    parser = Parser("multitask.py", __doc__)
    add = parser.add_argument
    add(
        "--methods",
        default=METHODS,
        metavar="A,B",
        help="files of methods/ that need losses only, each with its flags if it is to have any",
    )
    add("--seeds", type=listed(int), default="0,1,2,3,4", metavar="N,N")
    add(
        "--rates",
        type=listed(positive),
        metavar="A,B",
        help="each method at its own best of these learning rates (default: one rate for all)",
    )
    add("--tuning_seeds", type=listed(int), default="100,101,102", metavar="N,N")
    add("--jobs", type=count, default=1, metavar="N", help="runs at the same time")
    add(
        "--noise_kind",
        choices=list(NOISE),
        default="salt_and_pepper",
        help="white and black pixels in place of some, as in the paper; or Gaussian, added to all",
    )
    add(
        "--noise",
        type=listed(float),
        default="0,0.5",
        metavar="A,B",
        help="of each task's digit, one number per task: a share of the pixels; of Gaussian noise, "
        "the standard deviation",
    )
    add("--encoder", default="cnn", metavar="NAME", help="the trunk: a file of models/encoders")
    add("--epochs", type=count, default=5)
    add("--batch_size", type=count, default=64)
    add("--learning_rate", type=positive, default=0.005, help="of all, without --rates")
    add(
        "--schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="of the rate, over the epochs",
    )
    add("--train_size", type=count, default=10000, help="pictures for training")
    add("--test_size", type=count, default=5000, help="pictures for the test")
    add("--source", type=Path, metavar="DIR", help="where the MNIST files are (default: download)")
    add("--output", type=Path, default=Path("runs/multitask"), metavar="DIR", help="results")
    add("--records", type=Path, metavar="DIR", help="write tasks.csv there, a line per run")
    add(
        "--from",
        type=Path,
        dest="recorded",
        metavar="DIR",
        help="print and draw what is recorded there; nothing is trained",
    )
    add("--figure", type=Path, metavar="PREFIX", help="of its files (default: OUTPUT/plane)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args(argv)
    if len(options.noise) < 2 or not all(0 <= level < math.inf for level in options.noise):
        raise BadInput(
            f"--noise {options.noise}: give two or more numbers of at least 0, one per task"
        )
    if options.noise_kind == "salt_and_pepper" and max(options.noise) > 1:
        raise BadInput(f"--noise {options.noise}: a share of the pixels must be at most 1")
    options.methods = [" ".join(arm.split()) for arm in options.methods.split(",") if arm.strip()]
    for arm in options.methods:
        build_method(arm)  # refuses what does not suit before anything is trained
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def main(argv=None) -> None:
    options = read_options(argv)
    if options.recorded:
        runs = tasks.read(options.recorded)
    else:
        tuned, runs = carry_out(options)
        if options.records:
            tasks.write(options.records, runs)
            if tuned:
                tasks.write(options.records / TUNING, tuned)
    rows = tasks.rows_of(runs)
    _, head, lines = tasks.table(rows)
    print(align([head, *lines]))
    save(draw(rows), options.figure or options.output / "plane")


if __name__ == "__main__":
    run_command(main)
