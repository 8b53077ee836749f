"""Convolutions along time for sequences: three blocks, averaged over the times of a sequence.

A block: convolution over 5 times, normalisation at each time (so padding has no part in it), ReLU,
the larger of two neighbours. The blocks have `--conv1d_width` channels, twice and four times as
many. PyTorch's initialisation. `feature_dim` 4 `--conv1d_width`.
"""

from torch import Tensor, nn

from models.encoders._sequence import SequenceEncoder, mean_over_times


class Encoder(SequenceEncoder):
    def __init__(self, shape, time_axis="first", conv1d_width=64):
        super().__init__(shape, time_axis)
        if conv1d_width < 1:
            raise ValueError(f"--conv1d_width {conv1d_width}: must be at least 1")
        widths = [self.width, *(conv1d_width * k for k in (1, 2, 4))]
        self.feature_dim = widths[-1]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 5, padding=2) for a, b in zip(widths, widths[1:])
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.halve = nn.MaxPool1d(2, ceil_mode=True)

    @staticmethod
    def add_options(parser):
        SequenceEncoder.add_options(parser)
        help_text = "channels of the first block"
        parser.add_argument("--conv1d_width", type=int, default=64, help=help_text)

    def _features(self, values: Tensor, present: Tensor) -> Tensor:
        x, present = values.transpose(1, 2), present.transpose(1, 2)  # (B, D, T)
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(convolution(x).transpose(1, 2)).transpose(1, 2).relu() * present
            x, present = self.halve(x), self.halve(present)
        return mean_over_times(x.transpose(1, 2), present.transpose(1, 2))
