"""MBT: transformers that exchange what they found through a few bottleneck tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.fusion import InnerFusion


class Fusion(InnerFusion):
    """From layer `layer` on, every modality attends to its own tokens and to the bottleneck z:

        [x_m | z_m] <- layer_m([x_m | z]),   z <- mean_m z_m
        logits = W [feature_1; feature_2; ...] + b,   feature_m = class token of m

    An encoder's parameters before its last layer are thereby reached by every loss, those of the
    last layer by its own and the multimodal one; the first z is reached by all ("shared").

    Source: Nagrani et al. 2021 (NeurIPS), Eq. 8 and 9. Departs: a linear layer over all class
    tokens, where they average the logits of the modalities; every frame brings a class token of its
    own, and their mean is the feature.

    encoders: {modality: encoder with tokens of one width and as many layers}; num_classes: K.
    mbt_tokens: of the bottleneck, >= 1.
    mbt_layer: the first with it, counted from 0; None = the last third has it.
    Input: the encoders and {modality: what they get}; output: (B, K) and {modality: (B, D)}.
    """

    needs_stages_of = "tokens"

    def __init__(
        self, encoders, num_classes: int, mbt_tokens: int = 4, mbt_layer: int | None = None
    ):
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
        if mbt_tokens < 1:
            raise ValueError(f"--mbt_tokens {mbt_tokens}: must be at least 1")
        self.bottleneck = nn.Parameter(torch.empty(1, mbt_tokens, widths.pop()).normal_(std=0.02))
        self.linear = nn.Linear(sum(e.feature_dim for e in encoders.values()), num_classes)

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--mbt_tokens", type=int, default=4, metavar="N", help="tokens of the bottleneck"
        )
        parser.add_argument(
            "--mbt_layer",
            type=int,
            metavar="L",
            help="first layer with the bottleneck, from 0 (default: the last third has it)",
        )

    def forward(self, encoders, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = len(next(iter(inputs.values())))
        begun = {m: encoder.begin(inputs[m]) for m, encoder in encoders.items()}
        length = {m: x.shape[1] for m, x in begun.items()}
        # all frames of a clip are one sequence
        tokens = {m: x.reshape(batch, -1, x.shape[2]) for m, x in begun.items()}
        bottleneck = self.bottleneck.expand(batch, -1, -1)
        for number, layers in enumerate(zip(*(e.stages for e in encoders.values()))):
            if number < self.first:
                tokens = {m: layer(x) for (m, x), layer in zip(tokens.items(), layers)}
                continue
            said = []
            for (modality, x), layer in zip(list(tokens.items()), layers):
                both = layer(torch.cat([x, bottleneck.to(x.dtype)], dim=1))
                tokens[modality], own = both.split([x.shape[1], bottleneck.shape[1]], dim=1)
                said.append(own)
            bottleneck = torch.stack(said).mean(0)
        features = {
            m: e.finish(tokens[m].reshape(-1, length[m], tokens[m].shape[2]), batch)
            for m, e in encoders.items()
        }
        return self.linear(torch.cat(list(features.values()), dim=1)), features
