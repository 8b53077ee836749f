"""Four convolutions and an average over space and frames: the paper's network for CG-MNIST,
100,000 parameters. `feature_dim` 512.

Sizes and initialisation (convolutions Kaiming normal, fan-out; linear layer Xavier normal) are
those of the published code of PMR (Fan et al. 2023), which the paper names as its source.
"""

from torch import Tensor, nn

from models import encoders


class Encoder(encoders.Encoder):
    stage_widths = (32, 32, 64, 64)
    feature_dim = 512

    def __init__(self, shape):
        super().__init__()
        self.norm = nn.BatchNorm2d(shape[-3])
        self.stages = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(shape[-3], 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
                ),
                nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()),
                nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
            ]
        )
        self.project = nn.Linear(64, self.feature_dim)
        for stage in self.stages:
            nn.init.kaiming_normal_(stage[0].weight, mode="fan_out", nonlinearity="relu")
        nn.init.xavier_normal_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def begin(self, x: Tensor) -> Tensor:
        return self.norm(super().begin(x))

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return self.project(x.mean((2, 3)).view(batch, -1, 64).mean(1))
