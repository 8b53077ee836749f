"""The published procedure and loader: what tests and measurements hold ours against.

Written from the description of its behaviour, without any of methods/mmpareto.py: four backward
passes, gradients copied by parameter name, a search for the least-norm weights, decisions on the
host. Kept slow on purpose. It fails where the published code fails (PAPER facts: opposed
gradients, inf).
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms


def least_norm_pair(first: list[Tensor], second: list[Tensor]) -> tuple[float, float]:
    """Weights of two gradients, given as lists of tensors; products summed tensor by tensor."""
    v11 = sum(float((a * a).sum()) for a in first)
    v12 = sum(float((a * b).sum()) for a, b in zip(first, second))
    v22 = sum(float((b * b).sum()) for b in second)
    if v12 >= v11:
        return 0.999, 1 - 0.999
    if v12 >= v22:
        return 0.001, 1 - 0.001
    alpha = (v22 - v12) / (v11 + v22 - 2 * v12)
    return alpha, 1 - alpha


def published_backward(losses: dict[str, Tensor], model, gamma: float = 1.5) -> dict[str, float]:
    """Fills `.grad` as the published training loop does. Returns {modality: cosine}.

    losses: {"multimodal", modality, ...}; model.encoder_parameters() gives the encoders.
    """
    encoders = model.encoder_parameters()
    copies: dict[str, dict[str, list[Tensor]]] = {modality: {} for modality in encoders}
    for name, loss in losses.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        for modality, parameters in encoders.items():
            if name in ("multimodal", modality):
                copies[modality][name] = [p.grad.clone() for p in parameters]
    model.zero_grad()
    sum(losses.values()).backward()  # the fourth pass

    cosines = {}
    for modality, parameters in encoders.items():
        joint, own = copies[modality]["multimodal"], copies[modality][modality]
        flat = [torch.cat([g.flatten() for g in gradients]) for gradients in (joint, own)]
        cosines[modality] = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
        k_joint, k_own = (0.5, 0.5) if cosines[modality] > 0 else least_norm_pair(joint, own)
        for parameter, g_joint, g_own in zip(parameters, joint, own):
            mixed = 2 * k_joint * g_joint + 2 * k_own * g_own
            ratio = torch.norm(parameter.grad) / torch.norm(mixed)
            parameter.grad = (ratio * mixed if ratio > 1 else mixed) * gamma
    return cosines


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
