"""Cosine between the multimodal and the unimodal gradient of every encoder, at every step, and the
share of conflicts per epoch: Figure 1(a) of the paper. One run that measured it."""

from argparse import Namespace

import matplotlib.pyplot as plt

from analysis.runs import Run, conflict_rate
from figures import _style
from utils.errors import BadInput


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    run = _style.single_run(runs, "cosine")
    steps = run.steps
    encoders = _style.measured_encoders(steps)
    if not encoders:
        raise BadInput(
            f"{run.folder}: measured no cosine; MMPareto does, uniform --measure_conflict"
        )
    layout = {"figsize": (5.5 * len(encoders), 5.5), "height_ratios": [2, 1], "squeeze": False}
    figure, axes = plt.subplots(2, len(encoders), **layout)
    for (upper, lower), encoder in zip(axes.T, encoders):
        _style.draw_cosine(upper, steps, encoder)
        epochs = sorted({step["epoch"] for step in steps if f"cosine/{encoder}" in step})
        for epoch in epochs:
            share = conflict_rate([step for step in steps if step["epoch"] == epoch], encoder)
            lower.bar(epoch, 100 * share, color=_style.CONFLICT, width=0.7)
        _style.epoch_axis(lower, "steps in conflict (%)")
        lower.set_ylim(0, max(5, lower.get_ylim()[1]))  # also where there is no conflict at all
    figure.suptitle(_style.title_of(run))
    return figure
