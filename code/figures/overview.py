"""The method in one picture: gradients that conflict, training, and what it ends with. From runs of
several methods; left the cosines of the first MMPareto run, for the encoder with most conflicts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import conflict_rate, group, read_run
from analysis.statistics import difference
from analysis.tables import REFERENCE, references
from figures._style import draw_band, draw_cosine, encoders_of, method_colour, sign_of
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def draw(runs, args):
    del args
    groups = group([read_run(folder) for folder in runs])
    groups = {k: own for k, own in groups.items() if len(own[0]["options"]["modalities"]) > 1}
    if "mmpareto" not in groups:
        raise BadInput("overview: needs a run of --method mmpareto, with several modalities")
    shown = groups["mmpareto"][0]["folder"]
    steps = read_jsonl(shown / "steps.jsonl")
    encoder = max(encoders_of(steps), key=lambda name: conflict_rate(steps, name))

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), gridspec_kw={"width_ratios": [4, 4, 5]})
    draw_cosine(axes[0], steps, encoder)
    labels = [f"{label} (n = {len(own)})" for label, own in groups.items()]
    found = {}  # {label: {seed: last accuracy}}
    for position, (label, own) in enumerate(groups.items()):
        curves = [[r["test/accuracy/multimodal"] for r in one["epochs"]] for one in own]
        values = 100 * np.array(curves)
        draw_band(axes[1], np.arange(values.shape[1]), values, label, position)
        last = values[:, -1]
        found[label] = {r["options"]["random_seed"]: x for r, x in zip(own, last)}
        row = len(labels) - 1 - position  # the first on top
        style = dict(color=method_colour(position), marker=sign_of(position))
        axes[2].scatter(last, np.full(len(last), row + 0.12), s=14, alpha=0.6, **style)
        spread = last.std(ddof=1) if len(last) > 1 else 0
        axes[2].errorbar(last.mean(), row - 0.12, xerr=spread, capsize=3, **style)
    axes[1].set(xlabel="epoch", ylabel="multimodal test accuracy (%)")
    axes[1].set_title("while training, signs as on the right")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    compared = references(groups, REFERENCE)
    labels = [
        f"{label}\n{difference(own, found[compared[key]])}" if key in compared else label
        for label, (key, own) in zip(labels, found.items())
    ]
    axes[2].set(xlabel="multimodal test accuracy (%)", ylim=(-0.6, len(labels) - 0.4))
    axes[2].set_yticks(range(len(labels) - 1, -1, -1), labels, fontsize=8)
    axes[2].set_title("last epoch: seeds, mean ± std; minus uniform [95 %]")
    for axis in axes[1:]:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure
