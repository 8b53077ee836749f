"""MBT: transformers that exchange what they found through a few bottleneck tokens.

    from layer --mbt_layer on:  [x_m | z_m] <- layer_m([x_m | z]),   z <- mean_m z_m
    logits = W [feature_1; feature_2; ...] + b,   feature_m = class token of m

Every modality attends to its own tokens x_m and to the bottleneck z. An encoder's parameters before
its last layer are thereby reached by every loss, those of the last layer by its own and the
multimodal one; the first z is reached by all ("shared"). The encoders need tokens of one width and
as many layers. --mbt_tokens: of the bottleneck, >= 1; --mbt_layer: counted from 0, None = the last
third.

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

    def __init__(self, encoders, num_classes: int, mbt_tokens=4, mbt_layer=None):
        super().__init__()
        widths = {e.token_width for e in encoders.values()}
        depths = {len(e.stages) for e in encoders.values()}
        if len(widths) > 1 or len(depths) > 1:
            raise ValueError(
                f"--fusion mbt: needs encoders of one width and depth, got {sorted(widths)} and "
                f"{sorted(depths)}"
            )
        depth = depths.pop()
        self.first = depth - max(1, depth // 3) if mbt_layer is None else mbt_layer
        if not 0 <= self.first < depth:
            raise ValueError(f"--mbt_layer {mbt_layer}: the encoders have layers 0 to {depth - 1}")
        check_at_least(1, mbt_tokens=mbt_tokens)
        self.bottleneck = nn.Parameter(torch.empty(1, mbt_tokens, widths.pop()).normal_(std=0.02))
        self.linear = nn.Linear(sum(e.feature_dim for e in encoders.values()), num_classes)

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--mbt_tokens", type=int, default=4, metavar="N", help="tokens of the bottleneck")
        where = "first layer with the bottleneck, from 0 (default: the last third has it)"
        add("--mbt_layer", type=int, metavar="L", help=where)

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
