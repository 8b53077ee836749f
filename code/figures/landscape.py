"""Loss along random directions from the last weights, a line per method: how flat the minimum is.

Directions are filter-normalised (Li et al. 2018): in every filter as long as the filter itself, so
that the scale of weights does not count. Parameters with one dimension stay. Sharpness, in the
legend: mean rise of the loss at distance +-R. Means over directions; lines and sharpness are means
over seeds, bands and ± one standard deviation. Multimodal loss of --samples training samples (all,
if there are fewer) without augmentation, evaluation mode. Collected from each run's last.pt and
kept in <run>/landscape.json."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from analysis import trained
from analysis.runs import group, read_run
from analysis.statistics import mean_std
from figures._style import draw_band
from training.messages import main_branch
from utils.atomic import write_text
from utils.errors import BadInput
from utils.seed import generator


def add_options(parser):
    parser.add_argument("--directions", type=int, default=2, metavar="N", help="random ones")
    parser.add_argument("--reach", type=float, default=0.5, metavar="R", help="longest distance")
    parser.add_argument("--points", type=int, default=7, help="along a direction, odd")
    parser.add_argument("--samples", type=int, default=256, help="of the training split")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def direction(model, *where: int) -> list[torch.Tensor]:
    """A random direction for every parameter, each filter as long as the parameter's own."""
    own, found = generator(*where), []
    for p in model.parameters():
        if p.ndim < 2:
            found.append(torch.zeros_like(p))
            continue
        drawn = torch.randn(p.shape, generator=own).to(p)
        length = p.flatten(1).norm(dim=1) / drawn.flatten(1).norm(dim=1).clamp(min=1e-12)
        found.append(drawn * length.view(-1, *[1] * (p.ndim - 1)))
    return found


@torch.no_grad()
def loss_of(model, batches, branch: str) -> float:
    """Mean over the samples."""
    total = sum(
        cross_entropy(model(inputs)[0][branch], target, reduction="sum").item()
        for inputs, target in batches
    )
    return total / sum(len(target) for _, target in batches)


def walk(folder, args) -> np.ndarray:
    """(directions, points) losses at distances -R to R."""
    opt, _, loaders, model = trained.load_run(folder, "last", args.device)
    branch = main_branch(opt.modalities)
    batches, taken = [], 0
    for inputs, target in loaders["train_plain"]:
        wanted = args.samples - taken
        batches.append(({m: x[:wanted] for m, x in inputs.items()}, target[:wanted]))
        taken += len(target)
        if taken >= args.samples:
            break
    model.eval()
    start = [p.detach().clone() for p in model.parameters()]
    losses = np.zeros((args.directions, args.points))
    for row in range(args.directions):
        way = direction(model, row)
        for column, distance in enumerate(np.linspace(-args.reach, args.reach, args.points)):
            with torch.no_grad():
                for p, origin, d in zip(model.parameters(), start, way):
                    p.copy_(origin + float(distance) * d)
            losses[row, column] = loss_of(model, batches, branch)
    return losses


def stored_walk(folder, args) -> np.ndarray:
    """`walk`, kept in <run>/landscape.json and read from there when asked for the same again."""
    file = folder / "landscape.json"
    asked = {k: vars(args)[k] for k in ("directions", "reach", "points", "samples")}
    kept = json.loads(file.read_text()) if file.is_file() else {}
    if kept.get("asked") != asked:
        kept = {"asked": asked, "losses": walk(folder, args).tolist()}
        write_text(file, json.dumps(kept))
    return np.array(kept["losses"])


def draw(runs, args):
    if args.points < 3 or args.points % 2 == 0:
        raise BadInput(f"--points {args.points}: must be odd and at least 3")
    if args.directions < 1 or args.samples < 1 or not args.reach > 0:
        raise BadInput("--directions, --samples and --reach: must be positive")
    groups = group([read_run(folder) for folder in runs])
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
    distance = np.linspace(-args.reach, args.reach, args.points)
    for position, (label, own) in enumerate(groups.items()):
        losses = np.array([stored_walk(one["folder"], args).mean(0) for one in own])
        rise = losses[:, [0, -1]].mean(1) - losses[:, args.points // 2]
        name = f"{label} (n = {len(own)}): sharpness {mean_std(rise.tolist())}"
        draw_band(axis, distance, losses, name, position)
    axis.set(
        xlabel="distance along a filter-normalised random direction",
        ylabel="training loss",
        title=f"{args.directions} directions, {args.samples} training samples a run",
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
