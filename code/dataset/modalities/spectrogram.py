"""A time-frequency picture saved as `<id>.pt`: a filter bank or a spectrogram."""

import torch
from torch import Tensor

from dataset import modalities
from utils.errors import BadInput


class Modality(modalities.Modality):
    """Reads `<folder>/<id>.pt`, a tensor (T, F), as (1, T, F) float32, as published. No
    augmentation of sound, as published."""

    suffixes = (".pt",)
    packed_as = "spectrogram"

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32."""
        path = self.path(sample_id)
        try:
            picture = torch.load(path, weights_only=True)
        except Exception as error:  # a damaged pickle can fail in any way
            raise BadInput(f"{path}: unreadable ({error}); prepare it again") from error
        if not isinstance(picture, Tensor) or picture.ndim not in (2, 3):
            raise BadInput(f"{path}: expected one tensor (time, frequency)")
        return picture.float().view(1, *picture.shape[-2:])
