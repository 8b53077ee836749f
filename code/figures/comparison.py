"""The method in one picture: gradients that conflict, training, and what it ends with. From runs of
several methods; left the cosines of the first MMPareto run, for the encoder with most conflicts."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np

from analysis.runs import ACCURACY, Run, conflict_rate, group
from analysis.tables import differences
from figures._style import draw_cosine, draw_epochs, look_of, measured_encoders
from models.multimodal import MULTIMODAL
from utils.errors import BadInput


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    groups = {a: of_arm for a, of_arm in group(runs).items() if len(of_arm[0].modalities) > 1}
    if "mmpareto" not in groups:
        raise BadInput("comparison: needs a run of --method mmpareto, with several modalities")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=[4, 4, 5])
    steps = groups["mmpareto"][0].steps
    encoder = max(measured_encoders(steps), key=lambda name: conflict_rate(steps, name))
    draw_cosine(left, steps, encoder)
    labels, compared = [], differences(groups)
    for row, (arm, runs_of_arm) in enumerate(groups.items()):
        draw_epochs(middle, runs_of_arm, MULTIMODAL, arm)
        name, style = look_of(arm)
        values = [run.measures[ACCURACY] for run in runs_of_arm]
        right.scatter(values, np.full(len(values), row - 0.12), s=14, alpha=0.6, **style)
        std = np.std(values, ddof=1) if len(values) > 1 else 0
        right.errorbar(np.mean(values), row + 0.12, xerr=std, capsize=3, **style)
        labels.append(f"{name} (n = {len(values)})\n{compared.get(arm, '')}".strip())
    middle.set_title("while training, signs as on the right")
    right.set(xlabel="multimodal test accuracy (%)", ylim=(len(labels) - 0.4, -0.6))
    right.set_yticks(range(len(labels)), labels, fontsize=8)
    right.set_title("last epoch: seeds, mean ± std; minus uniform [95 %]")
    return figure
