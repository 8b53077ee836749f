"""Weight of the multimodal loss and magnitude restored in every step of one run, per encoder;
averaged over tensors. Without conflict the weight is 1/n and the magnitude is not touched."""

from argparse import Namespace

import matplotlib.pyplot as plt
from matplotlib.ticker import LogFormatter

from analysis.runs import Run
from figures import _style
from utils.errors import BadInput

WIDE = 10  # factors beyond which the axis is logarithmic


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    run = _style.single_run(runs, "weights")
    steps = run.steps
    encoders = _style.measured_encoders(steps)
    if not encoders:
        raise BadInput(f"{run.folder}: recorded no weights; MMPareto and Pareto do")
    size = (5.5 * len(encoders), 5.5)
    figure, axes = plt.subplots(2, len(encoders), figsize=size, squeeze=False, sharex=True)
    for (upper, lower), encoder in zip(axes.T, encoders):
        _style.scatter_steps(upper, steps, encoder, f"weight/{encoder}/multimodal")
        _style.scatter_steps(lower, steps, encoder, f"scale/{encoder}")
        upper.set(xlabel="", ylim=(-0.03, 1.03), title=f"{encoder} encoder")
        upper.set_ylabel("weight of the multimodal loss")
        lower.set(ylabel="magnitude raised by (factor)")
        if lower.get_ylim()[1] > WIDE:
            lower.set_yscale("log")
            lower.yaxis.set_major_formatter(LogFormatter())
        upper.legend()
    figure.suptitle(_style.title_of(run))
    return figure
