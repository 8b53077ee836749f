"""What the vision transformers share: torchvision's trunk for inputs of any size, in stages."""

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
    Input: H and W are at least one patch. The stages keep the shape of the tokens, (N, 1 + patches,
    D), the class token first.
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
        patches = self.trunk.conv_proj(super().begin(x))  # (N, D, rows, columns)
        positions = self.positions(*patches.shape[2:])
        class_token = self.trunk.class_token.expand(len(patches), -1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return self.trunk.encoder.dropout(tokens + positions)

    def pool(self, x: Tensor, batch: int) -> Tensor:
        class_token = self.trunk.encoder.ln(x)[:, 0]
        return class_token.reshape(batch, -1, self.feature_dim).mean(1)
