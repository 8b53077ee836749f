"""What a trained model knows and leans on: probes of its encoders and of its inputs."""

import itertools
import math
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dataset._loader import Batches, SampleDataset
from dataset.modalities import Modality
from models.fusion import LateFusion
from models.metrics import answers, predict
from training.messages import main_branch
from utils import registry
from utils.errors import BadInput
from utils.seed import generator

BINS = 15  # of the calibration error


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensor:
    """Test logits (N, K) of a linear classifier fitted to frozen features.

    Standardised features, L2-regularised logistic regression (C = 1): the same for every encoder,
    so that heads trained with little or no weight do not hide what an encoder knows.

    train, test: features (N, D) and targets (N,). Raises BadInput for features that are not finite.
    """
    if not all(features.isfinite().all() for features, _ in (train, test)):
        raise BadInput("linear probe: the encoder's features are not finite")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are the definition here
        probe.fit(train[0].numpy(), train[1].numpy())
    shares = torch.from_numpy(probe.predict_proba(test[0].numpy())).double()
    logits = torch.full((len(shares), int(train[1].max()) + 1), -torch.inf, dtype=torch.double)
    logits[:, torch.from_numpy(probe.classes_)] = shares.log()
    return logits


def accuracy(model, loader, branch: str) -> float:
    """In [0, 1], of one branch."""
    logits, _, target = predict(model, loader)
    return (answers(logits[branch]) == target).double().mean().item()


def altered(loader, modality: str, change: Callable[[Tensor], Tensor]) -> Iterator:
    """The batches of a loader with `change` of one modality's inputs (B, ...)."""
    for inputs, target in loader:
        yield inputs | {modality: change(inputs[modality])}, target


def without(loader, modality: str) -> Iterator:
    """That modality is not there: its input is zero."""
    return altered(loader, modality, torch.zeros_like)


def with_noise(loader, modality: str, level: float, seed: int = 0) -> Iterator:
    """Gaussian noise on one modality: `level` times the deviation of its input in the batch."""
    noise = generator(seed)

    def change(x: Tensor) -> Tensor:
        return x + level * x.std() * torch.randn(x.shape, generator=noise).to(x)

    return altered(loader, modality, change)


class ShuffledReader(Modality):
    """Reads for every id of a split the sample of another, drawn once."""

    def __init__(self, reader, ids: list[str], *seed: int):
        order = torch.randperm(len(ids), generator=generator(*seed)).tolist()
        super().__init__(reader.folder, reader.train)
        self.reader, self.other = reader, {ids[i]: ids[j] for i, j in enumerate(order)}

    def path(self, sample_id: str):
        return self.reader.path(self.other[sample_id])

    def read(self, sample_id: str):
        return self.reader.read(self.other[sample_id])

    def on_device(self, batch):
        return self.reader.on_device(batch)


def permuted(loader: Batches, modalities: set[str], seed: int = 0) -> Batches:
    """Those modalities tell nothing: their inputs are shuffled among all samples of the split."""
    samples, readers = loader.dataset.samples, dict(loader.dataset.readers)
    for position, modality in enumerate(sorted(readers)):
        if modality in modalities:
            ids = [sample.id for sample in samples]
            readers[modality] = ShuffledReader(readers[modality], ids, seed, position)
    return Batches(SampleDataset(samples, readers, seed), loader.batch_sampler, loader.device)


def contributions(value: Callable[[frozenset[str]], float], players: list[str]) -> dict[str, float]:
    """Shapley values: {player: its mean gain over all orders in which the players can come}.

        phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (value(S + i) - value(S))

    They sum to value(all) - value(none). value: of a set of players; called once for each of 2^n.
    """
    value, gains = cache(value), dict.fromkeys(players, 0.0)
    for order in itertools.permutations(players):
        for count, player in enumerate(order):
            gains[player] += value(frozenset(order[: count + 1])) - value(frozenset(order[:count]))
    return {player: gain / math.factorial(len(players)) for player, gain in gains.items()}


def calibration_error(logits: Tensor, target: Tensor) -> float:
    """Expected calibration error in [0, 1]: sum over bins of n_b / N |accuracy_b - confidence_b|.

    Confidence: the largest probability, in BINS equal bins. Source: Guo et al. 2017, Eq. 5.
    logits: (N, K); target: (N,).
    """
    predicted = answers(logits)
    if (predicted < 0).any():
        raise BadInput("calibration: a model whose logits are not finite has no confidence")
    confidence, hit = logits.double().softmax(1).amax(1), (predicted == target).double()
    bin_of = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gap = torch.zeros(BINS, dtype=torch.double).index_add(0, bin_of, hit - confidence)
    return (gap.abs().sum() / len(target)).item()


def probe_missing(model, loader, run: Namespace, options: Namespace) -> dict[str, float]:
    """Of a late fusion also with the feature zero, as if that encoder had not been asked."""
    branch = main_branch(run.modalities)
    scores = {"missing/none": accuracy(model, loader, branch)}
    for modality in run.modalities:
        scores[f"missing/{modality}"] = accuracy(model, without(loader, modality), branch)
    if isinstance(model.fusion, LateFusion):
        _, features, target = predict(model, loader)
        for modality in run.modalities:
            there = {m: x if m != modality else torch.zeros_like(x) for m, x in features.items()}
            with torch.no_grad():
                logits = model.fusion({m: x.to(run.device) for m, x in there.items()}).cpu()
            hits = answers(logits) == target
            scores[f"missing_feature/{modality}"] = hits.double().mean().item()
    return scores


def probe_noise(model, loader, run: Namespace, options: Namespace) -> dict[str, float]:
    branch = main_branch(run.modalities)
    return {
        f"noise/{m}/{level:g}": accuracy(model, with_noise(loader, m, level), branch)
        for m in loader.dataset.readers
        for level in options.noise_levels
    }


def probe_shapley(model, loader, run: Namespace, options: Namespace) -> dict[str, float]:
    branch = main_branch(run.modalities)

    def value(present: frozenset[str]) -> float:
        return accuracy(model, permuted(loader, loader.dataset.readers.keys() - present), branch)

    gains = contributions(value, list(loader.dataset.readers))
    return {f"shapley/{modality}": gain for modality, gain in gains.items()}


def probe_calibration(model, loader, run: Namespace, options: Namespace) -> dict[str, float]:
    """Of the branches that were trained."""
    logits, _, target = predict(model, loader)
    method = registry.load_class("methods", run.method, "--method")
    if not method.trains_unimodal_heads:
        logits = {b: x for b, x in logits.items() if b == main_branch(run.modalities)}
    return {f"calibration/{b}": calibration_error(x, target) for b, x in logits.items()}


class Probe(NamedTuple):
    title: str
    scores: Callable  # (model, loader, run's options, options) -> {name: share in [0, 1]}


PROBES = {  # besides linear, which needs the training split
    "missing": Probe("accuracy of {branch} with one input, or one feature, zero", probe_missing),
    "noise": Probe("accuracy of {branch} by noise / deviation of an input", probe_noise),
    "shapley": Probe("what a modality contributes to the accuracy of {branch}", probe_shapley),
    "calibration": Probe("expected calibration error of every trained branch", probe_calibration),
}


def read_probes(text: str) -> list[str]:
    """The names in a list such as linear,noise. Raises BadInput for one that does not exist."""
    names = [name for name in text.split(",") if name != "none"]
    if unknown := [name for name in names if name not in ("linear", *PROBES)]:
        raise BadInput(f"--probe {unknown[0]}: choose from none, linear, {', '.join(PROBES)}")
    return names
