"""MobileNetV3 small: a light encoder, from scratch or pretrained."""

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

from models import encoders
from models.encoders._pretrained import add_pretrained, channel_mean, load_weights


class Encoder(encoders.Encoder):
    """Picture or spectrogram -> feature vector, averaged over space and over frames.

    torchvision's trunk and its initialisation, or its ImageNet weights with the first convolution
    by `channel_mean`. 0.9 M parameters.

    Source: Howard et al. 2019. Departs: ends at the pooled features, before the wide linear layer.

    shape: of an item, (C, H, W) or (T, C, H, W). pretrained: raises BadInput where the file is not
        to be had.
    Input:  (B, C, H, W) or, for a clip of T frames, (B, T, C, H, W).
    Output: (B, D), D = `feature_dim` = 576.
    """

    add_options = staticmethod(add_pretrained)

    def __init__(self, shape, pretrained: bool = False):
        super().__init__()
        self.trunk = mobilenet_v3_small(weights=None)
        if pretrained:
            weights = load_weights(MobileNet_V3_Small_Weights.IMAGENET1K_V1)
            self.trunk.load_state_dict(weights)
        self.feature_dim = self.trunk.classifier[0].in_features
        self.trunk.classifier = nn.Identity()
        first = self.trunk.features[0][0]
        of_colour = first.weight.detach()
        own = nn.Conv2d(shape[-3], first.out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(own.weight, mode="fan_out")
        if pretrained:
            with torch.no_grad():
                own.weight.copy_(channel_mean(of_colour, shape[-3]))
        self.trunk.features[0][0] = own

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self.trunk(x)
        batch, frames = x.shape[:2]
        return self.trunk(x.flatten(0, 1)).view(batch, frames, -1).mean(1)
