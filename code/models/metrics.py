"""Accuracy and macro F1 of every branch of a model."""

import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from utils import distributed
from utils.errors import BadInput


@torch.no_grad()
def predict(model, loader) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Logits {branch: (N, K)}, features {modality: (N, D)} and targets (N,) on the CPU.

    Of all processes together, each sample once; the order is the split's in one process only. The
    model is in evaluation mode afterwards.
    """
    model.eval()
    batches = []
    for inputs, target in loader:
        batches.append(tree_map(Tensor.cpu, (*model(inputs), target)))
    result = tree_map(lambda *parts: torch.cat(parts), *distributed.gather(batches))
    for branch, logits in result[0].items():
        missing = int((answers(logits) < 0).sum())
        if missing and distributed.is_main():
            samples = f"{missing} of {len(logits)} samples"
            print(f"WARNING: {branch} gives no finite logits for {samples}: they count as wrong")
    return result


def answers(logits: Tensor) -> Tensor:
    """The class (N,) of the largest logit of (N, K); -1, no class, where that is not finite.

    nan counts as the largest; a class that cannot be may have -inf.
    """
    largest, predicted = logits.max(1)
    return torch.where(largest.isfinite(), predicted, -1)


def score(logits: dict[str, Tensor], target: Tensor) -> dict[str, float]:
    """{"accuracy/<branch>", "macro_f1/<branch>"} in [0, 1]; F1 over the classes in `target`. No
    answer is a wrong one; without a sample there are no scores."""
    if not len(target):
        return {}
    scores, classes = {}, target.unique().numpy()
    for branch, values in logits.items():
        predicted = answers(values)
        scores[f"accuracy/{branch}"] = (predicted == target).double().mean().item()
        scores[f"macro_f1/{branch}"] = float(
            f1_score(target, predicted, labels=classes, average="macro", zero_division=0)
        )
    return scores


def branch_losses(logits: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
    """{branch: cross-entropy, mean over the batch}."""
    return {branch: cross_entropy(x, target) for branch, x in logits.items()}


def check_trained(losses: dict[str, Tensor]) -> None:
    """Raises BadInput where the first loss depends on nothing that is trained."""
    branch, loss = next(iter(losses.items()))
    if not loss.requires_grad:
        raise BadInput(f"the {branch} loss reaches no parameter that is trained: all are frozen")
