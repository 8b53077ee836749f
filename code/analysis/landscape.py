"""Loss and accuracy along random directions from trained weights: how flat a minimum is."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.metrics import answers, predict
from utils.seed import generator

MEASURES = {"loss": "", "accuracy": " (%)"}  # with their units
SPLITS = {"train": "train_plain", "test": "test"}  # loaders without augmentation

Batches = Iterable[tuple[dict[str, Tensor], Tensor]]


def by_filter(model: nn.Module, seed: int) -> list[Tensor]:
    """A random direction for every parameter, each filter as long as the parameter's own; those of
    one dimension stay. Source: Li et al. 2018."""
    steps = random_steps(model, seed)
    for p, step in zip(model.parameters(), steps):
        if p.ndim > 1:
            length = p.flatten(1).norm(dim=1) / step.flatten(1).norm(dim=1).clamp(min=1e-12)
            step *= length.view(-1, *[1] * (p.ndim - 1))
    return steps


def as_long(model: nn.Module, seed: int) -> list[Tensor]:
    """A random direction as long as all weights together, the same for every weight; parameters of
    one dimension stay."""
    steps = random_steps(model, seed)
    weights = [p.detach() for p in model.parameters() if p.ndim > 1]
    length = nn.utils.get_total_norm(weights) / nn.utils.get_total_norm(steps)
    return [length * step for step in steps]


def random_steps(model: nn.Module, seed: int) -> list[Tensor]:
    """Zero for parameters of one dimension."""
    random = generator(seed)
    return [
        torch.randn(p.shape, generator=random).to(p) if p.ndim > 1 else torch.zeros_like(p)
        for p in model.parameters()
    ]


def first_batches(loader: Batches, samples: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    """The first samples of a split."""
    batches = []
    for inputs, target in loader:
        batches.append(({m: x[:samples] for m, x in inputs.items()}, target[:samples]))
        samples -= len(target)
        if samples <= 0:
            break
    return batches


@torch.no_grad()
def walk(
    model: nn.Module,
    splits: dict[str, Batches],
    branch: str,
    steps: list[Tensor],
    distances: list[float],
) -> dict[str, list[float]]:
    """{"train loss", "test accuracy" and so on: its value at every distance}, of a branch; accuracy
    in %. The model is as before afterwards."""
    start = [p.clone() for p in model.parameters()]
    curves: dict[str, list[float]] = {f"{s} {measure}": [] for s in splits for measure in MEASURES}
    for distance in distances:
        for p, origin, step in zip(model.parameters(), start, steps):
            p.copy_(origin + distance * step)
        for split, batches in splits.items():
            logits, _, target = predict(model, batches)
            curves[f"{split} loss"].append(cross_entropy(logits[branch], target).item())
            hits = (answers(logits[branch]) == target).double().mean().item()
            curves[f"{split} accuracy"].append(100 * hits)
    for p, origin in zip(model.parameters(), start):
        p.copy_(origin)
    return curves
