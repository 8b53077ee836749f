"""One picture, saved as `<id>.png` or `.jpg` and the like."""

from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dataset import modalities
from dataset._files import entries_of
from dataset._limits import check_cost, naming
from utils.errors import BadInput, check_at_least

said: set[Path] = set()  # of black pictures, by this process
GREY, COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK", "YCbCr")  # PIL's modes of 8 bits


def add_image_size(parser) -> None:
    """--image_size; once, since a data set may have both pictures and frames."""
    if not parser.declares("--image_size"):
        text = "height and width of a picture or frame"
        parser.add_argument("--image_size", type=int, default=224, metavar="PIXELS", help=text)


def opened(path: Path) -> Image.Image:
    """A picture of 8 bits per channel, decoded, upright. Raises BadInput where it is none."""
    with naming(path), Image.open(path) as picture:
        check_cost(pixels=picture.width * picture.height)
        picture.load()
    if picture.mode not in GREY + COLOUR:
        raise BadInput(f"{path}: of mode {picture.mode}; save it with 8 bits per channel, 0 to 255")
    with suppress(Exception):  # damaged EXIF data turns nothing
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def has_no_colour(path: Path) -> bool:
    """Whether the header says so; True where there is none to read, which decoding will name."""
    try:
        with Image.open(path) as picture:
            return picture.mode not in COLOUR
    except Exception:
        return True


def opened_alone(path: Path) -> Image.Image:
    """A picture that is a whole sample.

    One with no value but 0 and 1 is said to be black. Raises BadInput where more than one in ten of
    its folder's are like it: somebody has saved values in [0, 1].
    """
    picture = opened(path)
    if is_nearly_black(picture) and path not in said:
        fault = f"{path}: its values are 0 and 1, of 255: black"
        beside = [p for p in entries_of(path.parent) if p.suffix.lower() == path.suffix.lower()]
        some = beside[:: -(-len(beside) // 50)]
        if sum(is_nearly_black(opened(p)) for p in {*some, path}) > len(some) / 10:
            raise BadInput(f"{fault}; save 0 to 255")
        said.add(path)
        print(fault, flush=True)
    return picture


def is_nearly_black(picture: Image.Image) -> bool:
    grey = picture.mode in GREY
    return max(np.ravel(picture.convert("L" if grey else "RGB").getextrema())) == 1


class Modality(modalities.Modality):
    """Reads `<folder>/<id>.png` as (C, S, S) in [-1, 1], S = `--image_size`. No augmentation.

    C is 1 where all pictures of the folder are grey, else 3.
    """

    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".webp")

    @staticmethod
    def add_options(parser):
        add_image_size(parser)

    def __init__(self, folder: Path, train: bool, image_size=224):
        super().__init__(folder, train)
        check_at_least(1, image_size=image_size)
        self.image_size = image_size
        self.normalise = v2.Normalize(mean=[0.5], std=[0.5])

    @cached_property
    def shape(self) -> tuple[int, ...]:
        is_grey = all(has_no_colour(path) for path in self._files_of_all().values())
        return (1 if is_grey else 3, self.image_size, self.image_size)

    @property
    def packed_as(self) -> str:
        return f"upright, {self.shape[0]} x {self.image_size} pixels"

    def pack(self, sample_id: str) -> Tensor:
        """(C, S, S) uint8."""
        picture = opened_alone(self.path(sample_id))
        is_grey = self.shape[0] == 1
        if is_grey and picture.mode not in GREY:
            raise BadInput(f"{self.path(sample_id)}: has colours, the others have none")
        picture = picture.convert("L" if is_grey else "RGB")
        return functional.pil_to_tensor(functional.resize(picture, self.shape[1:]))

    def on_device(self, batch: Tensor) -> Tensor:
        """(B, C, S, S) uint8 -> float32 in [-1, 1]."""
        return self.normalise(functional.to_dtype(batch, torch.float32, scale=True))
