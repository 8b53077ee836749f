"""Late fusion by adding up the modalities' logits.

    logits = sum_m (W_m feature_m + b_m)

Concatenation with a bias per modality. The unimodal parts are exact: the logits are their sum.
"""

import torch
from torch import Tensor, nn

from models.fusion import LateFusion, scale_gradients


class Fusion(LateFusion):
    has_unimodal_logits = True

    def __init__(self, feature_dims: dict[str, int], num_classes: int):
        super().__init__()
        self.layers = nn.ModuleDict({m: nn.Linear(d, num_classes) for m, d in feature_dims.items()})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(self.unimodal(features).values())).sum(0)

    def unimodal(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{modality: (B, K)}: W_m feature_m + b_m."""
        return {m: layer(features[m]) for m, layer in self.layers.items()}

    def modulate(self, factors: dict[str, Tensor]) -> None:
        for m, layer in self.layers.items():
            scale_gradients(layer.parameters(), factors[m])
