"""The paper's argument, link by link (Sections 3.2 to 3.4): what is measured in a run, and the
table of all links.

In the last weights of a run, over the mini-batches of the training split, with what a mini-batch
normalises as in training; g_m is the multimodal gradient of an encoder, g_u the unimodal one:

norm ratio        mean |g_u| / mean |g_m|
variance ratio    variance of |g_u| / variance of |g_m|
k                 C_u / C_m, C = trace of the covariance of a gradient over mini-batches
alpha             mean least-norm weight of g_m
noise ratio       C of Pareto's 2 alpha g_m + 2 (1 - alpha) g_u, over C of g_m + g_u
sharpness         rise of the training loss at +-0.5 along filter-normalised random directions
relative rise     rise of the training loss where all weights move by a tenth of their length

And in every step of its training, where the method has weights:

favoured          % of steps with alpha > 1/2
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import exp, log
from pathlib import Path
from statistics import mean, variance
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from analysis import landscape, trained
from analysis.names import name_of
from analysis.runs import ARGUMENT, Run, base_of, read_run, trains_heads
from analysis.statistics import interval, paired
from analysis.tables import Table, all_runs, of_seeds, source_of
from mmpareto import least_norm_weights
from models.multimodal import MULTIMODAL
from utils.errors import BadInput
from utils.run_folder import read_result, write_result

DIRECTIONS, SAMPLES = 4, 512  # of the minimum's measures
OF_MINIMUM = {"sharpness": (landscape.by_filter, 0.5), "relative rise": (landscape.as_long, 0.1)}


class Spread:
    """The trace of the covariance of vectors that come one after the other."""

    def __init__(self):
        self.count, self.total, self.squares = 0, torch.zeros(()), 0.0

    def add(self, vector: Tensor) -> None:
        self.count += 1
        self.total = self.total + vector
        self.squares += vector.double().square().sum().item()

    def trace(self) -> float:
        of_mean = self.total.double().square().sum().item() / self.count
        return (self.squares - of_mean) / (self.count - 1)


def of_encoders(model, batches) -> dict[str, float]:
    """{"k/audio" and so on: value}; `model` is in training mode, nothing is trained.

    Raises BadInput for a single mini-batch.
    """
    encoders = model.encoder_parameters()
    norms: dict[str, tuple[list, list]] = {m: ([], []) for m in encoders}
    weights: dict[str, list[float]] = {m: [] for m in encoders}
    spreads = {m: [Spread() for _ in range(4)] for m in encoders}
    for pairs in gradient_pairs(model, batches):
        for m, pair in pairs.items():
            gram = torch.stack([torch.stack([x.dot(y) for y in pair]) for x in pair]).double()
            alpha = least_norm_weights(gram).tolist()
            pareto = 2 * alpha[0] * pair[0] + 2 * alpha[1] * pair[1]
            for spread, vector in zip(spreads[m], (*pair, pareto, pair[0] + pair[1])):
                spread.add(vector)
            for of_loss, norm in zip(norms[m], gram.diagonal().sqrt().tolist()):
                of_loss.append(norm)
            weights[m].append(alpha[0])
    if any(len(of_batches) < 2 for of_batches in weights.values()):
        raise BadInput("one mini-batch is an epoch: nothing varies from one to another")
    result = {}
    for m, (multimodal, unimodal) in norms.items():
        c_m, c_u, c_pareto, c_sum = (spread.trace() for spread in spreads[m])
        result |= {
            f"norm ratio/{m}": mean(unimodal) / mean(multimodal),
            f"variance ratio/{m}": variance(unimodal) / variance(multimodal),
            f"k/{m}": c_u / c_m,
            f"alpha/{m}": mean(weights[m]),
            f"noise ratio/{m}": c_pareto / c_sum,
        }
    return result


def gradient_pairs(model, batches) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Of every mini-batch {encoder: (g_m, g_u), each flat}; each loss is back-propagated once, and
    no .grad is written."""
    encoders = model.encoder_parameters()
    of_all = [p for parameters in encoders.values() for p in parameters]
    for inputs, target in batches:
        logits, _ = model(inputs)
        unimodal = {
            m: torch.autograd.grad(cross_entropy(logits[m], target), parameters, retain_graph=True)
            for m, parameters in encoders.items()
        }
        loss = cross_entropy(logits[MULTIMODAL], target)
        multimodal = iter(torch.autograd.grad(loss, of_all))
        yield {
            m: (flat(islice(multimodal, len(gradients))), flat(gradients))
            for m, gradients in unimodal.items()
        }


def flat(gradients: Iterable[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def of_minimum(model, loader) -> dict[str, float]:
    """{"sharpness" and so on: rise of the multimodal loss}, means over DIRECTIONS and both
    signs."""
    splits, result = {"train": landscape.first_batches(loader, SAMPLES)}, {}
    for name, (direction, reach) in OF_MINIMUM.items():
        rises = []
        for seed in range(DIRECTIONS):
            walked = landscape.walk(
                model, splits, MULTIMODAL, direction(model, seed), [-reach, 0.0, reach]
            )
            low, middle, high = walked["train loss"]
            rises.append((low + high) / 2 - middle)
        result[name] = mean(rises)
    return result


def of_training(run: Run) -> dict[str, float]:
    """{"favoured/audio" and so on: % of the steps}, of a method that has weights."""
    result = {}
    for m in run.modalities:
        name = f"weight/{m}/{MULTIMODAL}"
        alphas = [step[name] for step in run.read_steps(["step", name]) if name in step]
        if alphas:
            result[f"favoured/{m}"] = 100 * mean(alpha > 0.5 for alpha in alphas)
    return result


def collect(folder: Path, device: str) -> None:
    """Measures a run, unless its argument.json is of the same last weights. Gradients only where
    the method trains the unimodal heads: those of untrained heads say nothing.

    Raises BadInput for a run of one modality.
    """
    if read_result(folder / ARGUMENT):
        return
    options, _, loaders, model = trained.load_run(folder, "last", device)
    if len(options.modalities) < 2:
        raise BadInput(f"{folder}: a run with one modality has no second gradient")
    measured = of_minimum(model, loaders["train_plain"]) | of_training(read_run(folder))
    if trains_heads(vars(options)):
        model.train()
        measured |= of_encoders(model, loaders["train"])
    write_result(folder / ARGUMENT, "last", {"measured": measured})


class Link(NamedTuple):
    """A claim: that a measure of an arm, minus that of another if one is named, is above or below
    a bound."""

    claim: str
    measure: str
    arm: str
    minus: str | None = None
    above: bool = True
    bound: float = 0.0

    @property
    def where(self) -> str:
        """The arms, as tables call them."""
        return " minus ".join(name_of(arm) for arm in (self.arm, self.minus) if arm)


GAIN = "uniform --encoder_grad_scale 1.5"
RATIOS = ("norm ratio", "variance ratio", "k", "noise ratio")  # their means are geometric
TINY = 1e-12  # a ratio below has no logarithm worth showing
LINKS = [
    Link("unimodal gradients are longer (Hypothesis 1)", "norm ratio", "uniform", bound=1),
    Link("their length varies more (Hypothesis 1)", "variance ratio", "uniform", bound=1),
    Link("Pareto's weights favour the multimodal one (Remark 1)", "alpha", "uniform", bound=0.5),
    Link("they do in most steps of training, %", "favoured", "pareto", bound=50),
    Link("C_u > 3 C_m: less noise whatever alpha", "k", "uniform", bound=3),
    Link("Pareto's step has less noise than the sum", "noise ratio", "uniform", None, False, 1),
    Link("Pareto's minimum is sharper", "sharpness", "pareto", "uniform"),
    Link("Pareto's is sharper at a relative distance", "relative rise", "pareto", "uniform"),
    Link("Pareto generalises worse", "accuracy", "pareto", "uniform", above=False),
    Link("MMPareto's minimum is flatter than Pareto's", "sharpness", "mmpareto", "pareto", False),
    Link(
        "MMPareto's is flatter at a relative distance", "relative rise", "mmpareto", "pareto", False
    ),
    Link("MMPareto generalises better than uniform", "accuracy", "mmpareto", "uniform"),
    Link("and flatter than with the gain alone", "sharpness", "mmpareto", GAIN, above=False),
    Link("and better than the gain alone", "accuracy", "mmpareto", GAIN),
]


class Finding(NamedTuple):
    """What runs say of a link, in an encoder or in the multimodal branch."""

    link: Link
    branch: str
    values: list[float]  # one per seed; of a difference, of the seeds that both arms have

    @property
    def logs(self) -> list[float]:
        """Of ratios; [] of other measures."""
        is_ratio = self.link.measure in RATIOS
        return [log(max(value, TINY)) for value in self.values] if is_ratio else []

    @property
    def mean(self) -> float:
        return exp(mean(self.logs)) if self.logs else mean(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        if not self.logs:
            return interval(self.values)
        low, high = interval(self.logs)
        return exp(low), exp(high)

    @property
    def verdict(self) -> str:
        """A link holds, or does not, where the whole interval lies on one side of its bound."""
        if len(self.values) < 2:
            return "not measured"
        low, high = self.interval
        if low <= self.link.bound <= high:
            return "open"
        return "holds" if (low > self.link.bound) == self.link.above else "**does not hold**"


def findings(groups: dict[str, list[Run]]) -> Iterator[Finding]:
    """One for each link and branch."""
    modalities = next(iter(groups.values()))[0].modalities
    for link in LINKS:
        if link.measure == "accuracy":
            branches = {MULTIMODAL: f"accuracy/{MULTIMODAL}"}
        elif link.measure in OF_MINIMUM:
            branches = {MULTIMODAL: f"argument/{link.measure}"}
        else:
            branches = {m: f"argument/{link.measure}/{m}" for m in modalities}
        for branch, measure in branches.items():
            of_arm, base = (of_seeds(groups.get(a, []), measure) for a in (link.arm, link.minus))
            values = paired(of_arm, base) if link.minus else list(of_arm.values())
            yield Finding(link, branch, values)


def table(groups: dict[str, list[Run]], title: str = "") -> Table:
    """A row per finding: what the paper says, what was measured, and whether it holds."""
    rows = []
    for found in findings(groups):
        link, n = found.link, len(found.values)
        here = f"{found.mean:.3g}" if n else "-"
        within = "[{:.3g}, {:.3g}]".format(*found.interval) if n > 1 else ""
        bound = f"{'>' if link.above else '<'} {link.bound:g}"
        row = [link.claim, link.where, found.branch, bound, f"{n}", here, within, found.verdict]
        rows.append(row)
    head = ["link", "measured in", "of", "the paper", "n", "here", "95% interval", ""]
    return Table(title, head, rows)


def caption(groups: dict[str, list[Run]]) -> str:
    """Below the table: what was run, and how its numbers are to be read."""
    runs = all_runs(groups)
    base = base_of(runs)
    return (
        f"{runs[0].data_name}, {base['encoder']}, {base['fusion']}, weights after {base['epochs']} "
        "epochs; means over n seeds, geometric ones of ratios; intervals: Student, of differences "
        f"paired by seed. {source_of(runs)}."
    )
