"""ViT-B/16, from scratch or pretrained: for pictures of some 224 pixels.

See _vit.py; patches of 16 pixels, 12 layers, `feature_dim` 768. Pretrained: torchvision's ImageNet
weights, the first convolution by `channel_mean`.
"""

import torch
from torch import nn
from torchvision.models import ViT_B_16_Weights, vit_b_16

from models.encoders._pretrained import add_pretrained, channel_mean, load_weights
from models.encoders._vit import ViT


class Encoder(ViT):
    add_options = staticmethod(add_pretrained)

    def __init__(self, shape, pretrained: bool = False):
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
        super().__init__(trunk)
