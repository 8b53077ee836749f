"""A gated recurrent network for sequences: one layer, averaged over the times of a sequence.

Source: Cho et al. 2014; PyTorch's GRU and initialisation. `feature_dim` --gru_width.
"""

from torch import Tensor, nn

from models.encoders._sequence import SequenceEncoder, mean_over_times


class Encoder(SequenceEncoder):
    def __init__(self, shape, time_axis="first", gru_width=128):
        super().__init__(shape, time_axis)
        if gru_width < 1:
            raise ValueError(f"--gru_width {gru_width}: must be at least 1")
        self.feature_dim = gru_width
        self.layer = nn.GRU(self.width, gru_width, batch_first=True)

    @staticmethod
    def add_options(parser):
        SequenceEncoder.add_options(parser)
        parser.add_argument("--gru_width", type=int, default=128, help="of its state and feature")

    def _features(self, values: Tensor, present: Tensor) -> Tensor:
        states, _ = self.layer(values)  # forward in time: the end of a sequence knows no padding
        return mean_over_times(states, present)
