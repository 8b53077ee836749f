"""What OGM and AGM share: one joint loss, and a factor on the gradient of each encoder.

The factors follow from how well each modality does by itself in the mini-batch, measured on the
unimodal parts of the fused logits (`Fusion.unimodal`). With a single modality nothing is modulated.
An encoder without a gradient (frozen) has its score all the same, which counts for the others.
"""

import torch
from torch import Tensor, nn

from methods import joint
from models.fusion import scale_gradients


class Modulation(joint.Method):
    """A method is `score(logits (B, K), target (B,)) -> (B,)` and `factors(scores (M,)) -> (M,)`.

    `scores` are means over the whole batch, of all parts and processes. Factors are 1 before epoch
    `start`, counted from 0, and after so many epochs; 0: never after.
    """

    needs = {"unimodal_logits"}

    def __init__(self, start: int = 0, epochs: int = 0):
        self._totals = None  # (M + 1,) of the parts of a batch: scores, samples
        self._start, self._end = start, start + epochs if epochs else float("inf")
        self._epoch = 0

    def start_epoch(self, epoch, model, loaders, seed=0):
        self._epoch = epoch

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def factors(self, scores: Tensor) -> Tensor:
        raise NotImplementedError

    def modulate(self, encoder: nn.Module, factor: Tensor) -> None:
        scale_gradients(encoder.parameters(), factor)

    def _is_modulated(self) -> bool:
        return self._start <= self._epoch < self._end

    def backward(self, forward, model):
        super().backward(forward, model)
        if len(model.encoders) > 1:
            self._add_scores(forward, model)

    def to_sum(self, model):
        return super().to_sum(model) + ([] if self._totals is None else [self._totals])

    def integrate(self, model):
        diagnostics = super().integrate(model)
        if self._totals is not None:
            scores, self._totals = self._totals[:-1] / self._totals[-1], None
            factors = self.factors(scores)
            if not self._is_modulated():
                factors = torch.ones_like(factors)
            for (modality, encoder), factor in zip(model.encoders.items(), factors):
                self.modulate(encoder, factor)
                diagnostics[f"factor/{modality}"] = factor
        return diagnostics

    @torch.no_grad()
    def _add_scores(self, forward, model) -> None:
        like = next(model.fusion.parameters())
        features = {m: f.detach().to(like.dtype) for m, f in forward.features.items()}
        logits = model.fusion.unimodal(features).values()
        totals = [self.score(x, forward.target).double().sum() for x in logits]
        totals.append(totals[0].new_tensor(len(forward.target)))
        self._totals = torch.stack(totals) + (0 if self._totals is None else self._totals)


def mean_of_others(values: Tensor) -> Tensor:
    """(M,): for each the mean of the other M - 1."""
    return (values.sum() - values) / (len(values) - 1)
