"""A vision transformer for pictures of some 28 pixels: 6 layers of width 192, 2.9 M parameters.

See _vit.py; `feature_dim` 192, 3 heads. Two or three convolutions of stride 2 make patches of
--vit_tiny_patch pixels a side, 4 or 8; 8 has a quarter of the tokens and takes about a quarter of
the time.

Source: the width and heads of Touvron et al. 2021 (DeiT-Ti), half its depth; the stem of Xiao et
al. 2021, with which small sets train from scratch.
"""

from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

from models.encoders._vit import ViT

WIDTH = 192
CONVOLUTIONS = {4: 2, 8: 3}  # of stride 2, per side of a patch


class Encoder(ViT):
    def __init__(self, shape, vit_tiny_patch: int = 4):
        if vit_tiny_patch not in CONVOLUTIONS:
            raise ValueError(f"--vit_tiny_patch {vit_tiny_patch}: choose 4 or 8")
        convolutions = CONVOLUTIONS[vit_tiny_patch]
        stem = [ConvStemConfig(WIDTH >> k, 3, 2) for k in reversed(range(convolutions))]
        trunk = VisionTransformer(
            image_size=-(-28 // vit_tiny_patch) * vit_tiny_patch,  # 7 x 7 or 4 x 4 patches
            patch_size=vit_tiny_patch,
            num_layers=6,
            num_heads=3,
            hidden_dim=WIDTH,
            mlp_dim=4 * WIDTH,
            conv_stem_configs=stem,
        )
        first = nn.Conv2d(shape[-3], stem[0].out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
        trunk.conv_proj[0][0] = first
        super().__init__(trunk)

    @staticmethod
    def add_options(parser):
        add, sides = parser.add_argument, tuple(CONVOLUTIONS)
        add("--vit_tiny_patch", type=int, default=4, choices=sides, help="side of a patch, pixels")
