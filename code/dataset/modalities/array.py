"""Numbers saved as `<id>.npy`."""

import numpy as np
import torch
from torch import Tensor

from dataset import modalities
from dataset._limits import check_cost, naming
from dataset._values import real
from utils.errors import BadInput


class Modality(modalities.Modality):
    """Reads an array (H, W) as (1, H, W) and (C, H, W) as it is, float32; all of one shape.

    Nothing is normalised or augmented. Files that would need pickle are refused.
    """

    suffixes = (".npy",)
    packed_as = "array"
    of_one_shape = True

    def pack(self, sample_id: str) -> Tensor:
        """(C, H, W) float32."""
        path = self.path(sample_id)
        with naming(path):
            # mapped, it must be as long as its header says; else a damaged one could ask for TB
            array = np.lib.format.open_memmap(path, mode="r")
            check_cost(numbers=array.size)
        if array.ndim not in (2, 3) or not array.size:
            raise BadInput(f"{path}: {array.shape}, expected an array (H, W) or (C, H, W)")
        if array.dtype.kind not in "biufc":
            raise BadInput(f"{path}: {array.dtype}, expected numbers")
        numbers = array.astype(complex if array.dtype.kind == "c" else float)
        numbers = real(path, torch.from_numpy(numbers))
        return numbers.view(-1, *numbers.shape[-2:])
