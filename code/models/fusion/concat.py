"""Late fusion by concatenation, as published.

    logits = W [feature_1; feature_2; ...] + b, with PyTorch's default initialisation

Source: published code, joint head Linear(1024, 6). Unimodal logits: Peng et al. 2022, Eq. 8.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.fusion import LateFusion


class Fusion(LateFusion):
    has_unimodal_logits = True

    def __init__(self, feature_dims: dict[str, int], num_classes: int):
        super().__init__()
        self.modalities = list(feature_dims)
        self.linear = nn.Linear(sum(feature_dims.values()), num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.linear(torch.cat([features[m] for m in self.modalities], dim=1))

    def unimodal(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{modality: (B, K)}: W_m feature_m + b / M."""
        share = self.linear.bias / len(self.modalities)
        widths = [features[m].shape[1] for m in self.modalities]
        weights = self.linear.weight.split(widths, dim=1)
        return {m: linear(features[m], w, share) for m, w in zip(self.modalities, weights)}
