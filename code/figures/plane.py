"""Multimodal accuracy against the accuracy of one modality, one point per run, one sign per method:
Figure 1(c) of the paper. Small signs: runs; large: their mean. The modality is measured alike in
all runs: by linear probes of the frozen encoders (evaluate.py --probe linear) where all runs have
them, else by the encoders' own heads, which every method must then train."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import ACCURACY, Run, group, trains_heads
from figures._style import legend_beside, look_of
from utils.errors import BadInput

MEASURES = {"probe": "linear probe of the frozen encoder", "head": "its own head"}


def add_options(parser) -> None:
    add = parser.add_argument
    add("--modality", metavar="NAME", help="of the horizontal axis (default: the last)")
    add("--measure", choices=MEASURES, help="of the modality (default: probe, where all have it)")


def measure_of(runs: list[Run], modality: str, asked: str | None) -> str:
    """The key of MEASURES that all runs have. Raises BadInput where there is none, or it is not the
    one that was asked for."""
    lacking = {
        "probe": [r for r in runs if f"accuracy/{modality} probe" not in r.measures],
        "head": [r for r in runs if not trains_heads(r.options)],
    }
    for measure in [asked] if asked else ["probe", "head"]:
        if not lacking[measure]:
            return measure
    if asked == "head":
        raise BadInput(
            f"--measure head: {lacking['head'][0].folder} trains no {modality} head; use probe"
        )
    first, *others = lacking["probe"]
    raise BadInput(
        f"plane: compares linear probes, and {1 + len(others)} of {len(runs)} runs have none, such "
        f"as {first.folder}; run evaluate.py --probe linear on them"
    )


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    runs = [run for run in runs if len(run.modalities) > 1]
    if not runs:
        raise BadInput("plane: needs runs with several modalities")
    modalities = [m for m in runs[0].modalities if all(m in run.modalities for run in runs)]
    modality = options.modality or (modalities or [""])[-1]
    if modality not in modalities:
        raise BadInput(f"--modality {modality}: all runs have {', '.join(modalities) or 'none'}")
    figure, axis = plt.subplots(figsize=(8.5, 5))
    measure = measure_of(runs, modality, options.measure)
    key = f"accuracy/{modality}" + (" probe" if measure == "probe" else "")
    for arm, runs_of_arm in group(runs).items():
        name, style = look_of(arm)
        x, y = np.array([(r.measures[key], r.measures[ACCURACY]) for r in runs_of_arm]).T
        axis.scatter(x, y, s=22, alpha=0.6, **style)
        axis.scatter(x.mean(), y.mean(), s=120, label=f"{name} (n = {len(x)})", **style)
    axis.set_xlabel(f"{modality} test accuracy (%), {MEASURES[measure]}")
    axis.set_ylabel("multimodal test accuracy (%)")
    legend_beside(figure)
    return figure
