"""A time-frequency picture saved as `<id>.pt`: a filter bank or a spectrogram."""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from dataset import modalities
from dataset._limits import check_cost, naming
from dataset._values import real
from utils.errors import BadInput


def check_unpacked(path: Path) -> None:
    """Raises BadInput for more bytes than a file may hold, packed in an archive or not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_cost(bytes=sum(member.file_size for member in archive.infolist()))
    check_cost(bytes=path.stat().st_size)


def check_stored(path: Path, picture: Tensor) -> None:
    """Raises ValueError where a tensor is not the one stored, of which torch compares neither size
    nor checksum. A file in the format before PyTorch 1.6 has neither."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():
            raise ValueError("its content is not that of its checksum")
        stored = [archive.read(name) for name in archive.namelist() if "/data/" in name]
    read = torch.empty(0, dtype=torch.uint8).set_(picture.untyped_storage())
    if read.numpy().tobytes() not in stored:
        raise ValueError("its content is not what is stored")


class Modality(modalities.Modality):
    """Reads `<folder>/<id>.pt`, a tensor (T, F), as (1, T, F) float32, as published. No
    augmentation of sound, as published."""

    suffixes = (".pt",)
    packed_as = "spectrogram"
    of_one_shape = True

    def pack(self, sample_id: str) -> Tensor:
        """(1, T, F) float32."""
        path = self.path(sample_id)
        with naming(path):
            check_unpacked(path)
            picture = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(picture, Tensor):
                raise BadInput(f"{path}: expected one tensor (time, frequency)")
            picture = picture.detach()  # a parameter cannot travel between processes
            check_cost(numbers=picture.numel())
            if picture.layout == torch.strided:
                check_stored(path, picture)
        channels = picture.shape[0] if picture.ndim == 3 else 1
        if picture.ndim not in (2, 3) or channels != 1 or not picture.numel():
            shape = tuple(picture.shape)
            raise BadInput(f"{path}: {shape}, expected one tensor (time, frequency)")
        return real(path, picture).reshape(1, *picture.shape[-2:])
