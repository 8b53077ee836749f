"""Late fusion by concatenation, as published.

    logits = W [feature_1; feature_2; ...] + b, with PyTorch's default initialisation

Source: published code, joint head Linear(1024, 6). Unimodal logits: Peng et al. 2022, Eq. 8.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.fusion import LateFusion, scale_gradients


class Fusion(LateFusion):
    has_unimodal_logits = True

    def __init__(self, feature_dims: dict[str, int], num_classes: int):
        super().__init__()
        self.widths = dict(feature_dims)
        self.linear = nn.Linear(sum(feature_dims.values()), num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.linear(torch.cat([features[m] for m in self.widths], dim=1))

    def unimodal(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{modality: (B, K)}: W_m feature_m + b / M."""
        share = self.linear.bias / len(self.widths)
        weights = self.linear.weight.split(list(self.widths.values()), dim=1)
        return {m: linear(features[m], w, share) for m, w in zip(self.widths, weights)}

    def modulate(self, factors: dict[str, Tensor]) -> None:
        """W_m by the factor of m, b, of which each has its share, by their mean."""
        if self.linear.weight.grad is not None:
            parts = self.linear.weight.grad.split(list(self.widths.values()), dim=1)
            for m, part in zip(self.widths, parts):
                part.mul_(factors[m])
        scale_gradients([self.linear.bias], torch.stack([factors[m] for m in self.widths]).mean())
