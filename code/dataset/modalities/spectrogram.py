"""A time-frequency picture saved as `<id>.pt`: a filter bank or a spectrogram."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from utils.errors import BadInput
from utils.samples import file_of, ids_of


class Modality:
    """Reads `<folder>/<id>.pt`, a tensor (T, F), as (1, T, F) float32, as published."""

    channels = 1
    suffixes = (".pt",)
    packed = None  # with the cache: sample id -> what `pack` gives
    packed_as = "spectrogram"

    def __init__(self, folder: Path, train: bool, options):
        del train, options  # no augmentation of sound, as published
        self.folder = Path(folder)

    def ids(self) -> set[str]:
        """The ids that have a file."""
        return ids_of(self.folder, self.suffixes)

    def path(self, sample_id: str) -> Path:
        return file_of(self.folder, sample_id, self.suffixes)

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32: what the cache holds."""
        path = self.path(sample_id)
        try:
            picture = torch.load(path, weights_only=True)
        except Exception as error:  # a damaged pickle can fail in any way
            raise BadInput(f"{path}: unreadable ({error}); prepare it again") from error
        if not isinstance(picture, Tensor) or picture.ndim not in (2, 3):
            raise BadInput(f"{path}: expected one tensor (time, frequency)")
        return picture.float().view(1, *picture.shape[-2:])

    def read(self, sample_id: str) -> Tensor:
        """(1, T, F) float32."""
        return (self.packed or self.pack)(sample_id)
