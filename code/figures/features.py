"""Test features of every encoder in two dimensions (t-SNE, or PCA), coloured by class; a row per
run. From the runs' checkpoints."""

from argparse import Namespace

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from analysis import trained
from analysis.runs import Run
from figures._style import PALETTE, SIGNS, title_of
from models.metrics import predict


def add_options(parser) -> None:
    parser.add_argument("--map", choices=("tsne", "pca"), default="tsne")
    parser.add_argument("--samples", type=int, default=1000, help="of the test split, at most")
    trained.add_options(parser)


def draw(runs: list[Run], options: Namespace) -> plt.Figure:
    width = max(len(run.modalities) for run in runs)
    size = (4.6 * width, 4.2 * len(runs))
    figure, axes = plt.subplots(len(runs), width, figsize=size, squeeze=False)
    for row, run in zip(axes, runs):
        _, dataset, loaders, model = trained.load_run(
            run.folder, options.checkpoint, options.device
        )
        _, features, target = predict(model, loaders["test"])
        chosen = np.random.default_rng(0).permutation(len(target))[: options.samples]
        for axis, (modality, x) in zip(row, features.items()):
            reduce = TSNE(2, perplexity=min(30, (len(chosen) - 1) / 3), random_state=0)
            if options.map == "pca":
                reduce = PCA(2, random_state=0)
            points = reduce.fit_transform(x.numpy()[chosen])
            for k, name in enumerate(dataset.classes):
                style = {"marker": SIGNS[k % len(SIGNS)], "color": PALETTE[k % len(PALETTE)]}
                axis.scatter(*points[target.numpy()[chosen] == k].T, s=8, label=name, **style)
            axis.set(xticks=[], yticks=[], title=f"{modality} encoder")
        row[0].set_ylabel(title_of(run))
        columns = 1 + len(dataset.classes) // 16
        row[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
    return figure
