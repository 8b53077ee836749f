"""A perceptron over all numbers of an item, for vectors and small arrays.

Every number is normalised over the batch, then `--mlp_depth` times (2 by default) linear and ReLU;
averaged over frames. Source: PyTorch's initialisation. `feature_dim` --mlp_width.
"""

from math import prod

from torch import Tensor, nn

from models import encoders


class Encoder(encoders.Encoder):
    takes = (1, 2, 3, 4)

    def __init__(self, shape, mlp_width=256, mlp_depth=2):
        super().__init__()
        for flag, value in (("mlp_width", mlp_width), ("mlp_depth", mlp_depth)):
            if value < 1:
                raise ValueError(f"--{flag} {value}: must be at least 1")
        self.feature_dim = mlp_width
        numbers = prod(shape[-3:])
        layers: list[nn.Module] = [nn.BatchNorm1d(numbers)]
        for width in (numbers, *[mlp_width] * (mlp_depth - 1)):
            layers += [nn.Linear(width, mlp_width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def add_options(parser):
        parser.add_argument("--mlp_width", type=int, default=256, help="of layers and feature")
        parser.add_argument("--mlp_depth", type=int, default=2, help="layers")

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(2) if x.ndim == 5 else x.flatten(1)[:, None]
        return self.layers(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)
