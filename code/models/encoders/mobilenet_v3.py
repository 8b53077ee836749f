"""MobileNetV3 small: a light encoder, from scratch or pretrained.

torchvision's trunk and its initialisation, or its ImageNet weights with the first convolution by
`channel_mean`; averaged over space and over frames. 0.9 M parameters, `feature_dim` 576.

Source: Howard et al. 2019. Departs: ends at the pooled features, before the wide linear layer.
"""

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

from models import encoders
from models.encoders._pretrained import add_pretrained, channel_mean, load_weights


class Encoder(encoders.Encoder):
    add_options = staticmethod(add_pretrained)

    def __init__(self, shape, pretrained: bool = False):
        super().__init__()
        self.trunk = mobilenet_v3_small(weights=None)
        if pretrained:
            weights = load_weights(MobileNet_V3_Small_Weights.IMAGENET1K_V1)
            self.trunk.load_state_dict(weights)
        self.feature_dim = self.trunk.classifier[0].in_features
        self.trunk.classifier = nn.Identity()
        for_colours = self.trunk.features[0][0]
        first = nn.Conv2d(shape[-3], for_colours.out_channels, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(first.weight, mode="fan_out")
        if pretrained:
            with torch.no_grad():
                first.weight.copy_(channel_mean(for_colours.weight, shape[-3]))
        self.trunk.features[0][0] = first

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.begin(x)).view(len(x), -1, self.feature_dim).mean(1)
