"""Which difference in accuracy can be told apart with how many seeds, a line per data set: the one
that a test at the 5 % level finds with 80 % probability. From how the arms' differences to uniform
scatter over the seeds: lines are medians over arms, bands their quartiles."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

from analysis.runs import Run, by_data
from analysis.statistics import detectable
from analysis.tables import REFERENCE
from analysis.trials import arms_of, differences
from figures._style import PALETTE
from utils.errors import BadInput

SEEDS = range(3, 41)


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    figure, axis = plt.subplots(figsize=(7.5, 4.5))
    for colour, (name, of_data) in zip(PALETTE, by_data(runs).items()):
        pairs = [x for x in differences(arms_of(of_data), REFERENCE).values() if len(set(x)) > 1]
        if not pairs:
            raise BadInput(
                f"power: needs several seeds of {REFERENCE} and of another arm on {name}"
            )
        points = np.array([[detectable(values, n) for n in SEEDS] for values in pairs])
        low, middle, high = np.percentile(points, [25, 50, 75], axis=0)
        there = max(map(len, pairs))
        label = f"{name}: {np.median([detectable(x) for x in pairs]):.2f} points with {there} seeds"
        axis.plot(SEEDS, middle, color=colour, label=label)
        axis.fill_between(SEEDS, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel="seeds", ylabel="difference that is found (points)", yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.legend()
    return figure
