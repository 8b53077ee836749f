"""The method in one picture: gradients that conflict, training, and what it ends with. From runs of
several methods; left the cosines of the first MMPareto run, for the encoder with most conflicts."""

from argparse import Namespace

import matplotlib.pyplot as plt

from analysis.runs import Run, conflict_rate, group
from figures._style import draw_cosine, draw_epochs, draw_last_accuracies, measured_encoders
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
    for arm, runs_of_arm in groups.items():
        draw_epochs(middle, runs_of_arm, MULTIMODAL, arm)
    middle.set_title("while training, signs as on the right")
    draw_last_accuracies(right, groups)
    return figure
