"""A small convolutional network for pictures of some 28 pixels: 0.4 M parameters.

Four blocks of convolution, normalisation, ReLU and pooling by 2; averaged over space and over
frames. PyTorch's initialisation. `feature_dim` 256.
"""

from torch import Tensor, nn

from models import encoders


def block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2, ceil_mode=True),
    )


class Encoder(encoders.Encoder):
    stage_widths = (32, 64, 128, 256)

    def __init__(self, shape):
        super().__init__()
        widths = [shape[-3], *self.stage_widths]
        self.stages = nn.ModuleList(block(a, b) for a, b in zip(widths, widths[1:]))
        self.feature_dim = widths[-1]

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return x.mean((2, 3)).view(batch, -1, self.feature_dim).mean(1)
