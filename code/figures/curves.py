"""Test accuracy per epoch of every method: the multimodal branch, then each modality's own head;
lines are means over seeds, bands one standard deviation."""

from argparse import Namespace

import matplotlib.pyplot as plt

from analysis.runs import Run, group, trains_heads
from figures._style import draw_epochs, legend_beside
from models.multimodal import MULTIMODAL


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    modalities = max((run.modalities for run in runs), key=len)
    branches = [MULTIMODAL, *modalities] if len(modalities) > 1 else modalities
    figure, axes = plt.subplots(1, len(branches), figsize=(5 * len(branches), 4), squeeze=False)
    for arm, runs_of_arm in group(runs).items():
        first = runs_of_arm[0]
        for axis, branch in zip(axes[0], branches):
            is_there = branch in first.modalities or len(first.modalities) > 1
            if is_there and (branch == MULTIMODAL or trains_heads(first.options)):
                draw_epochs(axis, runs_of_arm, branch, arm)
    legend_beside(figure)
    return figure
