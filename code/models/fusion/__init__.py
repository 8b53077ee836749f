"""How modalities become one prediction: one file per fusion, chosen by `--fusion <file name>`.

A file `models/fusion/X.py` exports a `class Fusion` that derives from LateFusion, which sees the
features only, or from InnerFusion, which runs the encoders and lets them meet on the way. With a
single modality there is no fusion.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from utils.registry import Contract


class AnyFusion(Contract, nn.Module):
    """What methods may ask of a fusion."""

    has_unimodal_logits = False  # whether it has `unimodal` and `modulate`
    has_gates = False  # whether it has `gate_parameters` and the following three
    last_gates: list[dict[str, Tensor]]  # of the last forward pass, per stage {modality: (B, C)}
    is_held: dict[str, Tensor]  # {modality: 0-d bool}: its gates are constant while it trains
    held_gates: list[dict[str, Tensor]]  # those constants, per stage {modality: (C,)}

    def unimodal(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each modality adds to the logits, {modality: (B, K)}: their sum is the logits."""
        raise NotImplementedError

    def modulate(self, factors: dict[str, Tensor]) -> None:
        """Multiplies, in `.grad`, what came through each modality's part by its factor (0-d)."""
        raise NotImplementedError

    def gate_parameters(self) -> dict[str, list[nn.Parameter]]:
        """{modality: the weights that its gates are computed with}."""
        raise NotImplementedError


class LateFusion(AnyFusion):
    """Features {modality: (B, D)} -> logits (B, K).

    Built as Fusion({modality: D}, K, **flags). Raises ValueError for a flag out of range.
    """


class InnerFusion(AnyFusion):
    """encoders, {modality: input} -> logits (B, K), features {modality: (B, D)}.

    Built as Fusion({modality: encoder}, K, **flags). Runs the encoders itself, by their `begin`,
    `stages` and `pool`. Raises ValueError where encoders or flags do not suit it.
    """

    needs_stages_of = "maps"  # or "tokens": what the encoders' stages must give


def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """By a factor (0-d), in place; without those that have none."""
    if gradients := [p.grad for p in parameters if p.grad is not None]:
        torch._foreach_mul_(gradients, factor.to(gradients[0].dtype))


def only_other(flag: str, modality: str, modalities: Iterable[str]) -> str:
    """The modality that another conditions. Raises ValueError unless there are just these two."""
    others = [m for m in modalities if m != modality]
    if len(others) != 1 or modality not in modalities:
        raise ValueError(
            f"--{flag} {modality}: needs two modalities, this one and another; this run has "
            f"{', '.join(modalities)}"
        )
    return others[0]
