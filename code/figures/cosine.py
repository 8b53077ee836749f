"""Cosine between the multimodal and the unimodal gradient of every encoder, at every step, and the
share of conflicts per epoch: Figure 1(a) of the paper. One run that measured it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import conflict_rate
from figures._style import CONFLICT, draw_cosine, encoders_of, one_run
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def draw(runs, args):
    del args
    folder = one_run(runs, "cosine")
    steps = read_jsonl(folder / "steps.jsonl")
    encoders = encoders_of(steps)
    if not encoders:
        raise BadInput(f"{folder}: measured no cosine; MMPareto does, uniform --measure_conflict")
    size = (5.5 * len(encoders), 5.5)
    shape = {"height_ratios": [2, 1]}
    figure, axes = plt.subplots(2, len(encoders), figsize=size, squeeze=False, gridspec_kw=shape)
    for column, encoder in enumerate(encoders):
        draw_cosine(axes[0][column], steps, encoder)
        key, axis = f"cosine/{encoder}", axes[1][column]
        epochs = sorted({r["epoch"] for r in steps if key in r})
        rates = [conflict_rate([r for r in steps if r["epoch"] == e], encoder) for e in epochs]
        axis.bar(epochs, 100 * np.array(rates), color=CONFLICT, width=0.7)
        axis.set(xlabel="epoch", ylabel="steps in conflict (%)")
        axis.set_ylim(0, max(5, axis.get_ylim()[1]))  # none at all is no axis of its own
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.suptitle(folder.name)
    figure.tight_layout()
    return figure
