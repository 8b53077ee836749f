"""Attention over the frames of a clip, in place of their average."""

from torch import Tensor, nn

from models.encoders import Encoder


class AttentionOverFrames(Encoder):
    """feature = sum_t a_t f_t,  a = softmax_t( w tanh(V f_t + c) ),  f_t the encoder of frame t.

    V has `width` rows. w starts at zero, so training begins with the average.

    Source: Ilse et al. 2018 (ICML), Eq. 7 and 8, without gate.

    encoder: (N, C, H, W) -> (N, D). Its stages, where it has any, are this one's.
    """

    width = 128

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.feature_dim = encoder, encoder.feature_dim
        self.stage_widths, self.token_width = encoder.stage_widths, encoder.token_width
        self.score = nn.Sequential(
            nn.Linear(self.feature_dim, self.width),
            nn.Tanh(),
            nn.Linear(self.width, 1, bias=False),  # a constant would not change the softmax
        )
        nn.init.zeros_(self.score[-1].weight)

    @property
    def stages(self) -> list[nn.Module]:
        return list(self.encoder.stages)

    def begin(self, x: Tensor) -> Tensor:
        return self.encoder.begin(x)

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return self.weighted_mean(self.encoder.pool(x, len(x)), batch)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1) if x.ndim == 5 else x
        return self.weighted_mean(self.encoder(frames), len(x))

    def weighted_mean(self, features: Tensor, batch: int) -> Tensor:
        """Features of all frames (B T, D) -> of the clips (B, D)."""
        frames = features.unflatten(0, (batch, -1))
        return (self.score(frames).softmax(1) * frames).sum(1)
