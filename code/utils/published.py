"""The published procedure, step by step: what tests and measurements hold our step against.

Written from the description of its behaviour, without any of methods/mmpareto.py: four backward
passes, gradients copied by parameter name, a search for the least-norm weights, decisions on the
host. Kept slow on purpose. It fails where the published code fails (PAPER facts: opposed
gradients, inf).
"""

from __future__ import annotations

import torch
from torch import Tensor


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
