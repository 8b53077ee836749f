"""One trunk, several tasks of different difficulty: the multi-task comparison on real digits.

python multitask.py                                downloads MNIST, trains, prints, draws
python multitask.py --noise 0,0.5,1 --source DIR_WITH_THE_MNIST_FILES     three tasks

A picture holds a digit for every task side by side, more or less drowned in noise; the trunk is
shared, each task has a linear head. Each task is also trained alone, for comparison. The methods
are those of methods/ that need losses only; the trunk is their one group, the tasks' losses its
objectives, by the same `integrate` as everywhere. A run that is stored is not trained again.

Source: Wei & Hu 2024, Sec. 4.7 (multi-task with a clear discrepancy of difficulty; their data and
settings are not published, so these are ours); two digits in a picture: Sabour et al. 2017.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy
from tqdm import tqdm

from analysis.statistics import difference, mean_std
from dataset.prepare.avmnist import mnist
from figures._style import legend_beside, look_of, save
from methods import ForwardPass, mgda_ub, uniform
from methods._per_loss import PerLoss
from models.reach import groups_of
from training.messages import align
from training.options import DATA
from utils import registry, run_folder
from utils.atomic import write_text
from utils.command import parser_of
from utils.errors import BadInput, run
from utils.seed import seed_everything

METHODS = (
    "uniform,uniform --encoder_grad_scale 1.5,pareto,mmpareto,mmpareto --gamma 1,random_weights,"
    "pcgrad,mgda_ub,gradnorm,nash_mtl,metabalance"
)
FAMILIES = (PerLoss, uniform.Method, mgda_ub.Method)  # they look at losses only
CLASSES, WIDTH = 10, 128


def task_names(noise: list[float]) -> list[str]:
    return [f"digit {number + 1} (noise {level:g})" for number, level in enumerate(noise)]


def make_pictures(
    digits: Tensor, labels: Tensor, noise: list[float], samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Pictures (N, 1, 28, 28 T) with digit t in column t, and classes (N, T).

    digits (M, 28, 28) uint8, labels (M,); noise: per task, the standard deviation of Gaussian noise
    added to pixels in [0, 1]. The digits of a picture are drawn independently.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(digits), (samples, len(noise)), generator=generator)
    pictures = digits[rows].float() / 255  # (N, T, 28, 28)
    level = torch.tensor(noise)[:, None, None]
    pictures += level * torch.randn(pictures.shape, generator=generator)
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
    except (ValueError, argparse.ArgumentError) as error:
        raise BadInput(f"--methods {arm}: {error}") from None


def train_one(args, arm: str, tasks: list[int], seed: int, data: dict) -> dict:
    """{accuracy: {task: share}, conflict: share of steps} of a training on some of the tasks."""
    seed_everything(seed)
    names = [task_names(args.noise)[t] for t in tasks]
    model = SharedTrunk(args.encoder, len(args.noise), names).to(args.device)
    model = model.to(memory_format=torch.channels_last)  # 0.76 of the time of a step, on a CPU
    method = build_method(arm)
    method.start_epoch(0, model, {}, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9)
    pictures, targets = data["train"]
    order = torch.Generator().manual_seed(seed)
    conflicts = []
    for epoch in range(args.epochs):
        model.train()
        for rows in torch.randperm(len(pictures), generator=order).split(args.batch_size):
            target = targets[rows][:, tasks].to(args.device)
            logits, features = model(pictures[rows].to(args.device))
            losses = {n: cross_entropy(x, y) for (n, x), y in zip(logits.items(), target.T)}
            optimizer.zero_grad()
            forward = ForwardPass(losses, logits, {"trunk": features}, target, epoch)
            method.backward(forward, model)
            conflicts.append(method.integrate(model).get("cosine/trunk"))
            optimizer.step()
    model.eval()
    pictures, targets = data["test"]
    hits = []
    with torch.no_grad():
        for x, y in zip(pictures.split(500), targets[:, tasks].split(500)):
            logits, _ = model(x.to(args.device))
            hits.append(torch.stack([v.argmax(1).cpu() for v in logits.values()], 1) == y)
    measured = [c.item() <= 0 for c in conflicts if c is not None]
    return {
        "accuracy": dict(zip(names, torch.cat(hits).double().mean(0).tolist())),
        "conflict": sum(measured) / len(measured) if measured else None,
    }


def trained(args, data: dict) -> dict[str, list[dict]]:
    """{row: results of every seed}: the tasks alone, then the methods; from file where stored."""
    every = list(range(len(args.noise)))
    rows = {f"{name} alone": ("uniform", [t]) for t, name in enumerate(task_names(args.noise))}
    rows |= {method: (method, every) for method in args.methods}
    settings = {
        name: vars(args)[name]
        for name in (
            "noise",
            "encoder",
            "epochs",
            "batch_size",
            "learning_rate",
            "train_size",
            "test_size",
        )
    }
    results: dict[str, list[dict]] = {row: [] for row in rows}
    todo = list(itertools.product(args.seeds, rows))
    for seed, row in tqdm(todo, "runs"):
        method, tasks = rows[row]
        name = method.replace(" --", "-").replace(" ", "-") if row in args.methods else "alone"
        file = args.output / f"{name}-{'-'.join(map(str, tasks))}-seed{seed}.json"
        stored = json.loads(file.read_text()) if file.is_file() else None
        if stored and stored["settings"] != settings:
            raise BadInput(f"{file}: has other settings; choose another --output or delete it")
        if not stored:
            found = train_one(args, method, tasks, seed, data)
            stored = found | {"settings": settings, "environment": run_folder.environment()}
            write_text(file, json.dumps(stored, indent=1) + "\n")
        results[row].append(stored | {"seed": seed})
    return results


def table(results: dict[str, list[dict]], names: list[str]) -> str:
    """Test accuracy of every task in percent, their mean, and its difference to the equal sum."""
    rows = [["", "n", *names, "mean", "mean minus uniform, 95% interval", "conflict %"]]
    means = {
        row: {r["seed"]: 100 * np.mean(list(r["accuracy"].values())) for r in found}
        for row, found in results.items()
    }
    for row, found in results.items():
        cells = [
            mean_std([100 * r["accuracy"][n] for r in found]) if n in found[0]["accuracy"] else "-"
            for n in names
        ]
        whole = "-" not in cells
        compared = whole and row != "uniform" and "uniform" in means
        conflict = [100 * r["conflict"] for r in found if r["conflict"] is not None]
        rows.append(
            [
                row,
                str(len(found)),
                *cells,
                mean_std(list(means[row].values())) if whole else "-",
                difference(means[row], means["uniform"]) if compared else "",
                mean_std(conflict, 1) if conflict else "-",
            ]
        )
    return align(rows)


def draw(results: dict[str, list[dict]], names: list[str]) -> plt.Figure:
    """The plane of two tasks' accuracies, Figure 1(b), for every pair of tasks."""
    pairs = list(itertools.combinations(names, 2))
    size = (5.4 * len(pairs) + 2.6, 5)
    figure, axes = plt.subplots(1, len(pairs), figsize=size, squeeze=False)
    for axis, (a, b) in zip(axes[0], pairs):
        for row, found in results.items():
            x, y = ([100 * r["accuracy"][n] for r in found if n in r["accuracy"]] for n in (a, b))
            if x and y:
                name, style = look_of(row)
                axis.scatter(x, y, s=22, alpha=0.5, linewidths=0, **style)
                label = f"{name} (n = {len(found)})"
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


def read_arguments(argv) -> argparse.Namespace:
    parser = parser_of("multitask.py", __doc__)
    add = parser.add_argument
    add(
        "--methods",
        default=METHODS,
        metavar="A,B",
        help="files of methods/ that need losses only, each with its flags if it is to have any",
    )
    add("--seeds", default="0,1,2", metavar="N,N")
    add("--noise", default="0,1", metavar="A,B", help="of each task's digit; one number per task")
    add("--encoder", default="cnn", metavar="NAME", help="the trunk: a file of models/encoders")
    add("--epochs", type=int, default=5)
    add("--batch_size", type=int, default=64)
    add("--learning_rate", type=float, default=0.005)
    add("--train_size", type=int, default=10000, help="pictures for training")
    add("--test_size", type=int, default=5000, help="pictures for the test")
    add("--source", type=Path, metavar="DIR", help="where the MNIST files are (default: download)")
    add("--output", type=Path, default=Path("runs/multitask"), metavar="DIR", help="results")
    add("--figure", type=Path, default=Path("../pics/multitask_plane"), metavar="PREFIX")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    try:
        args.seeds = [int(seed) for seed in args.seeds.split(",")]
        args.noise = [float(level) for level in args.noise.split(",")]
    except ValueError as error:
        raise BadInput(
            f"--seeds, --noise: give numbers with commas between them ({error})"
        ) from None
    args.methods = [" ".join(arm.split()) for arm in args.methods.split(",") if arm.strip()]
    if len(args.noise) < 2 or not all(0 <= level < float("inf") for level in args.noise):
        raise BadInput(
            f"--noise {args.noise}: give two or more numbers of at least 0, one per task"
        )
    for name in ("epochs", "batch_size", "train_size", "test_size", "learning_rate"):
        if not vars(args)[name] > 0:
            raise BadInput(f"--{name} {vars(args)[name]}: must be greater than 0")
    for arm in args.methods:
        build_method(arm)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


def main(argv=None) -> None:
    args = read_arguments(argv)
    data = {}
    for number, (split, samples) in enumerate(
        {"train": args.train_size, "test": args.test_size}.items()
    ):
        digits, labels = (
            torch.tensor(x) for x in mnist(split, args.source, DATA / "avmnist" / "downloads")
        )
        data[split] = make_pictures(digits, labels.long(), args.noise, samples, seed=1000 + number)
    args.output.mkdir(parents=True, exist_ok=True)
    results = trained(args, data)
    names = task_names(args.noise)
    print(table(results, names))
    save(draw(results, names), args.figure)


if __name__ == "__main__":
    run(main)
