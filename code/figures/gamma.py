"""Test accuracy of the last epoch against gamma: mean and standard deviation over seeds, for the
multimodal branch and each modality's head. Runs that differ in --gamma and seed only."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import Run, group, trains_heads
from figures._style import branch_style
from models.multimodal import MULTIMODAL
from utils.errors import BadInput


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    for run in runs:
        if "gamma" not in run.options:
            raise BadInput(f"{run.folder}: its method has no --gamma")
    groups = list(group(runs).values())
    by_gamma = {of_gamma[0].options["gamma"]: of_gamma for of_gamma in groups}
    if len(by_gamma) < len(groups):
        raise BadInput("gamma: the runs differ in more than --gamma and their seed")
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
    heads = runs[0].modalities if trains_heads(runs[0].options) else []
    for position, branch in enumerate([MULTIMODAL, *heads]):
        means, stds = [], []
        for gamma in sorted(by_gamma):
            values = [run.measures[f"accuracy/{branch}"] for run in by_gamma[gamma]]
            means.append(np.mean(values))
            stds.append(np.std(values, ddof=1) if len(values) > 1 else 0)
        style = branch_style(branch, position)
        axis.errorbar(sorted(by_gamma), means, stds, capsize=3, label=branch, **style)
    counts = sorted({str(len(of_gamma)) for of_gamma in by_gamma.values()})
    axis.set(xlabel="gamma", ylabel="test accuracy (%)")
    axis.set_title(f"n = {' or '.join(counts)} seeds per point")
    axis.legend()
    return figure
