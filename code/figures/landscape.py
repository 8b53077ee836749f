"""Loss and accuracy along random directions from the last weights, a line per method: how flat the
minimum is. Training and test split: Figure 5 of the paper.

Directions are filter-normalised (Li et al. 2018): in every filter as long as the filter itself, so
that the scale of weights does not count. Parameters with one dimension stay. Sharpness, in the
legend: mean rise of the loss at distance +-R. Means over directions; lines and sharpness are means
over seeds, bands and ± one standard deviation. Of the multimodal branch, for --samples samples of
each split (all, if there are fewer) without augmentation, evaluation mode. Collected from each
run's last.pt and kept in <run>/landscape.json."""

from argparse import Namespace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from analysis import landscape, trained
from analysis.landscape import MEASURES, SPLITS, by_filter, first_batches
from analysis.runs import Run, group
from analysis.statistics import mean_std
from figures._style import draw_band
from training.messages import main_branch
from utils.errors import BadInput
from utils.run_folder import read_result, write_result


def add_options(parser) -> None:
    parser.add_argument("--directions", type=int, default=2, metavar="N", help="random ones")
    parser.add_argument("--reach", type=float, default=0.5, metavar="R", help="longest distance")
    parser.add_argument("--points", type=int, default=7, help="along a direction, odd")
    parser.add_argument("--samples", type=int, default=256, help="of each split")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def walk(folder: Path, options: Namespace) -> dict[str, list]:
    """{"train loss", "test accuracy" and so on: (directions, points)} at distances -R to R."""
    run, _, loaders, model = trained.load_run(folder, "last", options.device)
    splits = {s: first_batches(loaders[name], options.samples) for s, name in SPLITS.items()}
    distances = np.linspace(-options.reach, options.reach, options.points).tolist()
    walks = [
        landscape.walk(model, splits, main_branch(run.modalities), by_filter(model, row), distances)
        for row in range(options.directions)
    ]
    return {name: [curves[name] for curves in walks] for name in walks[0]}


def stored_walk(folder: Path, options: Namespace) -> dict[str, np.ndarray]:
    """`walk`, mean over directions; kept in <run>/landscape.json and read from there while settings
    and last.pt are the same."""
    file = folder / "landscape.json"
    settings = {key: vars(options)[key] for key in ("directions", "reach", "points", "samples")}
    stored = read_result(file)
    if not stored or stored["asked"] != settings or "curves" not in stored:
        stored = {"asked": settings, "curves": walk(folder, options)}
        write_result(file, "last", stored)
    return {name: np.mean(curve, 0) for name, curve in stored["curves"].items()}


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    if options.points < 3 or options.points % 2 == 0:
        raise BadInput(f"--points {options.points}: must be odd and at least 3")
    if options.directions < 1 or options.samples < 1 or not options.reach > 0:
        raise BadInput("--directions, --samples and --reach: must be positive")
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True)
    distances = np.linspace(-options.reach, options.reach, options.points)
    for arm, runs_of_arm in group(runs).items():
        walks = [stored_walk(run.folder, options) for run in runs_of_arm]
        for axes_of_measure, measure in zip(axes, MEASURES):
            for axis, split in zip(axes_of_measure, SPLITS):
                values, more = np.array([curves[f"{split} {measure}"] for curves in walks]), ""
                if measure == "loss":
                    rise = values[:, [0, -1]].mean(1) - values[:, options.points // 2]
                    more = f": sharpness {mean_std(rise.tolist())}"
                draw_band(axis, distances, values, arm, more)
    for axis, split in zip(axes[0], SPLITS):
        axis.set_title(f"{'training' if split == 'train' else split} split")
        low, high = axis.get_ylim()
        axis.set_ylim(top=high + 0.4 * (high - low))  # room for the legend
        axis.legend(loc="upper center")
    for axis, (measure, unit) in zip(axes[:, 0], MEASURES.items()):
        axis.set_ylabel(f"multimodal {measure}{unit}")
    for axis in axes[1]:
        axis.set_xlabel("distance along a filter-normalised random direction")
    figure.suptitle(f"directions: {options.directions}, samples of a split: {options.samples}")
    return figure
