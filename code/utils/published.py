"""The published loader: what tests and measurements hold ours against. Kept slow on purpose."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms


def published_item(root: Path, clip: str, image_size: int = 224) -> tuple[Tensor, Tensor]:
    """Filter bank (1, T, F) and two frames (2, 3, S, S) as the published loader reads them.

    For training: one random frame of each half of the clip, RandomResizedCrop, flip, ImageNet
    normalisation, all on one frame at a time.
    """
    picture = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    sound = torch.load(root / "audio" / f"{clip}.pt", weights_only=True).unsqueeze(0)
    folder = root / "visual" / clip
    half = len(list(folder.iterdir())) // 2
    frames = []
    for i in range(2):
        number = random.randint(i * half + 1, (i + 1) * half)
        image = Image.open(folder / f"frame_{number:05d}.jpg").convert("RGB")
        frames.append(picture(image).unsqueeze(0))
    return sound, torch.cat(frames)
