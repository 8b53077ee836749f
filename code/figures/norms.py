"""Norms of the multimodal and the unimodal gradient per mini-batch, for FIXED encoders: Figure 1(d)
of the paper. Collected here from the checkpoint of one run, over its training split, and stored in
<run>/gradient_norms.json; the second time it is only redrawn."""

from __future__ import annotations

import copy
import json

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from analysis import trained
from figures._style import SPARE_COLOURS, colour, one_run
from utils.atomic import write_text
from utils.errors import BadInput


def add_options(parser):
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def collect(folder, args) -> dict[str, dict[str, list[float]]]:
    """{encoder: {loss: norm of its gradient in each mini-batch}}; nothing is trained."""
    opt, _, loaders, model = trained.load_run(folder, args.checkpoint, args.device)
    if len(opt.modalities) < 2:
        raise BadInput(f"{folder}: a run with one modality has no second gradient")
    model = copy.deepcopy(model).train()  # normalised over the mini-batch, as in training
    parameters = model.encoder_parameters()
    norms = {m: {"multimodal": [], m: []} for m in parameters}
    for inputs, target in loaders["train"]:
        logits, _ = model(inputs)
        for modality, own in parameters.items():
            for branch, values in norms[modality].items():
                loss = cross_entropy(logits[branch], target)
                gradients = torch.autograd.grad(loss, own, retain_graph=True)
                values.append(torch.nn.utils.get_total_norm(gradients).item())
    return norms


def draw(runs, args):
    folder = one_run(runs, "norms")
    stored = folder / "gradient_norms.json"
    if not stored.is_file():
        write_text(stored, json.dumps(collect(folder, args)))
    norms = json.loads(stored.read_text())
    figure, axes = plt.subplots(1, len(norms), figsize=(5.5 * len(norms), 4), squeeze=False)
    for axis, (encoder, by_loss) in zip(axes[0], norms.items()):
        every = np.concatenate(list(by_loss.values()))
        wide = every.min() > 0 and every.max() > 50 * every.min()
        edges = np.histogram_bin_edges(np.log10(every) if wide else every, 30)
        edges = 10**edges if wide else edges
        for position, (loss, values) in enumerate(by_loss.items()):
            name = f"{loss} loss: mean {np.mean(values):.3g}, variance {np.var(values):.3g}"
            style = dict(color=colour(loss, position) if position == 0 else SPARE_COLOURS[0])
            axis.hist(values, edges, alpha=0.55, label=name, hatch=["", "//"][position], **style)
        batches = len(next(iter(by_loss.values())))
        axis.set(xlabel="norm of the gradient", ylabel="mini-batches")
        axis.set_xscale("log" if wide else "linear")
        axis.set_title(f"{encoder} encoder, fixed, {batches} mini-batches")
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(folder.name)
    figure.tight_layout()
    return figure
