"""Test accuracy per epoch of every method: the multimodal branch, then each modality's own head;
lines are means over seeds, bands one standard deviation."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import group, read_run, trains_heads
from figures._style import draw_band


def draw(runs, args):
    del args
    groups = group([read_run(folder) for folder in runs])
    every = [one for own in groups.values() for one in own]
    modalities = max((one["options"]["modalities"] for one in every), key=len)
    branches = ["multimodal", *modalities] if len(modalities) > 1 else modalities
    figure, axes = plt.subplots(1, len(branches), figsize=(5 * len(branches), 4), squeeze=False)
    for axis, branch in zip(axes[0], branches):
        for position, (label, own) in enumerate(groups.items()):
            key, options = f"test/accuracy/{branch}", own[0]["options"]
            if key not in own[0]["epochs"][-1] or (
                branch in modalities and not trains_heads(options)
            ):
                continue
            values = 100 * np.array([[r[key] for r in one["epochs"]] for one in own])
            name = f"{label} (n = {len(own)})"
            draw_band(axis, np.arange(values.shape[1]), values, name, position)
        axis.set(xlabel="epoch", ylabel="test accuracy (%)", title=branch)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
