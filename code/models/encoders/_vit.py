"""What the vision transformers share: torchvision's trunk for inputs of any size, in stages."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import VisionTransformer

from models.encoders import Encoder


class ViT(Encoder):
    """Picture or spectrogram -> class token after the last layer, averaged over frames.

    The position embeddings, learnt on a square grid, are interpolated (bicubic) to the grid of
    patches that the input has.

    Source: Dosovitskiy et al. 2021.

    trunk: torchvision's model, its first convolution with the channels of the input.
    Input:  (B, C, H, W) or, for a clip of T frames, (B, T, C, H, W); H, W at least one patch.
    Output: (B, D), D = `feature_dim`.

    For fusions inside the encoders, the same in steps: `begin` gives tokens (N, 1 + patches, D),
    N = B or B T, the class token first; each of `stages` keeps their shape; `finish`.
    """

    def __init__(self, trunk: VisionTransformer):
        super().__init__()
        self.trunk = trunk
        self.trunk.heads = nn.Identity()
        self.feature_dim = self.token_width = trunk.hidden_dim

    @property
    def stages(self) -> list[nn.Module]:
        return list(self.trunk.encoder.layers)

    def positions(self, rows: int, columns: int) -> Tensor:
        """(1, 1 + rows columns, D), the first for the class token."""
        learnt = self.trunk.encoder.pos_embedding
        side = round((learnt.shape[1] - 1) ** 0.5)
        if (rows, columns) == (side, side):
            return learnt
        grid = learnt[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([learnt[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def begin(self, x: Tensor) -> Tensor:
        x = x if x.ndim == 4 else x.flatten(0, 1)
        patches = self.trunk.conv_proj(x)  # (N, D, rows, columns)
        positions = self.positions(*patches.shape[2:])
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.trunk.class_token.expand(len(x), -1, -1)
        return self.trunk.encoder.dropout(torch.cat([first, tokens], dim=1) + positions)

    def finish(self, x: Tensor, batch: int) -> Tensor:
        first = self.trunk.encoder.ln(x)[:, 0]
        return first.reshape(batch, -1, self.feature_dim).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        batch, x = len(x), self.begin(x)
        for stage in self.stages:
            x = stage(x)
        return self.finish(x, batch)
