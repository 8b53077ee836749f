"""Test accuracy of the last epoch against gamma: mean and standard deviation over seeds, for the
multimodal branch and each modality's head. Runs that differ in --gamma and seed only."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import group, measures_of, read_run
from figures._style import colour, sign_of
from utils.errors import BadInput


def draw(runs, args):
    del args
    groups = group([read_run(folder) for folder in runs])
    by_gamma: dict[float, list[dict[str, float]]] = {}
    for own in groups.values():
        if "gamma" not in own[0]["options"]:
            raise BadInput(f"{own[0]['folder']}: its method has no --gamma")
        by_gamma.setdefault(own[0]["options"]["gamma"], []).extend(map(measures_of, own))
    if len(groups) != len(by_gamma):
        raise BadInput("gamma: the runs differ in more than --gamma and their seed")
    gammas = sorted(by_gamma)
    modalities = next(iter(groups.values()))[0]["options"]["modalities"]
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
    branches = {"multimodal": "multimodal", **{m: f"{m} head" for m in modalities}}
    for position, (branch, measure) in enumerate(branches.items()):
        values = [[m[measure] for m in by_gamma[g] if measure in m] for g in gammas]
        if not all(values):
            continue
        spread = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
        axis.errorbar(
            gammas,
            [np.mean(v) for v in values],
            spread,
            color=colour(branch, position),
            marker=sign_of(position),
            capsize=3,
            label=branch,
        )
    n = sorted({len(by_gamma[g]) for g in gammas})
    counts = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
    axis.set(xlabel="gamma", ylabel="test accuracy (%)", title=f"n = {counts} seeds per point")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    return figure
