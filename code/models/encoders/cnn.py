"""A small convolutional network for pictures of some 28 pixels: 0.4 M parameters."""

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
    """Four blocks of convolution, normalisation, ReLU and pooling by 2; averaged over space and
    over frames. PyTorch's initialisation.

    shape: of an item, (C, H, W) or (T, C, H, W).
    Input:  (B, C, H, W) or, for a clip of T frames, (B, T, C, H, W).
    Output: (B, D), D = `feature_dim` = 256.

    In steps: `begin`, each of `stages`, `finish`, as models/encoders/_resnet.py.
    """

    stage_widths = (32, 64, 128, 256)

    def __init__(self, shape):
        super().__init__()
        widths = [shape[-3], *self.stage_widths]
        self.stages = nn.ModuleList(block(a, b) for a, b in zip(widths, widths[1:]))
        self.feature_dim = widths[-1]

    def begin(self, x: Tensor) -> Tensor:
        return x if x.ndim == 4 else x.flatten(0, 1)

    def finish(self, x: Tensor, batch: int) -> Tensor:
        return x.mean((2, 3)).view(batch, -1, self.feature_dim).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        batch, x = len(x), self.begin(x)
        for stage in self.stages:
            x = stage(x)
        return self.finish(x, batch)
