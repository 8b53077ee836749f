"""Gradients that conflict, training, and what methods end with, side by side. From runs of
several methods; left the cosines of the first MMPareto run, for the encoder with most conflicts."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import ACCURACY, Run, conflict_rate, group
from analysis.tables import differences
from figures._style import LOOKS, draw_cosine, draw_epochs, look_of, measured_encoders
from models.multimodal import MULTIMODAL
from utils.errors import BadInput


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    groups = {a: of_arm for a, of_arm in group(runs).items() if len(of_arm[0].modalities) > 1}
    measured = [
        r for of_arm in groups.values() for r in of_arm if r.options["method"] == "mmpareto"
    ]
    if not measured:
        raise BadInput("comparison: needs a run of --method mmpareto, with several modalities")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=[4, 4, 5])
    steps = measured[0].steps
    encoder = max(measured_encoders(steps), key=lambda name: conflict_rate(steps, name))
    draw_cosine(left, steps, encoder)
    for arm, runs_of_arm in groups.items():
        draw_epochs(middle, runs_of_arm, MULTIMODAL, arm)
    middle.set_title("while training, signs as on the right")
    draw_last_accuracies(right, groups)
    return figure


def draw_last_accuracies(axis, groups: dict[str, list[Run]]) -> None:
    """A row per arm: multimodal accuracy after the last epoch, and its difference to uniform."""
    labels, compared = [], differences(groups)
    known = [arm for arm in LOOKS if arm in groups]  # first, in this order
    for row, arm in enumerate(dict.fromkeys([*known, *groups])):
        runs, (name, style) = groups[arm], look_of(arm)
        values = [run.measures[ACCURACY] for run in runs]
        axis.scatter(values, np.full(len(values), row - 0.12), s=14, alpha=0.6, **style)
        std = np.std(values, ddof=1) if len(values) > 1 else 0
        axis.errorbar(np.mean(values), row + 0.12, xerr=std, capsize=3, **style)
        labels.append(f"{name} (n = {len(values)})\n{compared.get(arm, '')}".strip())
    axis.set(xlabel="multimodal test accuracy (%)", ylim=(len(labels) - 0.4, -0.6))
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_title("last epoch: seeds, mean ± std; minus uniform [95 %]")
