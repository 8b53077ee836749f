"""Frames of a clip, saved as `<id>/frame_00001.jpg` and so on."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from utils.errors import BadInput


def pick(available: int, wanted: int, train: bool) -> list[int]:
    """0-based positions of `wanted` frames among `available` >= 1, one from each equal segment.

    Segments have s = available // wanted frames; the remainder at the end is not used. Training
    takes a random frame of each segment, testing the (s // 2)-th, as the published code. Departs:
    with s = 1 testing takes that frame (the published index 0 names a file that does not exist),
    and a clip shorter than `wanted` repeats frames.
    """
    segment = available // wanted
    if segment == 0:
        return [i * available // wanted for i in range(wanted)]
    if train:
        return [i * segment + int(torch.randint(segment, ())) for i in range(wanted)]
    return [i * segment + max(segment // 2, 1) - 1 for i in range(wanted)]


class Modality:
    """Reads `--frames_per_clip` T frames as (T, 3, S, S), S = `--image_size`, ImageNet-normalised.

    Training: RandomResizedCrop and horizontal flip, drawn per frame; testing: resized to S x S.
    Source: published code. All randomness comes from torch's generator.
    """

    channels = 3

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--image_size",
            type=int,
            default=224,
            metavar="PIXELS",
            help="height and width of a frame",
        )
        parser.add_argument(
            "--frames_per_clip", type=int, default=2, metavar="T", help="frames taken of each clip"
        )

    def __init__(self, folder: Path, train: bool, options):
        self.folder, self.train, self.frames_per_clip = Path(folder), train, options.frames_per_clip
        for flag in ("image_size", "frames_per_clip"):
            if getattr(options, flag) < 1:
                raise BadInput(f"--{flag} {getattr(options, flag)}: must be at least 1")
        size = options.image_size
        shape = (
            [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
            if train
            else [v2.Resize((size, size))]
        )
        self.transform = v2.Compose(
            [
                *shape,
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
            ]
        )

    def ids(self) -> set[str]:
        """The ids that have a folder with at least one frame."""
        return {path.parent.name for path in self.folder.glob("*/frame_00001.jpg")}

    def read(self, sample_id: str) -> Tensor:
        paths = sorted((self.folder / sample_id).glob("frame_*.jpg"))
        if not paths:
            raise BadInput(f"{self.folder / sample_id}: no frame_*.jpg; prepare it again")
        return torch.stack(
            [self.read_frame(paths[i]) for i in pick(len(paths), self.frames_per_clip, self.train)]
        )

    def read_frame(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as image:
                return self.transform(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise BadInput(f"{path}: unreadable ({error}); prepare it again") from error
