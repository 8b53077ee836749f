"""Norms of the multimodal and the unimodal gradient per mini-batch, for FIXED encoders: Figure 1(d)
of the paper. Collected here from the checkpoint of one run, over its training split, and stored in
<run>/gradient_norms.json; while the checkpoint is the same it is only redrawn."""

from argparse import Namespace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from analysis import trained
from analysis.argument import gradient_pairs
from analysis.runs import Run
from figures import _style
from models.multimodal import MULTIMODAL
from utils.errors import BadInput
from utils.run_folder import read_result, write_result

add_options = trained.add_options


def collect(folder: Path, options: Namespace) -> dict[str, dict[str, list[float]]]:
    """{encoder: {loss: norm of its gradient in each mini-batch}}; nothing is trained."""
    run, _, loaders, model = trained.load_run(folder, options.checkpoint, options.device)
    if len(run.modalities) < 2:
        raise BadInput(f"{folder}: a run with one modality has no second gradient")
    model.train()  # normalised over the mini-batch, as in training
    norms = {m: {MULTIMODAL: [], m: []} for m in run.modalities}
    for pairs in gradient_pairs(model, loaders["train"]):
        for modality, pair in pairs.items():
            for values, gradient in zip(norms[modality].values(), pair):
                values.append(gradient.norm().item())
    return norms


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    run = _style.single_run(runs, "norms")
    stored = run.folder / "gradient_norms.json"
    result = read_result(stored)
    if not result or result["checkpoint"] != options.checkpoint:
        result = {"norms": collect(run.folder, options)}
        write_result(stored, options.checkpoint, result)
    norms = result["norms"]
    widths = {"width_ratios": [4, 1] * len(norms), "figsize": (7 * len(norms), 4)}
    figure, axes = plt.subplots(1, 2 * len(norms), sharey=False, squeeze=False, **widths)
    for number, (encoder, losses) in enumerate(norms.items()):
        axis, beside = axes[0, 2 * number : 2 * number + 2]
        beside.sharey(axis)
        values = np.concatenate(list(losses.values()))
        edges = np.histogram_bin_edges(values, 30)
        if values.min() > 0 and values.max() > 50 * values.min():
            edges = np.geomspace(values.min(), values.max(), 31)
            axis.set_yscale("log")
        for position, (loss, x) in enumerate(losses.items()):
            style = _style.branch_style(loss, position and position + number)
            label = f"{loss} loss: mean {np.mean(x):.3g}, variance {np.var(x):.3g}"
            axis.scatter(range(len(x)), x, s=9, alpha=0.6, linewidths=0, **style)
            axis.axhline(np.mean(x), color=style["color"], linewidth=1.5, label=label)
            hatch = _style.HATCHES[position]
            bars = {"color": style["color"], "alpha": 0.55, "hatch": hatch}
            beside.hist(x, edges, orientation="horizontal", **bars)
        axis.set(xlabel="mini-batch", ylabel="norm of the gradient")
        axis.set_title(f"{encoder} encoder, fixed, {len(x)} mini-batches")
        low, high = axis.get_ylim()  # room for the legend
        is_log = axis.get_yscale() == "log"
        axis.set_ylim(top=high * (high / low) ** 0.25 if is_log else high + 0.25 * (high - low))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(loc="upper left", title="line: mean over the mini-batches")
        beside.set_xlabel("mini-batches")
        beside.xaxis.get_major_locator().set_params(integer=True)
        beside.tick_params(labelleft=False)
    figure.suptitle(_style.title_of(run))
    return figure
