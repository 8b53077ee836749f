"""Numbers saved as `<id>.npy`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset import modalities
from utils.errors import BadInput


class Modality(modalities.Modality):
    """Reads an array (H, W) as (1, H, W) and (C, H, W) as it is, float32; all of one shape.

    Nothing is normalised or augmented. Files that would need pickle are refused.
    """

    suffixes = (".npy",)
    packed_as = "array"

    def __init__(self, folder: Path, train: bool):
        super().__init__(folder, train)
        first = min(self.ids(), default=None)
        self.shape = () if first is None else tuple(self.pack(first).shape)

    def pack(self, sample_id: str) -> Tensor:
        """(C, H, W) float32."""
        path = self.path(sample_id)
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BadInput(f"{path}: unreadable ({error})") from error
        if not isinstance(found, np.ndarray) or found.ndim not in (2, 3) or not found.size:
            kind = found.shape if isinstance(found, np.ndarray) else type(found).__name__
            raise BadInput(f"{path}: {kind}, expected an array (H, W) or (C, H, W)")
        if found.dtype.kind not in "biuf":
            raise BadInput(f"{path}: {found.dtype}, expected numbers")
        array = torch.from_numpy(found.astype(np.float32))
        if not torch.isfinite(array).all():
            raise BadInput(f"{path}: holds numbers that are not finite")
        return array.view(-1, *array.shape[-2:])
