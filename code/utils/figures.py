"""Figures from stored runs."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from utils.record import read_jsonl  # noqa: E402

# Okabe and Ito's palette: told apart with every kind of colour vision
COLOURS = {"multimodal": "#000000", "audio": "#0072B2", "visual": "#E69F00"}
SPARE_COLOURS = ["#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
CONFLICT, AGREEMENT = "#D55E00", "#009E73"


def colour(branch: str, position: int) -> str:
    return COLOURS.get(branch, SPARE_COLOURS[position % len(SPARE_COLOURS)])


def draw_run(folder: Path) -> Path:
    """Accuracy per epoch, and the cosine of every step per encoder, to `folder`/overview.png."""
    epochs, steps = read_jsonl(folder / "metrics.jsonl"), read_jsonl(folder / "steps.jsonl")
    encoders = [k.split("/", 1)[1] for k in steps[-1] if k.startswith("cosine/")]
    figure, axes = plt.subplots(1, 1 + len(encoders), figsize=(5 * (1 + len(encoders)), 3.6))
    axes = np.atleast_1d(axes)
    draw_accuracy(axes[0], epochs)
    for axis, encoder in zip(axes[1:], encoders):
        draw_cosine(axis, steps, encoder)
    figure.suptitle(folder.name)
    figure.tight_layout()
    path = folder / "overview.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_accuracy(axis, epochs: list[dict]) -> None:
    keys = [k for k in epochs[-1] if k.startswith("test/accuracy/")]
    for position, key in enumerate(keys):
        branch = key.split("/")[2]
        axis.plot(
            [r["epoch"] for r in epochs],
            [100 * r[key] for r in epochs],
            color=colour(branch, position),
            marker="os^Dv"[position % 5],
            markersize=4,
            label=branch,
        )
    axis.set(xlabel="epoch", ylabel="test accuracy (%)", title="own head of each branch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(bottom=0, top=100)
    axis.grid(alpha=0.3)
    axis.legend()


def draw_cosine(axis, steps: list[dict], encoder: str) -> None:
    """As Figure 1(a) of the paper; conflict also has another marker, for readers without colours."""
    step = np.array([r["step"] for r in steps])
    cosine = np.array([r[f"cosine/{encoder}"] for r in steps])
    conflict = cosine <= 0
    label = f"conflict ({conflict.sum()} of {len(step)} steps)"
    axis.scatter(step[~conflict], cosine[~conflict], s=5, color=AGREEMENT, label="no conflict")
    axis.scatter(step[conflict], cosine[conflict], s=14, marker="x", color=CONFLICT, label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(
        xlabel="step",
        ylabel="cosine",
        title=f"{encoder} encoder: multimodal against {encoder} gradient",
        ylim=(-1.05, 1.05),
    )
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
