"""Loss along random directions from the last weights, a line per method: how flat the minimum is.

Directions are filter-normalised (Li et al. 2018): in every filter as long as the filter itself, so
that the scale of weights does not count. Parameters with one dimension stay. Sharpness, in the
legend: mean rise of the loss at distance +-R. Means over directions; lines and sharpness are means
over seeds, bands and ± one standard deviation. Multimodal loss of --samples training samples (all,
if there are fewer) without augmentation, evaluation mode. Collected from each run's last.pt and
kept in <run>/landscape.json."""

from argparse import Namespace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from analysis import trained
from analysis.runs import Run, group
from analysis.statistics import mean_std
from figures._style import draw_band
from models.metrics import predict
from training.messages import main_branch
from utils.errors import BadInput
from utils.run_folder import read_result, write_result
from utils.seed import generator


def add_options(parser) -> None:
    parser.add_argument("--directions", type=int, default=2, metavar="N", help="random ones")
    parser.add_argument("--reach", type=float, default=0.5, metavar="R", help="longest distance")
    parser.add_argument("--points", type=int, default=7, help="along a direction, odd")
    parser.add_argument("--samples", type=int, default=256, help="of the training split")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def direction(model, seed: int) -> list[torch.Tensor]:
    """A random direction for every parameter, each filter as long as the parameter's own."""
    random, steps = generator(seed), []
    for p in model.parameters():
        step = torch.zeros_like(p)
        if p.ndim > 1:
            step = torch.randn(p.shape, generator=random).to(p)
            length = p.flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1).clamp(min=1e-12)
            step *= length.view(-1, *[1] * (p.ndim - 1))
        steps.append(step)
    return steps


@torch.no_grad()
def walk(folder: Path, options: Namespace) -> np.ndarray:
    """(directions, points) losses at distances -R to R, means over the samples."""
    run, _, loaders, model = trained.load_run(folder, "last", options.device)
    branch, batches, left = main_branch(run.modalities), [], options.samples
    for inputs, target in loaders["train_plain"]:
        batches.append(({m: x[:left] for m, x in inputs.items()}, target[:left]))
        left -= len(target)
        if left <= 0:
            break
    start = [p.clone() for p in model.parameters()]
    distances = np.linspace(-options.reach, options.reach, options.points)
    losses = np.zeros((options.directions, options.points))
    for row in range(options.directions):
        steps = direction(model, row)
        for column, distance in enumerate(distances):
            for p, origin, step in zip(model.parameters(), start, steps):
                p.copy_(origin + float(distance) * step)
            logits, _, target = predict(model, batches)
            losses[row, column] = cross_entropy(logits[branch], target)
    return losses


def stored_walk(folder: Path, options: Namespace) -> np.ndarray:
    """`walk`, kept in <run>/landscape.json and read from there while settings and last.pt are the
    same."""
    file = folder / "landscape.json"
    settings = {key: vars(options)[key] for key in ("directions", "reach", "points", "samples")}
    stored = read_result(file)
    if not stored or stored["asked"] != settings:
        stored = {"asked": settings, "losses": walk(folder, options).tolist()}
        write_result(file, "last", stored)
    return np.array(stored["losses"])


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    if options.points < 3 or options.points % 2 == 0:
        raise BadInput(f"--points {options.points}: must be odd and at least 3")
    if options.directions < 1 or options.samples < 1 or not options.reach > 0:
        raise BadInput("--directions, --samples and --reach: must be positive")
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
    distances = np.linspace(-options.reach, options.reach, options.points)
    for arm, runs_of_arm in group(runs).items():
        losses = np.array([stored_walk(run.folder, options).mean(0) for run in runs_of_arm])
        rise = losses[:, [0, -1]].mean(1) - losses[:, options.points // 2]
        draw_band(axis, distances, losses, arm, f": sharpness {mean_std(rise.tolist())}")
    axis.set(xlabel="distance along a filter-normalised random direction", ylabel="training loss")
    axis.set_title(f"directions: {options.directions}, training samples: {options.samples}")
    axis.legend()
    return figure
