"""A small convolutional network for pictures of some 28 pixels: 0.4 M parameters by default.

Four blocks of convolution, normalisation, ReLU and pooling by 2, of `--cnn_width` channels, twice,
four and eight times as many; averaged over space and over frames. PyTorch's initialisation.
`feature_dim` 8 `--cnn_width`.
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
    def __init__(self, shape, cnn_width=32):
        super().__init__()
        if cnn_width < 1:
            raise ValueError(f"--cnn_width {cnn_width}: must be at least 1")
        self.stage_widths = [cnn_width * k for k in (1, 2, 4, 8)]
        widths = [shape[-3], *self.stage_widths]
        self.stages = nn.ModuleList(block(a, b) for a, b in zip(widths, widths[1:]))
        self.feature_dim = widths[-1]

    @staticmethod
    def add_options(parser):
        parser.add_argument("--cnn_width", type=int, default=32, help="channels of the first block")

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return x.mean((2, 3)).view(batch, -1, self.feature_dim).mean(1)
