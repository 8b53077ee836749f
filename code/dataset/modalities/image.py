"""One picture, saved as `<id>.png` or `.jpg` and the like."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dataset import modalities
from utils.errors import BadInput, check_at_least

MOST_PIXELS = 50_000_000  # a damaged header may promise any number
GREY, COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")  # PIL's modes of 8 bits


def add_image_size(parser) -> None:
    """--image_size; once, since a data set may have both pictures and frames."""
    if not parser.declares("--image_size"):
        text = "height and width of a picture or frame"
        parser.add_argument("--image_size", type=int, default=224, metavar="PIXELS", help=text)


def opened(path: Path) -> Image.Image:
    """A picture of 8 bits per channel, decoded, upright. Raises BadInput where it is none."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(
                    f"{picture.width} x {picture.height} pixels, at most {MOST_PIXELS}"
                )
            picture.load()
    except Exception as error:  # a damaged file can fail in any way
        raise BadInput(f"{path}: unreadable ({error}); prepare it again") from error
    if picture.mode not in GREY + COLOUR:
        raise BadInput(f"{path}: of mode {picture.mode}; save it with 8 bits per channel, 0 to 255")
    with suppress(Exception):  # damaged EXIF data turns nothing
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def opened_alone(path: Path) -> Image.Image:
    """A picture that is a whole sample: not black, as one of several frames may be."""
    picture = opened(path)
    grey = picture.mode in GREY
    if max(np.ravel(picture.convert("L" if grey else "RGB").getextrema())) == 1:
        raise BadInput(f"{path}: its values are 0 and 1, of 255: black; save 0 to 255")
    return picture


class Modality(modalities.Modality):
    """Reads `<folder>/<id>.png` as (C, S, S) in [-1, 1], S = `--image_size`. No augmentation.

    C is 1 where the first picture of the folder is grey, else 3.
    """

    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

    @staticmethod
    def add_options(parser):
        add_image_size(parser)

    def __init__(self, folder: Path, train: bool, image_size=224):
        super().__init__(folder, train)
        check_at_least(1, image_size=image_size)
        first = min(self.ids(), default=None)
        channels = 1 if first is None or opened(self.path(first)).mode in GREY else 3
        self.shape = (channels, image_size, image_size)
        self.packed_as = f"upright, {channels} x {image_size} pixels"
        self.normalise = v2.Normalize(mean=[0.5], std=[0.5])

    def pack(self, sample_id: str) -> Tensor:
        """(C, S, S) uint8."""
        picture = opened_alone(self.path(sample_id))
        is_grey = self.shape[0] == 1
        if is_grey and picture.mode not in GREY:
            raise BadInput(f"{self.folder}: {sample_id} has colours, the first picture has none")
        picture = picture.convert("L" if is_grey else "RGB")
        return functional.pil_to_tensor(functional.resize(picture, self.shape[1:]))

    def on_device(self, batch: Tensor) -> Tensor:
        """(B, C, S, S) uint8 -> float32 in [-1, 1]."""
        return self.normalise(functional.to_dtype(batch, torch.float32, scale=True))
