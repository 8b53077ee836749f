"""What OGM and AGM share: one joint loss, and a factor on the gradient of each encoder.

The factors follow from how well each modality does by itself in the mini-batch, measured on the
unimodal parts of the fused logits (`Fusion.unimodal`). With a single modality nothing is modulated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods import Method, norms_of_sum


class Modulation(Method):
    """A method is `score(logits (B, K), target (B,)) -> (B,)` and `factors(scores (M,)) -> (M,)`.

    `scores` are means over the whole batch, of all parts and processes.
    """

    needs = {"unimodal_logits"}
    trains_unimodal_heads = False

    def __init__(self):
        self._totals = None  # (M + 1,) of the parts of a batch: scores, samples

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def factors(self, scores: Tensor) -> Tensor:
        raise NotImplementedError

    def modulate(self, gradients: list[Tensor], factor: Tensor) -> None:
        torch._foreach_mul_(gradients, factor)

    def backward(self, forward, model):
        next(iter(forward.losses.values())).backward()  # the multimodal loss comes first
        if len(model.encoders) > 1:
            self._measure(forward, model)

    def to_sum(self, model):
        return super().to_sum(model) + ([] if self._totals is None else [self._totals])

    def integrate(self, model):
        encoders = model.encoder_parameters()
        diagnostics = norms_of_sum(encoders, "multimodal")
        if self._totals is not None:
            scores, self._totals = self._totals[:-1] / self._totals[-1], None
            for (modality, parameters), factor in zip(encoders.items(), self.factors(scores)):
                gradients = [p.grad for p in parameters if p.grad is not None]
                self.modulate(gradients, factor.to(gradients[0].dtype))
                diagnostics[f"factor/{modality}"] = factor
        return diagnostics

    @torch.no_grad()
    def _measure(self, forward, model) -> None:
        like = next(model.fusion.parameters())
        features = {m: f.detach().to(like.dtype) for m, f in forward.features.items()}
        parts = model.fusion.unimodal(features)
        sums = [self.score(x, forward.target).double().sum() for x in parts.values()]
        sums.append(sums[0].new_tensor(len(forward.target)))
        of_part = torch.stack(sums)
        self._totals = of_part if self._totals is None else self._totals + of_part


def mean_of_others(values: Tensor) -> Tensor:
    """(M,): for each the mean of the other M - 1."""
    return (values.sum() - values) / (len(values) - 1)
