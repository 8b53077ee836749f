"""Numbers saved as `<id>.npy`."""

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

    def pack(self, sample_id: str) -> Tensor:
        """(C, H, W) float32."""
        path = self.path(sample_id)
        try:
            with open(path, "rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{path}: unreadable ({error})") from error
        if array.ndim not in (2, 3) or not array.size:
            raise BadInput(f"{path}: {array.shape}, expected an array (H, W) or (C, H, W)")
        if array.dtype.kind not in "biuf":
            raise BadInput(f"{path}: {array.dtype}, expected numbers")
        numbers = torch.from_numpy(array.astype(np.float32))
        if not torch.isfinite(numbers).all():
            raise BadInput(f"{path}: holds numbers that are not finite")
        return numbers.view(-1, *numbers.shape[-2:])
