"""A time-frequency picture saved as `<id>.pt`: a filter bank or a spectrogram."""

import zipfile

import torch
from torch import Tensor

from dataset import modalities
from dataset._values import real
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
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip():  # torch does not look at the checksums
                        raise ValueError("its content is not that of its checksum")
            picture = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle can fail in any way
            raise BadInput(f"{path}: unreadable ({error}); prepare it again") from error
        if not isinstance(picture, Tensor):
            raise BadInput(f"{path}: expected one tensor (time, frequency)")
        channels = picture.shape[0] if picture.ndim == 3 else 1
        if picture.ndim not in (2, 3) or channels != 1 or not picture.numel():
            shape = tuple(picture.shape)
            raise BadInput(f"{path}: {shape}, expected one tensor (time, frequency)")
        return real(path, picture).reshape(1, *picture.shape[-2:])
