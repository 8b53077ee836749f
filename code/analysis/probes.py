"""What a trained model knows and leans on: probes of its encoders and of its inputs."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dataset._loader import Batches
from models.metrics import predict
from utils.errors import BadInput
from utils.seed import generator

BINS = 15  # of the calibration error


def linear_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Tensor:
    """Test logits (N, K) of a linear classifier fitted to frozen features.

    Standardised features, L2-regularised logistic regression (C = 1): the same for every encoder,
    so that heads trained with little or no weight do not hide what an encoder knows.

    train, test: features (N, D) and targets (N,).
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 300 steps are the definition here
        probe.fit(train[0].numpy(), train[1].numpy())
    known = probe.predict_proba(test[0].numpy())
    logits = torch.full((len(known), int(train[1].max()) + 1), -torch.inf, dtype=torch.double)
    logits[:, torch.from_numpy(probe.classes_)] = torch.from_numpy(known).double().log()
    return logits


class Altered:
    """A loader whose inputs are changed on the way: `change(modality, (B, ...)) -> (B, ...)`."""

    def __init__(self, loader, change: Callable[[str, Tensor], Tensor]):
        self.loader, self.change = loader, change

    def __iter__(self) -> Iterator:
        for inputs, target in self.loader:
            yield inputs | {m: self.change(m, inputs[m]) for m in inputs}, target


def accuracy(model, loader, branch: str) -> float:
    """In [0, 1], of one branch."""
    logits, _, target = predict(model, loader)
    return (logits[branch].argmax(1) == target).double().mean().item()


def without(loader, modality: str) -> Altered:
    """That modality is not there: its input is zero."""
    return Altered(loader, lambda m, x: torch.zeros_like(x) if m == modality else x)


def with_noise(loader, modality: str, level: float, seed: int = 0) -> Altered:
    """Gaussian noise on one modality: `level` times the deviation of its own input in the batch."""
    own = generator(seed)

    def change(m: str, x: Tensor) -> Tensor:
        if m != modality:
            return x
        noise = torch.randn(x.shape, generator=own).to(x)
        return x + level * x.std() * noise

    return Altered(loader, change)


class Exchanged(torch.utils.data.Dataset):
    """A SampleDataset in which some modalities are those of other samples, at random."""

    def __init__(self, samples, modalities: set[str], seed: int):
        self.samples, self.readers, self.order = samples, samples.readers, {}
        for position, m in enumerate(sorted(samples.readers)):
            order = torch.randperm(len(samples), generator=generator(seed, position)).tolist()
            if m in modalities:
                self.order[m] = order

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: tuple[int, int]):
        epoch, index = where
        inputs, target = self.samples[where]
        others = {m: self.samples[epoch, order[index]][0][m] for m, order in self.order.items()}
        return inputs | others, target


def permuted(loader: Batches, modalities: set[str], seed: int = 0) -> Batches:
    """Those modalities tell nothing: their inputs are exchanged among all samples of the split."""
    data = Exchanged(loader.dataset, modalities, seed)
    return Batches(data, loader.batch_sampler, loader.device)


def contributions(value: Callable[[frozenset[str]], float], players: list[str]) -> dict[str, float]:
    """Shapley values: {player: its mean gain over all orders in which the players can come}.

        phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (value(S + i) - value(S))

    They sum to value(all) - value(none). value: of a set of players; called once for each of 2^n.
    """
    n = len(players)
    sets = [frozenset(s) for size in range(n + 1) for s in itertools.combinations(players, size)]
    worth = {s: value(s) for s in sets}
    return {
        player: sum(
            math.factorial(len(s))
            * math.factorial(n - len(s) - 1)
            / math.factorial(n)
            * (worth[s | {player}] - worth[s])
            for s in sets
            if player not in s
        )
        for player in players
    }


def shapley(model, loader, modalities: list[str], branch: str) -> dict[str, float]:
    """Each modality's contribution to the accuracy of `branch`, others permuted; see above."""
    return contributions(
        lambda known: accuracy(model, permuted(loader, set(modalities) - known), branch),
        modalities,
    )


def calibration_error(logits: Tensor, target: Tensor) -> float:
    """Expected calibration error in [0, 1]: sum over bins of n_b / N |accuracy_b - confidence_b|.

    Confidence: the largest probability, in BINS equal bins. Source: Guo et al. 2017, Eq. 5.
    logits: (N, K); target: (N,).
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    hit = (predicted == target).double()
    bin_of = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gap = torch.zeros(BINS, dtype=torch.double).index_add(0, bin_of, hit - confidence)
    return (gap.abs().sum() / len(target)).item()


def probe_missing(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Accuracy with every input, and with one modality's input zero."""
    del args
    found = {"missing/none": accuracy(model, loader, branch)}
    for m in modalities:
        found[f"missing/{m}"] = accuracy(model, without(loader, m), branch)
    return found


def probe_noise(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Accuracy with Gaussian noise on one modality, per level in deviations of its input."""
    return {
        f"noise/{m}/{level:g}": accuracy(model, with_noise(loader, m, level), branch)
        for m in modalities
        for level in args.noise_levels
    }


def probe_shapley(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Contribution of every modality to the accuracy, the others' inputs exchanged."""
    del args
    found = shapley(model, loader, modalities, branch)
    return {f"shapley/{m}": value for m, value in found.items()}


def probe_calibration(model, loader, modalities: list[str], branch: str, args) -> dict[str, float]:
    """Expected calibration error of every branch."""
    del modalities, branch, args
    logits, _, target = predict(model, loader)
    return {f"calibration/{b}": calibration_error(x, target) for b, x in logits.items()}


PROBES = {  # {what: share in [0, 1]}; besides linear, which needs the training split
    "missing": probe_missing,
    "noise": probe_noise,
    "shapley": probe_shapley,
    "calibration": probe_calibration,
}


def read_probes(text: str) -> list[str]:
    """The names in a list such as linear,noise. Raises BadInput for one that does not exist."""
    wanted = [name for name in text.split(",") if name != "none"]
    if unknown := [name for name in wanted if name not in ("linear", *PROBES)]:
        raise BadInput(f"--probe {unknown[0]}: choose from none, linear, {', '.join(PROBES)}")
    return wanted
