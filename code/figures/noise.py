"""Multimodal test accuracy against noise on one modality, a panel per modality; lines are means
over seeds, bands one standard deviation. Of runs with evaluate.py --probe noise."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import group, read_run
from figures._style import draw_band
from utils.errors import BadInput


def draw(runs, args):
    del args
    groups = group([read_run(folder) for folder in runs])
    every = [one for own in groups.values() for one in own]
    for one in every:
        if "noise" not in one["probes"]:
            raise BadInput(f"{one['folder']}: first run evaluate.py on it with --probe noise")
        if one["probes"]["noise"].keys() != every[0]["probes"]["noise"].keys():
            raise BadInput(f"{one['folder']}: other --noise_levels than {every[0]['folder']}")
    levels: dict[str, list[str]] = {}
    for key in every[0]["probes"]["noise"]:
        _, modality, level = key.split("/")
        levels.setdefault(modality, []).append(level)
    figure, axes = plt.subplots(1, len(levels), figsize=(5 * len(levels), 4), squeeze=False)
    for axis, (modality, own_levels) in zip(axes[0], levels.items()):
        for position, (label, own) in enumerate(groups.items()):
            shares = [
                [one["probes"]["noise"][f"noise/{modality}/{level}"] for level in own_levels]
                for one in own
            ]
            name = f"{label} (n = {len(own)})"
            draw_band(axis, [float(v) for v in own_levels], 100 * np.array(shares), name, position)
        axis.set(ylabel="multimodal test accuracy (%)", title=f"noise on {modality}")
        axis.set_xlabel(f"noise / standard deviation of {modality}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
