"""Late fusion in which every modality opens and closes the channels of the others.

    logits = V mean_m [ U_m feature_m * mean_{j != m} sigmoid(G_j feature_j) ] + b

U_m and G_m map to WIDTH channels. With one modality's gates at 1 and its values at 0 the logits
follow the other modality alone. No unimodal logits: what a modality adds depends on the others.

With --gated_by a, of two modalities a and m, the fusion "gated" of the imbalance literature:

    logits = V [ U feature_m * sigmoid(G feature_a) ] + b

Source: Kiela et al. 2018 (AAAI), gated fusion of two modalities; --gated_by as in the published
code of OGM, GeWu-Lab/OGM-GE_CVPR2022, where a is audio. Departs: without --gated_by both
directions, for any number.
"""

import torch
from torch import Tensor, nn

from models.fusion import LateFusion, only_other

WIDTH = 512


class Fusion(LateFusion):
    def __init__(self, feature_dims: dict[str, int], num_classes: int, gated_by: str = ""):
        super().__init__()
        gated, gating = feature_dims, feature_dims
        if gated_by:
            gated, gating = [only_other("gated_by", gated_by, feature_dims)], [gated_by]
        self.values = nn.ModuleDict({m: nn.Linear(feature_dims[m], WIDTH) for m in gated})
        self.gates = nn.ModuleDict({m: nn.Linear(feature_dims[m], WIDTH) for m in gating})
        self.linear = nn.Linear(WIDTH, num_classes)

    @staticmethod
    def add_options(parser):
        which = "the one modality that opens and closes the other (default: each the other)"
        parser.add_argument("--gated_by", default="", metavar="MODALITY", help=which)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        gates = {m: layer(features[m]).sigmoid() for m, layer in self.gates.items()}
        gated = []
        for m, layer in self.values.items():
            of_others = torch.stack([gate for j, gate in gates.items() if j != m])
            gated.append(layer(features[m]) * of_others.mean(0))
        return self.linear(torch.stack(gated).mean(0))
