"""Norms of the multimodal and the unimodal gradient per mini-batch, for FIXED encoders: Figure 1(d)
of the paper. Collected here from the checkpoint of one run, over its training split, and stored in
<run>/gradient_norms.json; while the checkpoint is the same it is only redrawn."""

from argparse import Namespace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from analysis import trained
from analysis.runs import Run
from figures import _style
from utils.errors import BadInput
from utils.run_folder import read_result, write_result

add_options = trained.add_options


def collect(folder: Path, options: Namespace) -> dict[str, dict[str, list[float]]]:
    """{encoder: {loss: norm of its gradient in each mini-batch}}; nothing is trained."""
    run, _, loaders, model = trained.load_run(folder, options.checkpoint, options.device)
    if len(run.modalities) < 2:
        raise BadInput(f"{folder}: a run with one modality has no second gradient")
    model.train()  # normalised over the mini-batch, as in training
    encoders = model.encoder_parameters()
    norms = {m: {"multimodal": [], m: []} for m in encoders}
    for inputs, target in loaders["train"]:
        logits, _ = model(inputs)
        for modality, parameters in encoders.items():
            for branch, values in norms[modality].items():
                loss = cross_entropy(logits[branch], target)
                gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
                values.append(torch.nn.utils.get_total_norm(gradients).item())
    return norms


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    run = _style.single_run(runs, "norms")
    stored = run.folder / "gradient_norms.json"
    result = read_result(stored)
    if not result or result["checkpoint"] != options.checkpoint:
        result = {"norms": collect(run.folder, options)}
        write_result(stored, options.checkpoint, result)
    norms = result["norms"]
    figure, axes = plt.subplots(1, len(norms), figsize=(5.5 * len(norms), 4), squeeze=False)
    for axis, (encoder, losses) in zip(axes[0], norms.items()):
        values = np.concatenate(list(losses.values()))
        edges = np.histogram_bin_edges(values, 30)
        if values.min() > 0 and values.max() > 50 * values.min():
            edges = np.geomspace(values.min(), values.max(), 31)
            axis.set_xscale("log")
        for position, (loss, x) in enumerate(losses.items()):
            label = f"{loss} loss: mean {np.mean(x):.3g}, variance {np.var(x):.3g}"
            style = {"color": _style.branch_style(loss, position)["color"], "alpha": 0.55}
            axis.hist(x, edges, label=label, hatch=_style.HATCHES[position], **style)
        axis.set(xlabel="norm of the gradient", ylabel="mini-batches")
        axis.set_title(f"{encoder} encoder, fixed, {len(x)} mini-batches")
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    figure.suptitle(_style.title_of(run))
    return figure
