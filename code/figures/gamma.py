"""Test accuracy of the last epoch against gamma: mean and standard deviation over seeds, for the
multimodal branch and each modality's head. Runs that differ in --gamma and seed only."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import Run, group
from figures._style import branch_style
from models.multimodal import MULTIMODAL
from utils.errors import BadInput


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    for run in runs:
        if "gamma" not in run.options:
            raise BadInput(f"{run.folder}: its method has no --gamma")
    by_gamma = {rs[0].options["gamma"]: rs for rs in group(runs).values()}
    if sum(map(len, by_gamma.values())) != len(runs):
        raise BadInput("gamma: the runs differ in more than --gamma and their seed")
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
    for position, branch in enumerate([MULTIMODAL, *runs[0].modalities]):
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
