"""What figures share: names, colours and signs of methods and branches, axes, and files."""

from pathlib import Path
from zlib import crc32

import matplotlib.pyplot as plt
import numpy as np

from analysis.names import name_of
from analysis.runs import Run, arm_of
from utils.errors import BadInput

plt.rcParams["figure.constrained_layout.use"] = True
plt.rcParams["figure.constrained_layout.w_pad"] = 0.1
plt.rcParams["axes.grid"], plt.rcParams["grid.alpha"] = True, 0.3
plt.rcParams["axes.axisbelow"] = True
plt.rcParams["svg.hashsalt"] = "mmpareto"  # names of parts are drawn at random otherwise
plt.rcParams["axes.titlesize"], plt.rcParams["legend.fontsize"] = 11, 8

# Okabe and Ito's palette can be distinguished with every kind of colour vision, signs in grey
PALETTE = ["#0072B2", "#009E73", "#CC79A7", "#D55E00", "#E69F00", "#56B4E9", "#000000"]
SIGNS = "os^Dv<>PX*"
HATCHES = ["", "//", "..", "xx"]
BRANCH_COLOURS = {"multimodal": "#000000", "audio": "#0072B2", "visual": "#E69F00"}
SPARE_BRANCH_COLOURS = ["#009E73", "#CC79A7", "#56B4E9", "#D55E00"]
CONFLICT, AGREEMENT = "#D55E00", "#009E73"

LOOKS = {  # arm, a method with its flags: colour and sign in every figure
    "joint": (PALETTE[0], "o"),
    "uniform": (PALETTE[1], "s"),
    "pareto": (PALETTE[2], "^"),
    "mmpareto": (PALETTE[3], "D"),
    "uniform --encoder_grad_scale 1.5": (PALETTE[4], "v"),
}
SPARE_COLOURS = ["#56B4E9", "#000000", "#882255", "#999933", "#332288", "#888888", "#DDCC77"]
SPARE_COLOURS += ["#AA4499", "#661100"]
SPARE_SIGNS = "<>PX*pdh"
START = 751  # of the checksum by which an arm chooses: every method, alone, looks different


def look_of(arm: str) -> tuple[str, dict[str, str]]:
    """(name, {"color", "marker"}) of `mmpareto --gamma 2.0` and the like, whatever else is drawn.

    The name of an arm that is not in LOOKS chooses from what is left.
    """
    if arm in LOOKS:
        colour, sign = LOOKS[arm]
        return name_of(arm), {"color": colour, "marker": sign}
    number, colour = divmod(crc32(arm.replace(".0", "").encode(), START), len(SPARE_COLOURS))
    sign = SPARE_SIGNS[number % len(SPARE_SIGNS)]
    return name_of(arm), {"color": SPARE_COLOURS[colour], "marker": sign}


def branch_style(branch: str, position: int) -> dict[str, str]:
    """Colour and sign of the branch, or the modality, that stands at `position` among them."""
    spare = SPARE_BRANCH_COLOURS[position % len(SPARE_BRANCH_COLOURS)]
    return {"color": BRANCH_COLOURS.get(branch, spare), "marker": SIGNS[position % len(SIGNS)]}


def title_of(run: Run) -> str:
    """Such as "MMPareto on avmnist, seed 0"."""
    return f"{name_of(arm_of(run, run.settings))} on {run.data_name}, seed {run.seed}"


def save(figure: plt.Figure, prefix: Path) -> None:
    """Writes PREFIX.svg, .pdf and .png, says so, and closes the figure."""
    for suffix in ("svg", "pdf", "png"):
        save_as(figure, Path(f"{prefix}.{suffix}"))
    print(f"figure: {prefix}.svg, .pdf, .png")


def save_as(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    same = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}  # the same bytes, drawn again
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata=same.get(path.suffix))
    plt.close(figure)


def draw_band(axis, x, values: np.ndarray, arm: str, more: str = "") -> None:
    """A line through the means of `values` (n, len(x)), in a band of one standard deviation."""
    name, style = look_of(arm)
    mean = values.mean(0)
    axis.plot(x, mean, markersize=4, label=f"{name} (n = {len(values)}){more}", **style)
    if len(values) > 1:
        std, shade = values.std(0, ddof=1), {"alpha": 0.15, "linewidth": 0}
        axis.fill_between(x, mean - std, mean + std, color=style["color"], **shade)


def draw_epochs(axis, runs: list[Run], branch: str, arm: str) -> None:
    """Test accuracy of a branch in every epoch: mean and deviation over the runs of an arm."""
    values = np.array([run.curve(branch) for run in runs])
    draw_band(axis, np.arange(values.shape[1]), values, arm)
    epoch_axis(axis, f"{branch} test accuracy (%)")


def epoch_axis(axis, ylabel: str) -> None:
    axis.set(xlabel="epoch", ylabel=ylabel)
    axis.xaxis.get_major_locator().set_params(integer=True)


def legend_beside(figure: plt.Figure) -> None:
    """One legend for all panels, to the right of them."""
    entries = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= zip(labels, handles)
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", markerscale=0.7)


def single_run(runs: list[Run], figure: str) -> Run:
    """The run of a figure that shows a single one. Raises BadInput for several."""
    if len(runs) != 1:
        raise BadInput(f"{figure}: one run at a time, got {len(runs)}")
    return runs[0]


def measured_encoders(steps: list[dict]) -> list[str]:
    """The encoders whose cosine was recorded, in order."""
    keys = dict.fromkeys(key for step in steps for key in step if key.startswith("cosine/"))
    return [key.removeprefix("cosine/") for key in keys]


def scatter_steps(axis, steps: list[dict], encoder: str, key: str) -> None:
    """`key` in every step, marked by conflict: by colour, and by sign for prints in grey."""
    steps = [r for r in steps if f"cosine/{encoder}" in r]  # none where fp16 skipped the step
    step, value = np.array([(r["step"], r[key]) for r in steps]).T
    conflict = np.array([r[f"cosine/{encoder}"] <= 0 for r in steps])
    label = f"conflict ({conflict.sum()} of {len(step)} steps)"
    axis.scatter(step[~conflict], value[~conflict], s=5, color=AGREEMENT, label="no conflict")
    axis.scatter(step[conflict], value[conflict], s=14, marker="x", color=CONFLICT, label=label)
    axis.set_xlabel("step")


def draw_cosine(axis, steps: list[dict], encoder: str) -> None:
    """As Figure 1(a) of the paper."""
    scatter_steps(axis, steps, encoder, f"cosine/{encoder}")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set(ylabel=f"cosine of multimodal and {encoder} gradient", ylim=(-1.05, 1.05))
    axis.set_title(f"{encoder} encoder")
    axis.legend(loc="lower right")


def draw_confusion(counts: dict[str, list[list[int]]], classes: list[str], path: Path) -> None:
    """A panel per branch: the share of each true class (row) that was given each answer (column).

    counts: {branch: [true class][answered class]}.
    """
    side = max(3.2, 0.22 * len(classes) + 1.2)
    size = (side * len(counts), side)
    figure, axes = plt.subplots(1, len(counts), figsize=size, squeeze=False, sharey=True)
    for axis, (branch, rows) in zip(axes[0], counts.items()):
        table = np.array(rows, float)
        shares = 100 * table / table.sum(1, keepdims=True).clip(min=1)
        picture = axis.imshow(shares, vmin=0, vmax=100, cmap="Blues")
        axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axis.set_yticks(range(len(classes)), classes, fontsize=7)
        axis.set(xlabel="answer", title=branch)
        axis.grid(False)
        if len(classes) <= 12:
            for (row, column), count in np.ndenumerate(table.astype(int)):
                colour = "white" if shares[row, column] > 50 else "black"
                axis.text(column, row, count, ha="center", va="center", fontsize=7, color=colour)
    axes[0, 0].set_ylabel("true class")
    figure.colorbar(picture, ax=axes[0].tolist(), label="of the true class (%)")
    save_as(figure, path)


def draw_predictions(samples: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A panel of bars per sample: the probability of each class by each branch.

    samples: {name: {branch: {class: probability}}}.
    """
    figure, axes = plt.subplots(len(samples), 1, figsize=(7, 2.6 * len(samples)), squeeze=False)
    for axis, (name, branches) in zip(axes[:, 0], samples.items()):
        width = 0.8 / len(branches)
        for position, (branch, shares) in enumerate(branches.items()):
            place = np.arange(len(shares)) + (position - (len(branches) - 1) / 2) * width
            colour = branch_style(branch, position)["color"]
            style = {"color": colour, "edgecolor": "white", "hatch": HATCHES[position % 4]}
            axis.bar(place, [100 * p for p in shares.values()], width, label=branch, **style)
        axis.set_xticks(range(len(shares)), shares, rotation=0 if len(shares) < 12 else 90)
        axis.set(ylabel="probability (%)", ylim=(0, 100), title=Path(name).name)
    legend_beside(figure)
    save_as(figure, path)
