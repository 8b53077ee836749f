"""Test features of every encoder in two dimensions (t-SNE, or PCA), coloured by class; a row per
run. From the runs' checkpoints."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from analysis import trained
from figures._style import method_colour, sign_of
from models.metrics import predict


def add_options(parser):
    parser.add_argument("--map", choices=("tsne", "pca"), default="tsne")
    parser.add_argument("--samples", type=int, default=1000, help="of the test split, at most")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")


def draw(runs, args):
    loaded = [trained.load_run(folder, args.checkpoint, args.device) for folder in runs]
    width = max(len(opt.modalities) for opt, *_ in loaded)
    figure, axes = plt.subplots(
        len(runs), width, figsize=(4.6 * width, 4.2 * len(runs)), squeeze=False
    )
    for row, (folder, (opt, dataset, loaders, model)) in enumerate(zip(runs, loaded)):
        _, features, target = predict(model, loaders["test"])
        chosen = np.random.default_rng(0).permutation(len(target))[: args.samples]
        for axis, modality in zip(axes[row], opt.modalities):
            points = features[modality].numpy()[chosen]
            if args.map == "pca":
                points = PCA(2, random_state=0).fit_transform(points)
            else:
                perplexity = min(30, (len(chosen) - 1) / 3)
                points = TSNE(2, perplexity=perplexity, random_state=0).fit_transform(points)
            for k, name in enumerate(dataset.classes):
                own = target.numpy()[chosen] == k
                sign = sign_of(k)
                colour = method_colour(k)  # sign and colour tell it together
                axis.scatter(*points[own].T, s=8, marker=sign, color=colour, label=name)
            axis.set(xticks=[], yticks=[], title=f"{modality} encoder")
            axis.set_xlabel(folder.name, fontsize=8)
        if len(dataset.classes) <= 12:
            axes[row][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure
