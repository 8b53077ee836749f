"""What encoders of sequences share: any item as numbers at times, and which times are its own."""

from collections.abc import Sequence

from torch import Tensor

from models import encoders


class SequenceEncoder(encoders.Encoder):
    """Runs the `_features` of an encoder on any item as a sequence; `width` is D.

    An array (C, H, W) is a sequence along H, of C W numbers, or with `--time_axis last` along W, of
    C H numbers. The features of a clip's frames are averaged.
    """

    takes = (2, 3, 4)

    def __init__(self, shape: Sequence[int], time_axis: str):
        super().__init__()
        self.time_is_last = time_axis == "last"
        if len(shape) == 2:
            self.width = shape[1] - 1
        else:
            channels, height, width = shape[-3:]
            self.width = channels * (height if self.time_is_last else width)

    @staticmethod
    def add_options(parser):
        if not parser.declares("--time_axis"):
            parser.add_argument(
                "--time_axis",
                choices=("first", "last"),
                default="first",
                help="of an array (H, W) that is a sequence: H or W",
            )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 5:
            return self.forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)
        if x.ndim == 3:
            return self._features(x[..., :-1], x[..., -1:])
        times = -1 if self.time_is_last else -2
        values = x.movedim(times, 1).flatten(2)
        return self._features(values, values.new_ones(*values.shape[:2], 1))

    def _features(self, values: Tensor, present: Tensor) -> Tensor:
        """values (B, T, D), present (B, T, 1): 1 at a sequence's own times, else 0 -> (B, width of
        the feature); what stands at other times must not matter."""
        raise NotImplementedError


def mean_over_times(x: Tensor, present: Tensor) -> Tensor:
    """(B, T, D) averaged over its own times -> (B, D)."""
    return (x * present).sum(1) / present.sum(1).clamp(min=1)
