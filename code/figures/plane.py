"""Multimodal accuracy against the accuracy of one modality, one point per run, one sign per method:
Figure 1(c) of the paper. Small signs: runs; large: their mean. Where a method trains no unimodal
head, its linear probe (evaluate.py --probe linear) stands for it, hollow."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import ACCURACY, Run, group, trains_heads
from figures._style import legend_beside, look_of
from utils.errors import BadInput


def add_options(parser) -> None:
    parser.add_argument(
        "--modality", metavar="NAME", help="of the horizontal axis (default: the last)"
    )


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    runs = [run for run in runs if len(run.modalities) > 1]
    if not runs:
        raise BadInput("plane: needs runs with several modalities")
    modalities = runs[0].modalities
    modality = options.modality or modalities[-1]
    if modality not in modalities:
        raise BadInput(f"--modality {modality}: choose from {', '.join(modalities)}")
    figure, axis = plt.subplots(figsize=(8.5, 5))
    for arm, runs_of_arm in group(runs).items():
        name, style = look_of(arm)
        has_head = trains_heads(runs_of_arm[0].options)
        measure = f"accuracy/{modality}" if has_head else f"accuracy/{modality} probe"
        if any(measure not in run.measures for run in runs_of_arm):
            raise BadInput(
                f"{arm}: trains no {modality} head; run evaluate.py --probe linear on its runs"
            )
        x, y = np.array([(r.measures[measure], r.measures[ACCURACY]) for r in runs_of_arm]).T
        if not has_head:
            style |= {"facecolors": "none"}
        label = f"{name} (n = {len(x)}{'' if has_head else ', probe'})"
        axis.scatter(x, y, s=22, alpha=0.6, **style)
        axis.scatter(x.mean(), y.mean(), s=120, linewidths=1.5, label=label, **style)
    axis.set(xlabel=f"{modality} test accuracy (%)", ylabel="multimodal test accuracy (%)")
    legend_beside(figure)
    return figure
