"""Accuracy of each branch per epoch, and the cosine between the multimodal and the unimodal
gradient of each encoder at every step: what every run draws of itself at its end. One run."""

from argparse import Namespace
from pathlib import Path

import matplotlib.pyplot as plt

from analysis.runs import Run, read_run, trains_heads
from figures import _style
from training.messages import main_branch


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    run = _style.single_run(runs, "overview")
    steps = run.steps
    encoders = _style.measured_encoders(steps)
    size = (5 + 5 * len(encoders), 3.6)
    figure, axes = plt.subplots(1, 1 + len(encoders), figsize=size, squeeze=False)
    first, *others = axes[0]
    heads = run.modalities if trains_heads(run.options) else []
    branches = dict.fromkeys([main_branch(run.modalities), *heads])
    for position, branch in enumerate(branches):
        style = _style.branch_style(branch, position)
        first.plot(run.curve(branch), markersize=4, label=branch, **style)
    _style.epoch_axis(first, "test accuracy (%)")
    first.set(title="head of each branch", ylim=(0, 100))
    first.legend()
    for axis, encoder in zip(others, encoders):
        _style.draw_cosine(axis, steps, encoder)
    figure.suptitle(_style.title_of(run))
    return figure


def draw_run(folder: Path) -> Path:
    """Draws a run folder to its overview.png."""
    path = folder / "overview.png"
    _style.save_as(draw([read_run(folder)], Namespace()), path)
    return path
