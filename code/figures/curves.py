"""Test accuracy per epoch of every method: the multimodal branch, then each modality's own head;
lines are means over seeds, bands one standard deviation. A panel names the methods whose head of
that modality is not trained, and which it leaves out."""

from argparse import Namespace

import matplotlib.pyplot as plt

from analysis.runs import Run, group, trains_heads
from figures._style import draw_epochs, legend_beside, look_of
from models.multimodal import MULTIMODAL
from training.messages import main_branch


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    modalities = max((run.modalities for run in runs), key=len)
    branches = [MULTIMODAL, *modalities] if len(modalities) > 1 else modalities
    figure, axes = plt.subplots(1, len(branches), figsize=(5 * len(branches), 4), squeeze=False)
    groups = group(runs)
    for axis, branch in zip(axes[0], branches):
        untrained = []
        for arm, runs_of_arm in groups.items():
            first = runs_of_arm[0]
            if branch != MULTIMODAL and not trains_heads(first.options):
                untrained.append(look_of(arm)[0])
            elif branch in (main_branch(first.modalities), *first.modalities):
                draw_epochs(axis, runs_of_arm, branch, arm)
        if untrained:
            axis.set_title(f"without {', '.join(untrained)}:\ntrained no {branch} head", fontsize=8)
    legend_beside(figure)
    return figure
