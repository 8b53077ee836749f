"""ViT-B/16, from scratch or pretrained: for pictures of some 224 pixels.

See _vit.py; patches of 16 pixels, 12 layers or the first --vit_b16_layers of them, `feature_dim`
768. Pretrained: torchvision's ImageNet weights, the first convolution by `channel_mean`.
"""

import torch
from torch import nn
from torchvision.models import ViT_B_16_Weights, vit_b_16

from models.encoders._pretrained import add_pretrained, channel_mean, load_weights
from models.encoders._vit import ViT


class Encoder(ViT):
    def __init__(self, shape, pretrained: bool = False, vit_b16_layers: int = 12):
        if not 1 <= vit_b16_layers <= 12:
            raise ValueError(f"--vit_b16_layers {vit_b16_layers}: must be 1 to 12")
        in_channels = shape[-3]
        trunk = vit_b_16(weights=None)
        if pretrained:
            trunk.load_state_dict(load_weights(ViT_B_16_Weights.IMAGENET1K_V1))
        if in_channels != 3:
            for_colours = trunk.conv_proj
            trunk.conv_proj = nn.Conv2d(in_channels, trunk.hidden_dim, 16, stride=16)
            with torch.no_grad():
                trunk.conv_proj.weight.copy_(channel_mean(for_colours.weight, in_channels))
                trunk.conv_proj.bias.copy_(for_colours.bias)
        trunk.encoder.layers = trunk.encoder.layers[:vit_b16_layers]
        super().__init__(trunk)

    @staticmethod
    def add_options(parser):
        add_pretrained(parser)
        layers = "the first N of its 12 layers"
        parser.add_argument("--vit_b16_layers", type=int, default=12, metavar="N", help=layers)
