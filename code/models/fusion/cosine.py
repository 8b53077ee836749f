"""MMCosine: late fusion by the angles between features and class weights, not their lengths.

    logits_k = s sum_m cos(W_m,k, feature_m), within [-s M, s M] for M modalities

No modality gains by long features or weights. Trained with `--method joint` this is MMCosine.

Source: Xu et al. 2023 (ICASSP), Eq. 4; s = 10 as in their published code, no bias. Default
initialisation of a linear layer per modality.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from models.fusion import LateFusion, scale_gradients

SCALE = 10.0


class Fusion(LateFusion):
    has_unimodal_logits = True

    def __init__(self, feature_dims: dict[str, int], num_classes: int):
        super().__init__()
        self.weights = nn.ModuleDict(
            {m: nn.Linear(d, num_classes, bias=False) for m, d in feature_dims.items()}
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(self.unimodal(features).values())).sum(0)

    def unimodal(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{modality: (B, K)}: s cos(W_m, feature_m)."""
        return {
            m: SCALE * normalize(features[m], dim=1) @ normalize(layer.weight, dim=1).T
            for m, layer in self.weights.items()
        }

    def modulate(self, factors: dict[str, Tensor]) -> None:
        for m, layer in self.weights.items():
            scale_gradients(layer.parameters(), factors[m])
