"""The paper's argument, link by link: every measured value with its 95 % interval over seeds.

A row per link, a colour per data set, a sign per encoder. Shaded: the side of the bound on which
the paper's claim holds. The values are those of argument.py, which measures runs."""

from argparse import Namespace

import matplotlib.pyplot as plt

from analysis.argument import RATIOS, findings
from analysis.runs import Run, by_data, group
from figures._style import AGREEMENT, PALETTE, SIGNS, legend_beside
from utils.errors import BadInput

PANELS = {  # what is on the horizontal axis: the measures
    "ratio": RATIOS,
    "weight of the multimodal gradient": ("alpha",),
    "steps (%)": ("favoured",),
    "difference of the rise of the training loss, filter-normalised": ("sharpness",),
    "the same where all weights move by a tenth of their length": ("relative rise",),
    "difference of test accuracy (points)": ("accuracy",),
}


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    if not any(measure.startswith("argument/") for run in runs for measure in run.measures):
        raise BadInput(f"{runs[0].folder}: nothing of the argument is measured; run argument.py")
    sets = {name: list(findings(group(of_data))) for name, of_data in by_data(runs).items()}
    links = list(dict.fromkeys(found.link for of_set in sets.values() for found in of_set))
    rows = {
        label: [x for x in links if x.measure in measures] for label, measures in PANELS.items()
    }
    heights = [len(of_panel) for of_panel in rows.values()]
    size = {"figsize": (10, 0.6 * sum(heights) + 3.5), "height_ratios": heights}
    figure, axes = plt.subplots(len(PANELS), **size)
    for axis, (label, of_panel) in zip(axes, rows.items()):
        axis.set(xlabel=label, xscale="log" if label == "ratio" else "linear")
        for row, link in enumerate(of_panel):
            shown = [
                (number, position, found)
                for number, of_set in enumerate(sets.values())
                for position, found in enumerate(x for x in of_set if x.link == link)
                if found.values
            ]
            for place, (number, position, found) in enumerate(shown, start=1):
                style = {"color": PALETTE[number], "fmt": SIGNS[position], "markersize": 5}
                low, high = found.interval if len(found.values) > 1 else (found.mean, found.mean)
                reach = [[found.mean - low], [high - found.mean]]
                name = f"{list(sets)[number]}, {found.branch}"
                y = row - 0.4 + 0.8 * place / (len(shown) + 1)
                axis.errorbar(found.mean, y, xerr=reach, capsize=2, label=name, **style)
        bounds = [link.bound for link in of_panel]
        low, high = axis.get_xlim()
        low, high = min(low, *bounds), max(high, *bounds)
        for row, link in enumerate(of_panel):
            holds = [link.bound, high if link.above else low]
            axis.fill_betweenx([row - 0.42, row + 0.42], *holds, color=AGREEMENT, alpha=0.12)
            axis.plot([link.bound] * 2, [row - 0.42, row + 0.42], color="black", linewidth=1)
        axis.set(xlim=(low, high), ylim=(len(of_panel) - 0.5, -0.5))
        axis.set_yticks(range(len(of_panel)), [link.claim for link in of_panel])
        axis.grid(False, axis="y")
    legend_beside(figure)
    return figure
