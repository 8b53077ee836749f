"""Multimodal test accuracy against noise on one modality, a panel per modality; lines are means
over seeds, bands one standard deviation. Of runs with evaluate.py --probe noise."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import Run, group
from figures._style import draw_band, legend_beside
from utils.errors import BadInput


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    measured = [[key for key in run.measures if key.startswith("noise/")] for run in runs]
    for run, keys in zip(runs, measured):
        if not keys:
            raise BadInput(f"{run.folder}: first run evaluate.py on it with --probe noise")
        if set(keys) != set(measured[0]):
            raise BadInput(f"{run.folder}: other --noise_levels than {runs[0].folder}")
    groups, modalities = group(runs), runs[0].modalities
    figure, axes = plt.subplots(1, len(modalities), figsize=(5 * len(modalities), 4), squeeze=False)
    for axis, modality in zip(axes[0], modalities):
        keys = [key for key in measured[0] if key.startswith(f"noise/{modality}/")]
        levels = [float(key.split("/")[2]) for key in keys]
        for arm, runs_of_arm in groups.items():
            shares = [[run.measures[key] for key in keys] for run in runs_of_arm]
            draw_band(axis, levels, np.array(shares), arm)
        axis.set(ylabel="multimodal test accuracy (%)", title=f"noise on {modality}")
        axis.set_xlabel(f"noise / standard deviation of {modality}")
    legend_beside(figure)
    return figure
