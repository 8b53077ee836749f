"""Accuracy on held-out samples against the learning rate, a line per arm: how a trial chooses it.

Means and standard deviations over seeds after the last epoch; large signs: the chosen rates. Of
runs that held samples out, such as results/NAME/tuning (trial.py), of all arms or those named.
Shown are the 40 points below the best mean. A gap: the arm diverges there. Dashed: colour and sign
are those of an arm above."""

from argparse import ArgumentParser, Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import Run
from analysis.trials import RATE, arms_of_rates
from figures._style import legend_beside, look_of
from training.rates import best_rate
from utils.errors import BadInput

SHOWN = 40  # points of accuracy


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--arm",
        action="append",
        metavar="ARM",
        help='only this one, quoted, such as "mmpareto --gamma 2.0"; again for each (default: all)',
    )


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    if lacking := [run for run in runs if run.validation is None]:
        raise BadInput(f"rates: {lacking[0].folder} held no samples out")
    figure, axis = plt.subplots(figsize=(9, 5))
    arms, taken, highest = arms_of_rates(runs), set(), 0.0
    rates = sorted({rate for by_rate in arms.values() for rate in by_rate})
    for arm in options.arm or arms:
        if arm not in arms:
            raise BadInput(f"--arm {arm}: no such arm; choose from {', '.join(arms)}")
        by_rate, (name, style) = arms[arm], look_of(arm)
        values = [[100 * run.validation for run in by_rate.get(rate, [])] for rate in rates]
        means = np.array([np.mean(of_rate) if of_rate else np.nan for of_rate in values])
        line = "--" if tuple(style.values()) in taken else "-"
        taken.add(tuple(style.values()))
        axis.plot(rates, means, markersize=4, label=name, linestyle=line, **style)
        if all(len(of_rate) != 1 for of_rate in values):
            spread = np.array([np.std(x, ddof=1) if x else np.nan for x in values])
            shade = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axis.fill_between(rates, means - spread, means + spread, **shade)
        best, highest = rates.index(best_rate(by_rate)), max(highest, np.nanmax(means))
        axis.scatter(rates[best], means[best], s=110, **style)
    axis.set(xscale="log", xlabel=RATE.replace("_", " "), ylabel="accuracy on held-out samples (%)")
    axis.set_ylim(bottom=max(0, highest - SHOWN), top=min(100, highest + SHOWN / 8))
    legend_beside(figure)
    return figure
