"""Late fusion by feature-wise linear modulation (FiLM): the others scale and shift a modality.

    logits = V mean_m [ (1 + s_m) * U_m feature_m + t_m ] + b
    (s_m, t_m) = mean over the others j of F_j feature_j, WIDTH channels each

F starts at zero, so training begins with the mean of the modalities. No unimodal logits: what a
modality adds depends on the others.

With --film_by a, of two modalities a and m, the fusion "film" of the imbalance literature:

    logits = V [ s * feature_m + t ] + b,    (s, t) = F feature_a, default initialisation

Source: Perez et al. 2018 (AAAI), Eq. 1 and 2, scale 1 + s as they recommend; --film_by as in the
published code of OGM, GeWu-Lab/OGM-GE_CVPR2022, where a is audio. Departs: without --film_by both
directions instead of one modality conditioning the other.
"""

import torch
from torch import Tensor, nn

from models.fusion import LateFusion, only_other

WIDTH = 512


class Fusion(LateFusion):
    def __init__(self, feature_dims: dict[str, int], num_classes: int, film_by: str = ""):
        super().__init__()
        self.by = film_by
        if film_by:
            self.conditioned = only_other("film_by", film_by, feature_dims)
            width = feature_dims[self.conditioned]
            self.film = nn.Linear(feature_dims[film_by], 2 * width)
            self.linear = nn.Linear(width, num_classes)
            return
        self.values = nn.ModuleDict({m: nn.Linear(d, WIDTH) for m, d in feature_dims.items()})
        self.film = nn.ModuleDict({m: nn.Linear(d, 2 * WIDTH) for m, d in feature_dims.items()})
        for layer in self.film.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.linear = nn.Linear(WIDTH, num_classes)

    @staticmethod
    def add_options(parser):
        which = "the one modality that scales and shifts the other (default: each the other)"
        parser.add_argument("--film_by", default="", metavar="MODALITY", help=which)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        if self.by:
            scale, shift = self.film(features[self.by]).chunk(2, dim=-1)
            return self.linear(scale * features[self.conditioned] + shift)
        values = torch.stack([layer(features[m]) for m, layer in self.values.items()])
        film = torch.stack([layer(features[m]) for m, layer in self.film.items()])
        mean_of_others = (film.sum(0) - film) / (len(film) - 1)  # (M, B, 2 WIDTH)
        scale, shift = mean_of_others.chunk(2, dim=-1)
        return self.linear(((1 + scale) * values + shift).mean(0))
