"""Figures from stored runs."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from dataset._loader import first_batch  # noqa: E402
from utils.errors import BadInput  # noqa: E402
from utils.run_folder import read_jsonl  # noqa: E402

# Okabe and Ito's palette: told apart with every kind of colour vision
COLOURS = {"multimodal": "#000000", "audio": "#0072B2", "visual": "#E69F00"}
SPARE_COLOURS = ["#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"]
CONFLICT, AGREEMENT = "#D55E00", "#009E73"
METHOD_COLOURS = ["#0072B2", "#009E73", "#CC79A7", "#D55E00", "#E69F00", "#56B4E9", "#000000"]
SIGNS = "os^Dv<>PX*"  # told apart without colour


def save(figure, prefix: Path) -> None:
    """Writes PREFIX.svg and PREFIX.png, says so, and closes the figure."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png"):
        figure.savefig(f"{prefix}.{suffix}", dpi=130, bbox_inches="tight")
    plt.close(figure)
    print(f"figure: {prefix}.svg, {prefix}.png")


def colour(branch: str, position: int) -> str:
    return COLOURS.get(branch, SPARE_COLOURS[position % len(SPARE_COLOURS)])


def sign_of(position: int) -> str:
    return SIGNS[position % len(SIGNS)]


def method_colour(position: int) -> str:
    return METHOD_COLOURS[position % len(METHOD_COLOURS)]


def draw_band(axis, x, values: np.ndarray, label: str, position: int) -> None:
    """A line through the means of `values` (n, len(x)), in a band of one standard deviation."""
    style = dict(color=method_colour(position))
    middle = values.mean(0)
    axis.plot(x, middle, marker=sign_of(position), markersize=4, label=label, **style)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axis.fill_between(x, middle - spread, middle + spread, alpha=0.15, linewidth=0, **style)


def encoders_of(steps: list[dict]) -> list[str]:
    """The encoders whose cosine was recorded, in order."""
    keys = dict.fromkeys(k for r in steps for k in r if k.startswith("cosine/"))
    return [key.split("/", 1)[1] for key in keys]


def one_run(runs: list[Path], figure: str) -> Path:
    """The run of a figure that shows a single one. Raises BadInput for several."""
    if len(runs) != 1:
        raise BadInput(f"{figure}: one run at a time, got {len(runs)}")
    return runs[0]


def draw_run(folder: Path) -> Path:
    """Accuracy per epoch and cosine per step and encoder, to `folder`/overview.png."""
    epochs, steps = read_jsonl(folder / "metrics.jsonl"), read_jsonl(folder / "steps.jsonl")
    encoders = encoders_of(steps)
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
            marker=sign_of(position),
            markersize=4,
            label=branch,
        )
    axis.set(xlabel="epoch", ylabel="test accuracy (%)", title="own head of each branch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_ylim(bottom=0, top=100)
    axis.grid(alpha=0.3)
    axis.legend()


def draw_cosine(axis, steps: list[dict], encoder: str) -> None:
    """As Figure 1(a) of the paper; conflict has its own marker too, for prints in grey."""
    steps = [r for r in steps if f"cosine/{encoder}" in r]  # none where fp16 skipped the step
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


def draw_examples(model, loader, classes: list[str], count: int = 4):
    """The first samples of a split as the model gets them, one frame of a clip, with its answers.

    Green: right; the multimodal branch's answer stands first. Returns a matplotlib figure.
    """
    count = min(count, len(loader.dataset))
    inputs, target = first_batch(loader.dataset, count, loader.device)
    with torch.no_grad():
        logits, _ = model.eval()(inputs)
    size = (2.6 * len(inputs), 2.2 * count)
    figure, axes = plt.subplots(count, len(inputs), figsize=size, squeeze=False)
    for row in range(count):
        told = [classes[int(x[row].argmax())] for x in logits.values()]
        true = classes[int(target[row])]
        for axis, (modality, x) in zip(axes[row], inputs.items()):
            picture = (x[row] if x[row].ndim == 3 else x[row][0]).float().cpu().numpy()  # (C, H, W)
            low, high = picture.min(), picture.max()
            picture = (picture - low) / max(high - low, 1e-9)
            if len(picture) == 1 and picture.shape[1] > picture.shape[2]:  # time runs to the right
                picture = picture.transpose(0, 2, 1)[:, ::-1]
            shown = picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0]
            axis.imshow(shown, cmap="gray", aspect="auto", interpolation="nearest")
            axis.set(xticks=[], yticks=[], title=modality if row == 0 else "")
        answers = ", ".join(f"{branch} {name}" for branch, name in zip(logits, told))
        colour_of = AGREEMENT if told[0] == true else CONFLICT
        axes[row][0].set_ylabel(f"true {true}", fontsize=8)
        axes[row][0].set_xlabel(answers, fontsize=7, color=colour_of, loc="left")
    figure.tight_layout()
    return figure


def draw_predictions(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A panel of bars per sample: the probability of each class by each branch.

    found: {sample: {branch: {class: probability}}}.
    """
    figure, axes = plt.subplots(len(found), 1, figsize=(7, 2.6 * len(found)), squeeze=False)
    for axis, (name, by_branch) in zip(axes[:, 0], found.items()):
        width = 0.8 / len(by_branch)
        for position, (branch, shares) in enumerate(by_branch.items()):
            place = np.arange(len(shares)) + (position - (len(by_branch) - 1) / 2) * width
            values = [100 * share for share in shares.values()]
            style = dict(color=colour(branch, position), hatch=["", "//", "..", "xx"][position % 4])
            axis.bar(place, values, width, label=branch, edgecolor="white", **style)
        axis.set_xticks(range(len(shares)), shares, rotation=0 if len(shares) < 12 else 90)
        axis.set(ylabel="probability (%)", ylim=(0, 100), title=Path(name).name)
        axis.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
