"""Numbers saved as `<id>.npy`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.modalities import spectrogram
from utils.errors import BadInput


class Modality(spectrogram.Modality):
    """Reads an array (H, W) as (1, H, W) and (C, H, W) as it is, float32; all of one shape.

    Nothing is normalised or augmented. Files that would need pickle are refused.
    """

    suffixes = (".npy",)
    packed_as = "array"

    def __init__(self, folder: Path, train: bool, options):
        super().__init__(folder, train, options)
        first = min(self.ids(), default=None)
        self.channels = 1 if first is None else len(self.pack(first))

    def pack(self, sample_id: str) -> Tensor:
        """(C, H, W) float32: what the cache holds."""
        path = self.path(sample_id)
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{path}: unreadable ({error})") from error
        if not isinstance(found, np.ndarray) or found.ndim not in (2, 3) or not found.size:
            shape = getattr(found, "shape", type(found).__name__)
            raise BadInput(f"{path}: {shape}, expected an array (H, W) or (C, H, W)")
        if found.dtype.kind not in "biuf":
            raise BadInput(f"{path}: {found.dtype}, expected numbers")
        array = torch.from_numpy(found.astype(np.float32))
        if not torch.isfinite(array).all():
            raise BadInput(f"{path}: holds numbers that are not finite")
        return array.view(-1, *array.shape[-2:])
