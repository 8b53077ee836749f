"""What the ResNets share: torchvision's trunk for any number of channels and frames, in stages."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from models.encoders import Encoder
from models.encoders._pretrained import add_pretrained, channel_mean, load_weights


class ResNet(Encoder):
    """Picture or spectrogram -> feature vector, averaged over space and over frames.

    From scratch: convolutions Kaiming normal, fan-out; BatchNorm weight N(1, 0.02), bias 0.
    Pretrained: torchvision's ImageNet weights, the first convolution by `channel_mean`; raises
    BadInput where the file is not to be had.

    Source: He et al. 2016; initialisation of the published MMPareto code.
    """

    architecture: str  # torchvision's name
    add_options = staticmethod(add_pretrained)

    def __init__(self, shape: Sequence[int], pretrained: bool = False):
        super().__init__()
        self.trunk = get_model(self.architecture, weights=None)
        if pretrained:
            weights = get_model_weights(self.architecture).IMAGENET1K_V1
            self.trunk.load_state_dict(load_weights(weights))
        self.feature_dim = self.trunk.fc.in_features
        self.stage_widths = [self.feature_dim // k for k in (8, 4, 2, 1)]
        self.trunk.fc = nn.Identity()
        for_colours = self.trunk.conv1.weight.detach()
        self.trunk.conv1 = nn.Conv2d(shape[-3], 64, 7, stride=2, padding=3, bias=False)
        if pretrained:
            with torch.no_grad():
                self.trunk.conv1.weight.copy_(channel_mean(for_colours, shape[-3]))
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

    def begin(self, x: Tensor) -> Tensor:
        trunk, x = self.trunk, super().begin(x)
        return trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x))))

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return self.trunk.avgpool(x).view(batch, -1, self.feature_dim).mean(1)
