"""What the ResNets share: torchvision's trunk for any number of channels and frames, in stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.encoders import Encoder
from models.encoders._pretrained import channel_mean, load_weights


class ResNet(Encoder):
    """Picture or spectrogram -> feature vector, averaged over space and over frames.

    From scratch: convolutions Kaiming normal, fan-out; BatchNorm weight N(1, 0.02), bias 0.
    Pretrained: torchvision's ImageNet weights, the first convolution by `channel_mean`.

    Source: He et al. 2016; initialisation of the published MMPareto code.

    build, weights: torchvision's function and its weights.
    shape: of an item, (C, H, W) or (T, C, H, W). pretrained: see above; raises BadInput where the
        file is not to be had.
    Input:  (B, C, H, W) or, for a clip of T frames, (B, T, C, H, W).
    Output: (B, D), D = `feature_dim`.

    For fusions inside the encoders, the same in steps: `begin`, each of `stages` (their outputs
    (N, width, H, W) with `stage_widths`, N = B or B T), `finish`.
    """

    def __init__(self, build: Callable, weights, shape: Sequence[int], pretrained: bool = False):
        super().__init__()
        in_channels = shape[-3]
        self.trunk = build(weights=None)
        if pretrained:
            self.trunk.load_state_dict(load_weights(weights))
        self.feature_dim = self.trunk.fc.in_features
        self.trunk.fc = nn.Identity()
        of_colour = self.trunk.conv1.weight.detach()
        self.trunk.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        if pretrained:
            with torch.no_grad():
                self.trunk.conv1.weight.copy_(channel_mean(of_colour, in_channels))
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    @property
    def stages(self) -> list[nn.Module]:
        return [self.trunk.layer1, self.trunk.layer2, self.trunk.layer3, self.trunk.layer4]

    @property
    def stage_widths(self) -> list[int]:
        return [
            self.feature_dim // 8,
            self.feature_dim // 4,
            self.feature_dim // 2,
            self.feature_dim,
        ]

    def begin(self, x: Tensor) -> Tensor:
        x = x if x.ndim == 4 else x.flatten(0, 1)
        trunk = self.trunk
        return trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))

    def finish(self, x: Tensor, batch: int) -> Tensor:
        return self.trunk.avgpool(x).view(batch, -1, self.feature_dim).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return self.trunk(x)
        batch, frames = x.shape[:2]
        return self.trunk(x.flatten(0, 1)).view(batch, frames, -1).mean(1)
