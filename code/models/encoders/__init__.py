"""One encoder per modality: one file per architecture, chosen by `--encoder <file name>`.

A file `models/encoders/X.py` exports a `class Encoder` that derives from the one below.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from utils.registry import Contract


class Encoder(Contract, nn.Module):
    """Item -> feature vector: (B, *shape) -> (B, D).

    Built as Encoder(shape, **flags): the shape of an item, as its reader gives it, and the flags
    that it declares. Raises ValueError for a flag out of range. The items there are:

        (D,)            a vector
        (T, D + 1)      a sequence of D numbers at each of at most T times; the last number is 1 at
                        its own times, and all are 0 after its end
        (C, H, W)       a picture, a spectrogram or an array
        (T, C, H, W)    a clip: its T frames

    A file either writes its own `forward`, or gives the steps `begin`, `stages` and `pool`, and
    says whether its stages give maps or tokens. Fusions inside the encoders need the steps, as they
    act after a stage. The frames of all clips go through the stages side by side, N = B T.
    """

    takes: Sequence[int] = (3, 4)  # dimensions of the items that it can take, see above
    feature_dim: int  # D
    stages: Sequence[nn.Module]
    stage_widths: Sequence[int] = ()  # of the maps (N, width, H, W) after each stage
    token_width: int = 0  # of the tokens (N, L, width), the class token first

    def begin(self, x: Tensor) -> Tensor:
        """An input -> what the first stage gets; by default the frames as they are."""
        return x if x.ndim == 4 else x.flatten(0, 1)

    def pool(self, x: Tensor, batch: int) -> Tensor:
        """What the last stage gave -> features (B, D), B = `batch`."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        batch, x = len(x), self.begin(x)
        for stage in self.stages:
            x = stage(x)
        return self.pool(x, batch)
