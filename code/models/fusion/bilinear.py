"""Late fusion by products of the features: low-rank bilinear pooling.

    logits = V prod_m tanh(U_m feature_m) + b, U_m to RANK channels

Multilinear in the projected features: a modality whose projection is zero silences all. No unimodal
logits.

Source: Kim et al. 2017 (ICLR), Eq. 8, with tanh on the projections as in their Sec. 3.2.
"""

import torch
from torch import Tensor, nn

from models.fusion import LateFusion

RANK = 512


class Fusion(LateFusion):
    def __init__(self, feature_dims: dict[str, int], num_classes: int):
        super().__init__()
        self.project = nn.ModuleDict({m: nn.Linear(d, RANK) for m, d in feature_dims.items()})
        self.linear = nn.Linear(RANK, num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        projected = [layer(features[m]).tanh() for m, layer in self.project.items()]
        return self.linear(torch.stack(projected).prod(0))
