"""Convolutions along time for sequences: three blocks, averaged over the times of a sequence.

A block: convolution over 5 times, normalisation at each time (so padding has no part in it), ReLU,
the larger of two neighbours. PyTorch's initialisation. `feature_dim` 256.
"""

from torch import Tensor, nn

from models.encoders._sequence import SequenceEncoder, mean_over_times

WIDTHS = (64, 128, 256)


class Encoder(SequenceEncoder):
    def __init__(self, shape, time_axis="first"):
        super().__init__(shape, time_axis)
        self.feature_dim = WIDTHS[-1]
        widths = [self.width, *WIDTHS]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 5, padding=2) for a, b in zip(widths, widths[1:])
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in WIDTHS)
        self.halve = nn.MaxPool1d(2, ceil_mode=True)

    def _features(self, values: Tensor, present: Tensor) -> Tensor:
        x, present = values.transpose(1, 2), present.transpose(1, 2)  # (B, D, T)
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(convolution(x).transpose(1, 2)).transpose(1, 2).relu() * present
            x, present = self.halve(x), self.halve(present)
        return mean_over_times(x.transpose(1, 2), present.transpose(1, 2))
