"""Accuracy and macro F1 of every branch of a model."""

from __future__ import annotations

import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.utils.data import DataLoader


@torch.no_grad()
def predict(
    model, loader: DataLoader, device
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Logits {branch: (N, K)}, features {modality: (N, D)} and targets (N,) on the CPU.

    The model is in evaluation mode afterwards.
    """
    model.eval()
    logits: dict[str, list[Tensor]] = {}
    features: dict[str, list[Tensor]] = {}
    targets = []
    for inputs, target in loader:
        inputs = {m: x.to(device, non_blocking=True) for m, x in inputs.items()}
        for store, found in zip((logits, features), model(inputs)):
            for name, value in found.items():
                store.setdefault(name, []).append(value.cpu())
        targets.append(target)
    joined = [
        {name: torch.cat(parts) for name, parts in store.items()} for store in (logits, features)
    ]
    return joined[0], joined[1], torch.cat(targets)


def score(logits: dict[str, Tensor], target: Tensor) -> dict[str, float]:
    """{"accuracy/<branch>", "macro_f1/<branch>"} in [0, 1]; F1 over the classes in `target`."""
    scores = {}
    present = target.unique().numpy()
    for branch, values in logits.items():
        predicted = values.argmax(1)
        scores[f"accuracy/{branch}"] = (predicted == target).double().mean().item()
        scores[f"macro_f1/{branch}"] = float(
            f1_score(target, predicted, labels=present, average="macro", zero_division=0)
        )
    return scores
