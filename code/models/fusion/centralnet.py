"""CentralNet: a network of its own between the encoders, fed by each of their stages.

    after stage i:  c <- alpha_i c + sum_m alpha_i,m x_m,  c <- relu(norm(conv_i(c)))
    logits = W mean(c) + b

conv_i is 3 x 3 and widens to the next stage; the scalars alpha are learnt, all 1 / (M + 1) at
first. Maps of different size are averaged down to the smallest, frames to their mean. The encoders
do not see the central network: each is reached by the multimodal loss and its own, the central
network by the multimodal one alone. The encoders' stages need the same widths.

Source: Vielzeuf et al. 2018 (ECCV workshops), Eq. 1; the sum of all losses is their objective.
Departs: the averaging to one size, as their networks are alike. No exchange between encoders.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from models.fusion import InnerFusion


class Fusion(InnerFusion):
    def __init__(self, encoders, num_classes: int):
        super().__init__()
        widths_of_all = sorted({tuple(e.stage_widths) for e in encoders.values()})
        if len(widths_of_all) > 1:
            raise ValueError(
                f"--fusion centralnet: needs encoders with the same widths, got {widths_of_all}"
            )
        widths = widths_of_all[0]
        feeding = len(encoders) + 1  # what feeds a layer: the encoders' maps, the layer before
        self.alpha = nn.Parameter(torch.full((len(widths), feeding), 1 / feeding))
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
            )
            for a, b in zip(widths, [*widths[1:], widths[-1]])
        )
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, encoders, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = len(next(iter(inputs.values())))
        maps = {m: encoder.begin(inputs[m]) for m, encoder in encoders.items()}
        central = None
        for number, layer in enumerate(self.layers):
            maps = {m: e.stages[number](maps[m]) for m, e in encoders.items()}
            feeding = [x.unflatten(0, (batch, -1)).mean(1) for x in maps.values()]
            if central is not None:
                feeding.append(central)
            size = [min(x.shape[d] for x in feeding) for d in (2, 3)]
            weighted = zip(self.alpha[number], feeding)
            central = layer(sum(a * adaptive_avg_pool2d(x, size) for a, x in weighted))
        features = {m: e.pool(maps[m], batch) for m, e in encoders.items()}
        return self.linear(central.mean((2, 3))), features
