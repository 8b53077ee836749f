"""One grey picture, saved as `<id>.png`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from utils.errors import BadInput


class Modality:
    """Reads `<folder>/<id>.png` as (1, S, S) in [-1, 1], S = `--image_size`. No augmentation."""

    channels = 1
    mode, kind = "L", "grey picture"
    packed = None  # with the cache: sample id -> what `pack` gives

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--image_size",
            type=int,
            default=28,
            metavar="PIXELS",
            help="height and width of a picture",
        )

    def __init__(self, folder: Path, train: bool, options):
        del train
        self.folder = Path(folder)
        if options.image_size < 1:
            raise BadInput(f"--image_size {options.image_size}: must be at least 1")
        self.size = options.image_size
        self.packed_as = f"{self.kind} of {self.size} pixels"
        self.normalise = v2.Normalize(mean=[0.5], std=[0.5])

    def ids(self) -> set[str]:
        """The ids that have a file."""
        return {path.stem for path in self.folder.glob("*.png")}

    def pack(self, sample_id: str) -> Tensor:
        """(C, S, S) uint8: what the cache holds."""
        path = self.folder / f"{sample_id}.png"
        try:
            with Image.open(path) as image:
                resized = functional.resize(image.convert(self.mode), [self.size, self.size])
        except (UnidentifiedImageError, OSError) as error:
            raise BadInput(f"{path}: unreadable ({error}); prepare it again") from error
        return functional.pil_to_tensor(resized)

    def read(self, sample_id: str) -> Tensor:
        """(C, S, S) uint8."""
        return (self.packed or self.pack)(sample_id)

    def finish(self, batch: Tensor) -> Tensor:
        """(B, C, S, S) uint8 -> float32 in [-1, 1]."""
        return self.normalise(functional.to_dtype(batch, torch.float32, scale=True))
