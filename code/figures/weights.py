"""Weight of the multimodal loss and magnitude restored in every step of one run, per encoder;
averaged over tensors. Without conflict the weight is 1/n and the magnitude is not touched."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from figures._style import AGREEMENT, CONFLICT, encoders_of, one_run
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def draw(runs, args):
    del args
    folder = one_run(runs, "weights")
    steps = read_jsonl(folder / "steps.jsonl")
    encoders = encoders_of(steps)
    if not encoders:
        raise BadInput(f"{folder}: recorded no weights; MMPareto and Pareto do")
    size = (5.5 * len(encoders), 5.5)
    figure, axes = plt.subplots(2, len(encoders), figsize=size, squeeze=False, sharex=True)
    for column, encoder in enumerate(encoders):
        own = [r for r in steps if f"cosine/{encoder}" in r]
        step = np.array([r["step"] for r in own])
        conflict = np.array([r[f"cosine/{encoder}"] <= 0 for r in own])
        for row, (key, label) in enumerate(
            (
                (f"weight/{encoder}/multimodal", "weight, multimodal loss"),
                (f"scale/{encoder}", "magnitude raised by"),
            )
        ):
            values, axis = np.array([r[key] for r in own]), axes[row][column]
            axis.scatter(
                step[~conflict], values[~conflict], s=4, color=AGREEMENT, label="no conflict"
            )
            axis.scatter(
                step[conflict], values[conflict], s=14, marker="x", color=CONFLICT, label="conflict"
            )
            axis.set(ylabel=label, yscale="log" if row else "linear")
            axis.grid(alpha=0.3)
        axes[0][column].set(ylim=(-0.03, 1.03), title=f"{encoder} encoder")
        axes[0][column].legend(fontsize=8)
        axes[1][column].set(xlabel="step")
    figure.suptitle(folder.name)
    figure.tight_layout()
    return figure
