"""A real conflict of two gradients, and what methods make of it. Both gradients of an encoder in
one step, chosen from all runs of MMPareto as the one in which their sum is worst for one of the
losses, and what methods make of them. All vectors lie in the plane of the two gradients, so nothing
is projected; MMPareto has one scale for the encoder here, as with --rescale encoder."""

import math
from argparse import Namespace

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Wedge

from analysis.names import name_of
from analysis.runs import Run
from figures._style import LOOKS, measured_encoders
from mmpareto import integrate, least_norm_weights
from utils.errors import BadInput

LONGEST = 6  # times as long as the other gradient: beyond that one does not see both


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    runs = [run for run in runs if run.options["method"] == "mmpareto"]
    if not any(len(run.modalities) > 1 for run in runs):
        raise BadInput("poster: needs a run of --method mmpareto, with several modalities")
    figure, axis = plt.subplots(figsize=(8, 4.6))
    draw_conflict(axis, *clearest_conflict(runs))
    return figure


def clearest_conflict(runs: list[Run]) -> tuple[dict, str]:
    """(record of a step, encoder) in which the sum of the gradients has the smallest cosine with
    one of them. Raises BadInput where no conflict is between gradients of comparable length."""
    clearest, smallest = None, math.inf
    for step in (step for run in runs for step in run.steps):
        for encoder in measured_encoders([step]):
            cosine = step[f"cosine/{encoder}"]
            short, long = sorted(lengths_of(step, encoder))
            total = math.sqrt(max(short**2 + long**2 + 2 * cosine * short * long, 1e-30))
            of_sum = (short + cosine * long) / total  # the cosine of the sum with the shorter one
            if cosine < 0 and long <= LONGEST * short and of_sum < smallest:
                clearest, smallest = (step, encoder), of_sum
    if clearest is None:
        raise BadInput("poster: no run of MMPareto has a conflict of gradients of similar length")
    return clearest


def lengths_of(step: dict, encoder: str) -> list[float]:
    """The norms of the multimodal and of the unimodal gradient."""
    return [step[f"norm/{encoder}/{loss}"] for loss in ("multimodal", encoder)]


def vectors_of(cosine: float, multimodal: float, unimodal: float) -> dict[str, torch.Tensor]:
    """{name: (2,)}: gradients of these lengths and cosine, and what methods make of them."""
    sine = math.sqrt(1 - cosine**2)
    pair = torch.tensor([[cosine, sine], [1, 0]], dtype=torch.double)
    pair *= torch.tensor([[multimodal], [unimodal]])
    merged = [[g.clone()] for g in pair]
    integrate(merged, rescale="encoder")
    vectors = {"multimodal": pair[0], "unimodal": pair[1], "uniform": pair.sum(0)}
    return vectors | {
        "mmpareto": merged[0][0],
        "pareto": 2 * least_norm_weights(pair @ pair.T) @ pair,
    }


def draw_conflict(axis: plt.Axes, step: dict, encoder: str) -> None:
    cosine = step[f"cosine/{encoder}"]
    vectors = vectors_of(cosine, *lengths_of(step, encoder))
    looks = {arm: (name_of(arm), LOOKS[arm][0]) for arm in ("uniform", "pareto", "mmpareto")}
    looks["multimodal"] = ("gradient of the multimodal loss", "#000000")
    looks["unimodal"] = (f"gradient of the {encoder} loss", "#777777")
    ends = torch.stack([*vectors.values(), torch.zeros(2)])
    size = (ends.amax(0) - ends.amin(0)).amax().item()
    angle = math.degrees(math.acos(cosine))  # of the two gradients; between their normals is what
    wedge = Wedge(
        (0, 0), 9 * size, angle - 90, 90, color="#E8F0E4", label="steps that descend both losses"
    )
    axis.add_patch(wedge)
    for name, vector in vectors.items():
        label, colour = looks[name]
        width = 2 if name == "pareto" else 4  # which lies on MMPareto's
        arrow = dict(arrowstyle="-|>", color=colour, linewidth=width, shrinkA=0, shrinkB=0)
        arrow["mutation_scale"] = 22
        axis.annotate("", vector.tolist(), (0, 0), arrowprops=arrow)
        axis.plot([], [], color=colour, linewidth=width, label=label)
    low = (ends.amin(0) - 0.12 * size).tolist()
    high = (ends.amax(0) + 0.12 * size).tolist()
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal")
    axis.set_title(f"{encoder} encoder, step {step['step']} of a training, cosine {cosine:.2f}")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
