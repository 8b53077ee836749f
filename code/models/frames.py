"""Attention over the frames of a clip, in place of their average."""

from __future__ import annotations

from torch import Tensor, nn

from models.encoders import Encoder


class AttentionOverFrames(Encoder):
    """feature = sum_t a_t f_t,  a = softmax_t( w tanh(V f_t + c) ),  f_t the encoder of frame t.

    V has `width` rows. w starts at zero, so training begins with the average.

    Source: Ilse et al. 2018 (ICML), Eq. 7 and 8, without gate.

    encoder: (N, C, H, W) -> (N, D). Its stages, where it has any, are this one's.
    Input: (B, T, C, H, W), or (B, C, H, W) as one frame; output: (B, D).
    """

    width = 128

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder, self.feature_dim = encoder, encoder.feature_dim
        self.score = nn.Sequential(
            nn.Linear(self.feature_dim, self.width),
            nn.Tanh(),
            nn.Linear(self.width, 1, bias=False),  # a constant would not change the softmax
        )
        nn.init.zeros_(self.score[-1].weight)
        self.stage_widths, self.token_width = encoder.stage_widths, encoder.token_width

    @property
    def stages(self) -> list[nn.Module]:
        return list(self.encoder.stages)

    def begin(self, x: Tensor) -> Tensor:
        return self.encoder.begin(x)

    def pooled(self, frames: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        return (self.score(frames).softmax(1) * frames).sum(1)

    def finish(self, x: Tensor, batch: int) -> Tensor:
        """Of the last stage's output, each frame by itself."""
        return self.pooled(self.encoder.finish(x, len(x)).unflatten(0, (batch, -1)))

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1) if x.ndim == 5 else x
        return self.pooled(self.encoder(frames).unflatten(0, (len(x), -1)))
