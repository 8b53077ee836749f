"""One encoder per modality: one file per architecture, chosen by `--encoder <file name>`.

A file `models/encoders/X.py` exports a `class Encoder` that derives from the one below.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from utils.registry import Contract


class Encoder(Contract, nn.Module):
    """Item -> feature vector: (B, C, H, W), or (B, T, C, H, W) for a clip of T frames -> (B, D).

    Built as Encoder(shape, **flags): the shape of an item, (C, H, W) or (T, C, H, W), and the flags
    that it declares. Raises ValueError for a flag out of range.

    For fusions inside the encoders it can be run in steps as well: `begin`, each of `stages`,
    `finish`. Then it says what its stages give, maps or tokens.
    """

    feature_dim: int  # D
    stages: Sequence[nn.Module]
    stage_widths: Sequence[int] = ()  # of the maps (N, width, H, W) after each stage, N = B T
    token_width: int = 0  # of the tokens (N, L, width), the class token first

    def begin(self, x: Tensor) -> Tensor:
        """An input -> what the first stage gets."""
        raise NotImplementedError

    def finish(self, x: Tensor, batch: int) -> Tensor:
        """What the last stage gave -> features (B, D), B = `batch`."""
        raise NotImplementedError
