"""Frames of a clip, saved as `<id>/frame_00001.jpg` and so on, or pictures of other names."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dataset import modalities
from dataset._files import entries_of
from dataset._limits import check_cost
from dataset._samples import natural
from dataset.modalities import image
from utils.errors import BadInput, check_at_least


def pick(available: int, count: int, train: bool) -> list[int]:
    """0-based positions of `count` frames among `available` >= 1, one from each equal segment.

    Segments have s = available // count frames; the remainder at the end is not used. Training
    takes a random frame of each segment, testing the (s // 2)-th, as the published code. Departs:
    with s = 1 testing takes that frame (the published index 0 names a file that does not exist),
    and a clip shorter than `count` repeats frames.
    """
    segment = available // count
    if segment == 0:
        return [i * available // count for i in range(count)]
    if train:
        return [i * segment + int(torch.randint(segment, ())) for i in range(count)]
    return [i * segment + max(segment // 2, 1) - 1 for i in range(count)]


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


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order of their names; none where there is no folder."""
    pictures = [p for p in entries_of(folder) if p.suffix.lower() in image.Modality.suffixes]
    return sorted(pictures, key=lambda path: natural(path.name))


class Modality(modalities.Modality):
    """Reads `--frames_per_clip` T frames as (T, 3, S, S), S = `--image_size`, ImageNet-normalised.

    Training draws the frames (`pick`), then for each a RandomResizedCrop and a horizontal flip,
    from torch's generator; testing resizes to S x S. Source: published code. Departs: with the
    cache the resize is torchvision's of uint8 tensors, without it PIL's, as published: a grey level
    apart. With `--augment device` whole frames travel with the same crops and flips, which are made
    on the device.
    """

    suffixes = ("",)  # a folder

    @staticmethod
    def add_options(parser):
        image.add_image_size(parser)
        add = parser.add_argument
        add("--frames_per_clip", type=int, default=2, metavar="T", help="frames taken of each clip")
        add(
            "--frame_pooling",
            choices=("average", "attention"),
            default="average",
            help="how the features of a clip's frames become one; average as published",
        )
        add(
            "--cache_pixels",
            type=int,
            default=0,
            metavar="PIXELS",
            help="shorter side of cached frames at most so; less disk, blurred small crops; "
            "0 = as prepared",
        )
        add(
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
        frame_pooling="average",  # of the model, see models/multimodal.py
        cache_pixels=0,
        augment="loader",
    ):
        super().__init__(folder, train)
        check_at_least(1, image_size=image_size, frames_per_clip=frames_per_clip)
        check_at_least(0, cache_pixels=cache_pixels)
        self.shape = (frames_per_clip, 3, image_size, image_size)
        self.cache_pixels = cache_pixels
        self.packed_as = f"upright frames, shorter side at most {cache_pixels or 'any'}"
        self.augments_on_device = augment == "device"
        if self.augments_on_device:
            self.needs_cache = "--augment device"
        self.crop = v2.RandomResizedCrop(image_size)
        steps = [self.crop, v2.RandomHorizontalFlip()] if train else [v2.Resize(self.shape[2:])]
        self.transform = v2.Compose([*steps, v2.PILToTensor()])
        self.normalise = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])

    def ids(self) -> set[str]:
        """The ids that have a folder with at least one frame."""
        return {folder.name for folder in entries_of(self.folder) if pictures_in(folder)}

    def _files(self, sample_id: str) -> list[Path]:
        """The frames of a clip in order, at least one."""
        folder = self.folder / sample_id
        if not (paths := pictures_in(folder)):
            raise BadInput(f"{folder}: no picture; prepare it again")
        return paths

    def pack(self, sample_id: str) -> Tensor:
        """All frames of a clip, (N, H, W, 3) uint8, the layout that is resized fastest."""
        frames = []
        for path in self._files(sample_id):
            frame = image.opened(path).convert("RGB")
            if 0 < self.cache_pixels < min(frame.size):
                frame = functional.resize(frame, [self.cache_pixels])
            frames.append(functional.pil_to_tensor(frame).permute(1, 2, 0))
            check_cost(bytes=sum(frame.nbytes for frame in frames))
        if len({frame.shape for frame in frames}) > 1:
            raise BadInput(f"{self.folder / sample_id}: frames of different sizes; prepare again")
        return torch.stack(frames)

    def read(self, sample_id: str) -> Tensor | tuple[Tensor, ...]:
        """(T, 3, S, S) uint8; for the device T whole frames (H, W, 3) and their boxes (T, 5)."""
        frames = self.packed(sample_id) if self.packed else self._files(sample_id)
        chosen = [frames[i] for i in pick(len(frames), self.shape[0], self.train)]
        if self.augments_on_device:
            boxes = [self._box(*frame.shape[:2]) for frame in chosen]
            return *chosen, torch.tensor(boxes, dtype=torch.int16)
        if self.packed:
            pictures = [frame.permute(2, 0, 1) for frame in chosen]
        else:
            pictures = [image.opened(path).convert("RGB") for path in chosen]
        return torch.stack([self.transform(picture) for picture in pictures])

    def _box(self, height: int, width: int) -> list[int]:
        """Top, left, height, width, mirrored: drawn as `transform` draws them."""
        if not self.train:
            return [0, 0, height, width, 0]
        of_this_size = torch.empty(3, height, width, device="meta")  # without pixels
        box = self.crop.make_params([of_this_size])
        mirrored = int(torch.rand(1).item() < 0.5)
        return [box["top"], box["left"], box["height"], box["width"], mirrored]

    def on_device(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor:
        """A batch of what `read` gives -> (B, T, 3, S, S) float32, on the batch's device."""
        if self.augments_on_device:
            *frames, boxes = batch
            whole = torch.stack(frames, dim=1).permute(0, 1, 4, 2, 3)  # (B, T, 3, H, W)
            return self.normalise(crop_resize_flip(whole, boxes, self.shape[-1]) / 255)
        return self.normalise(functional.to_dtype(batch, torch.float32, scale=True))
