"""Late fusion in which every modality opens and closes the channels of the others.

    logits = V mean_m [ U_m feature_m * mean_{j != m} sigmoid(G_j feature_j) ] + b

U_m and G_m map to WIDTH channels. With one modality's gates at 1 and its values at 0 the logits
follow the other modality alone. No unimodal logits: what a modality adds depends on the others.

Source: Kiela et al. 2018 (AAAI), gated fusion of two modalities; here in both directions, for any
number, as the late fusion "gated" of the imbalance literature does for one direction.
"""

import torch
from torch import Tensor, nn

from models.fusion import LateFusion

WIDTH = 512


class Fusion(LateFusion):
    def __init__(self, feature_dims: dict[str, int], num_classes: int):
        super().__init__()
        self.values = nn.ModuleDict({m: nn.Linear(d, WIDTH) for m, d in feature_dims.items()})
        self.gates = nn.ModuleDict({m: nn.Linear(d, WIDTH) for m, d in feature_dims.items()})
        self.linear = nn.Linear(WIDTH, num_classes)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        values = torch.stack([layer(features[m]) for m, layer in self.values.items()])
        gates = torch.stack([layer(features[m]).sigmoid() for m, layer in self.gates.items()])
        mean_of_others = (gates.sum(0) - gates) / (len(gates) - 1)  # (M, B, WIDTH)
        return self.linear((values * mean_of_others).mean(0))
