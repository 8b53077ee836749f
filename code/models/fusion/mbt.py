"""MBT: transformers that exchange what they found through a few bottleneck tokens.

    in the last --mbt_layers:  [x_m | z_m] <- layer_m([x_m | z]),   z <- mean_m z_m
    logits = W [feature_1; feature_2; ...] + b,   feature_m = class token of m

Every modality attends to its own tokens x_m and to the bottleneck z. An encoder's parameters before
its last layer are thereby reached by every loss, those of the last layer by its own and the
multimodal one; the first z is reached by all ("shared"). The encoders need tokens of one width and
as many layers. --mbt_tokens: of the bottleneck, >= 1; --mbt_layers: with the bottleneck, the last
ones; None = a third of all.

Source: Nagrani et al. 2021 (NeurIPS), Eq. 8 and 9. Departs: a linear layer over all class tokens,
where they average the logits of the modalities; every frame brings a class token of its own, and
their mean is the feature.
"""

import torch
from torch import Tensor, nn

from models.fusion import InnerFusion
from utils.errors import check_at_least


class Fusion(InnerFusion):
    needs_stages_of = "tokens"

    def __init__(self, encoders, num_classes: int, mbt_tokens=4, mbt_layers=None):
        super().__init__()
        widths = {e.token_width for e in encoders.values()}
        depths = {len(e.stages) for e in encoders.values()}
        if len(widths) > 1 or len(depths) > 1:
            raise ValueError(
                f"--fusion mbt: needs encoders of one width and depth, got {sorted(widths)} and "
                f"{sorted(depths)}"
            )
        depth = depths.pop()
        layers = max(1, depth // 3) if mbt_layers is None else mbt_layers
        if not 1 <= layers <= depth:
            raise ValueError(f"--mbt_layers {layers}: must be 1 to {depth}, as many as there are")
        self.first = depth - layers
        check_at_least(1, mbt_tokens=mbt_tokens)
        self.bottleneck = nn.Parameter(torch.empty(1, mbt_tokens, widths.pop()).normal_(std=0.02))
        self.linear = nn.Linear(sum(e.feature_dim for e in encoders.values()), num_classes)

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--mbt_tokens", type=int, default=4, metavar="N", help="tokens of the bottleneck")
        which = "the last N layers have the bottleneck (default: a third of them)"
        add("--mbt_layers", type=int, metavar="N", help=which)

    def forward(self, encoders, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = len(next(iter(inputs.values())))
        x = {m: encoder.begin(inputs[m]) for m, encoder in encoders.items()}
        per_frame = {m: tokens.shape[1:] for m, tokens in x.items()}
        # all frames of a clip are one sequence
        x = {m: tokens.reshape(batch, -1, tokens.shape[2]) for m, tokens in x.items()}
        z = self.bottleneck.expand(batch, -1, -1)
        for number, layers in enumerate(zip(*(e.stages for e in encoders.values()))):
            if number < self.first:
                x = {m: layer(x[m]) for m, layer in zip(encoders, layers)}
                continue
            z_of_all = []
            for m, layer in zip(encoders, layers):
                output = layer(torch.cat([x[m], z.to(x[m].dtype)], dim=1))
                x[m], z_m = output.split([x[m].shape[1], z.shape[1]], dim=1)
                z_of_all.append(z_m)
            z = torch.stack(z_of_all).mean(0)
        features = {
            m: encoder.pool(x[m].reshape(-1, *per_frame[m]), batch)
            for m, encoder in encoders.items()
        }
        return self.linear(torch.cat(list(features.values()), dim=1)), features
