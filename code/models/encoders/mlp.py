"""A perceptron with two hidden layers over all numbers of an item, for vectors and small arrays.

Every number is normalised over the batch, then linear, ReLU, linear, ReLU; averaged over frames.
Source: PyTorch's initialisation. `feature_dim` --mlp_width.
"""

from math import prod

from torch import Tensor, nn

from models import encoders


class Encoder(encoders.Encoder):
    takes = (1, 2, 3, 4)

    def __init__(self, shape, mlp_width=256):
        super().__init__()
        if mlp_width < 1:
            raise ValueError(f"--mlp_width {mlp_width}: must be at least 1")
        self.feature_dim = mlp_width
        numbers = prod(shape[-3:])
        self.layers = nn.Sequential(
            nn.BatchNorm1d(numbers),
            nn.Linear(numbers, mlp_width),
            nn.ReLU(inplace=True),
            nn.Linear(mlp_width, mlp_width),
            nn.ReLU(inplace=True),
        )

    @staticmethod
    def add_options(parser):
        parser.add_argument("--mlp_width", type=int, default=256, help="of layers and feature")

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(2) if x.ndim == 5 else x.flatten(1)[:, None]
        return self.layers(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)
