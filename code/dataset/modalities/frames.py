"""Frames of a clip, saved as `<id>/frame_00001.jpg` and so on, or pictures of other names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dataset import modalities
from dataset._samples import natural
from dataset.modalities import image
from utils.errors import BadInput

ANY_PIXEL = torch.zeros(1, 1, 1)


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


def resize_matrix(start: Tensor, length: Tensor, size: int, full: int) -> Tensor:
    """(N, size, full): row i weighs the pixels of a line of `full` that make output pixel i.

    Antialiased linear interpolation of the pixels start <= j < start + length, a triangle of
    half-width max(1, length / size) around each output pixel's centre, as PIL and torchvision.

    start, length: (N,) in pixels.
    """
    start, length = start.double()[:, None, None], length.double()[:, None, None]
    step = length / size
    centre = start + (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(full, device=start.device) + 0.5
    weight = (1 - (pixel - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weight = weight * ((pixel > start) & (pixel < start + length))
    return (weight / weight.sum(-1, keepdim=True)).float()


def crop_resize_flip(frames: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Every frame its own crop, resized to size x size, mirrored or not: two batched products.

    frames: (B, T, C, H, W) uint8; boxes: (B, T, 5) top, left, height, width, 1 = mirrored.
    Returns (B, T, C, size, size) float32 in [0, 255].
    """
    top, left, height, width, mirrored = boxes.flatten(0, 1).unbind(1)
    rows = resize_matrix(top, height, size, frames.shape[-2])
    columns = resize_matrix(left, width, size, frames.shape[-1])
    columns = torch.where(mirrored[:, None, None] > 0, columns.flip(1), columns)
    pictures = rows[:, None] @ frames.flatten(0, 1).float() @ columns[:, None].mT
    return pictures.unflatten(0, frames.shape[:2])


def pictures_in(folder: Path) -> Iterator[Path]:
    """The files of a folder that are pictures; none where there is no folder."""
    if folder.is_dir():
        yield from (p for p in folder.iterdir() if p.suffix.lower() in image.Modality.suffixes)


class FrameFiles:
    """The frames of a clip in order, each decoded when it is asked for."""

    def __init__(self, folder: Path):
        self.paths = sorted(pictures_in(folder), key=lambda path: natural(path.name))
        if not self.paths:
            raise BadInput(f"{folder}: no picture; prepare it again")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Image.Image:
        return image.opened(self.paths[position]).convert("RGB")


class Modality(modalities.Modality):
    """Reads `--frames_per_clip` T frames as (T, 3, S, S), S = `--image_size`, ImageNet-normalised.

    Training: RandomResizedCrop and horizontal flip, drawn per frame; testing: resized to S x S.
    Source: published code. All randomness comes from torch's generator. Departs: with the cache the
    resize is torchvision's of uint8 tensors, without it PIL's, as published: a grey level apart.
    With `--augment device` frames travel whole and the same crops are made on the device.
    """

    suffixes = ("",)  # a folder

    @staticmethod
    def add_options(parser):
        image.add_image_size(parser)
        parser.add_argument(
            "--frames_per_clip", type=int, default=2, metavar="T", help="frames taken of each clip"
        )
        parser.add_argument(
            "--frame_pooling",
            choices=("average", "attention"),
            default="average",
            help="how the features of a clip's frames become one; average as published",
        )
        parser.add_argument(
            "--cache_pixels",
            type=int,
            default=0,
            metavar="PIXELS",
            help="shorter side of cached frames at most so; less disk, blurred small crops; "
            "0 = as prepared",
        )
        parser.add_argument(
            "--augment",
            choices=("loader", "device"),
            default="loader",
            help="where crop, resize and flip happen; device needs the cache and frames of one "
            "size, and spares the loader nearly all its work",
        )

    def __init__(
        self,
        folder: Path,
        train: bool,
        image_size=224,
        frames_per_clip=2,
        frame_pooling="average",  # the model's affair: see models/multimodal.py
        cache_pixels=0,
        augment="loader",
    ):
        super().__init__(folder, train)
        for flag, value in (("image_size", image_size), ("frames_per_clip", frames_per_clip)):
            if value < 1:
                raise BadInput(f"--{flag} {value}: must be at least 1")
        if cache_pixels < 0:
            raise BadInput(f"--cache_pixels {cache_pixels}: must be at least 0")
        self.augments_on_device = augment == "device"
        if self.augments_on_device:
            self.needs_cache = "--augment device"
        self.size, self.cache_pixels, self.frames_per_clip = (
            image_size,
            cache_pixels,
            frames_per_clip,
        )
        self.shape = (frames_per_clip, 3, image_size, image_size)
        self.packed_as = f"frames, shorter side at most {self.cache_pixels or 'any'}"
        self.crop = v2.RandomResizedCrop(self.size)
        self.transform = v2.Compose(
            [self.crop, v2.RandomHorizontalFlip(), v2.ToImage()]
            if train
            else [v2.Resize((self.size, self.size)), v2.ToImage()]
        )
        self.normalise = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])

    def ids(self) -> set[str]:
        """The ids that have a folder with at least one frame."""
        if not self.folder.is_dir():
            return set()
        return {f.name for f in self.folder.iterdir() if any(pictures_in(f))}

    def pack(self, sample_id: str) -> Tensor:
        """All frames of a clip, (N, H, W, 3) uint8, the layout that is resized fastest."""
        frames = []
        for frame in FrameFiles(self.folder / sample_id):
            if 0 < self.cache_pixels < min(frame.size):
                frame = functional.resize(frame, [self.cache_pixels])
            frames.append(functional.pil_to_tensor(frame).permute(1, 2, 0))
        if len({frame.shape for frame in frames}) > 1:
            raise BadInput(f"{self.folder / sample_id}: frames of different sizes; prepare again")
        return torch.stack(frames)

    def read(self, sample_id: str) -> Tensor | tuple[Tensor, ...]:
        """(T, 3, S, S) uint8; for the device T whole frames (H, W, 3) and their boxes (T, 5)."""
        frames = self.packed(sample_id) if self.packed else FrameFiles(self.folder / sample_id)
        chosen = [frames[i] for i in pick(len(frames), self.frames_per_clip, self.train)]
        if self.augments_on_device:
            boxes = [self._box(*frame.shape[:2]) for frame in chosen]
            return *chosen, torch.tensor(boxes, dtype=torch.int16)
        if self.packed:
            chosen = [frame.permute(2, 0, 1) for frame in chosen]
        return torch.stack([self.transform(frame).as_subclass(Tensor) for frame in chosen])

    def _box(self, height: int, width: int) -> list[int]:
        """Top, left, height, width, mirrored: drawn as `transform` draws them."""
        if not self.train:
            return [0, 0, height, width, 0]
        drawn = self.crop.make_params([ANY_PIXEL.expand(3, height, width)])  # its size counts
        flip = int(torch.rand(1).item() < 0.5)
        return [drawn["top"], drawn["left"], drawn["height"], drawn["width"], flip]

    def on_device(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor:
        """A batch of what `read` gives -> (B, T, 3, S, S) float32, on the batch's device."""
        if self.augments_on_device:
            *frames, boxes = batch
            whole = torch.stack(frames, dim=1).permute(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
            pictures = crop_resize_flip(whole, boxes, self.size)
            return self.normalise(pictures / 255)
        return self.normalise(functional.to_dtype(batch, torch.float32, scale=True))
