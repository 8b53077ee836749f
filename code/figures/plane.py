"""Multimodal accuracy against the accuracy of one modality, one point per run, one sign per method:
Figure 1(c) of the paper. Small signs: runs; large: their mean. Where a method trains no unimodal
head, its linear probe (evaluate.py --probe linear) stands for it, hollow."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import group, measures_of, read_run
from figures._style import method_colour, sign_of
from utils.errors import BadInput


def add_options(parser):
    parser.add_argument(
        "--modality", metavar="NAME", help="of the horizontal axis (default: the last)"
    )


def draw(runs, args):
    groups = group([read_run(folder) for folder in runs])
    groups = {k: r for k, r in groups.items() if len(r[0]["options"]["modalities"]) > 1}
    if not groups:
        raise BadInput("plane: needs runs with several modalities")
    modalities = next(iter(groups.values()))[0]["options"]["modalities"]
    modality = args.modality or modalities[-1]
    if modality not in modalities:
        raise BadInput(f"--modality {modality}: choose from {', '.join(modalities)}")
    figure, axis = plt.subplots(figsize=(6.5, 5))
    for position, (label, own) in enumerate(groups.items()):
        found = [measures_of(one) for one in own]
        points = [
            (m.get(f"{modality} head", m.get(f"{modality} probe")), m["multimodal"]) for m in found
        ]
        if any(x is None for x, _ in points):
            raise BadInput(
                f"{label}: trains no {modality} head; run evaluate.py --probe linear on its runs"
            )
        x, y = np.array(points).T
        probed = f"{modality} head" not in found[0]
        colour = method_colour(position)
        style = dict(marker=sign_of(position), edgecolors=colour)
        style["facecolors"] = "none" if probed else colour
        name = f"{label} (n = {len(own)}{', probe' if probed else ''})"
        axis.scatter(x, y, s=22, alpha=0.6, **style)
        axis.scatter(x.mean(), y.mean(), s=120, linewidths=1.5, label=name, **style)
    axis.set(xlabel=f"{modality} test accuracy (%)", ylabel="multimodal test accuracy (%)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, markerscale=0.6)
    figure.tight_layout()
    return figure
