"""Which numbers can be data: finite, real, and not so large that they must be a mistake."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import BadInput

# Above every 32-bit integer; fill values such as 1e20 and 1e30, and what is read at a wrong byte
# order or type, lie beyond it. Its square and sums of that are finite in float32.
LARGEST = 1e10


def check_values(values: Tensor, path: Callable[[], Path | str]) -> None:
    """Raises BadInput naming the file, which is asked for then, for nan, inf or beyond LARGEST."""
    if not values.is_floating_point() or not values.numel():
        return
    largest = values.abs().max().item()  # nan, if there is one
    if not largest <= LARGEST:
        raise BadInput(
            f"{path()}: holds the value {largest:g}; values must be finite and within {LARGEST:g}"
        )


def real(path: Path, values: Tensor) -> Tensor:
    """The values as float32. Raises BadInput where that would change more than their precision."""
    if values.is_complex():
        raise BadInput(f"{path}: complex numbers; save their magnitude, or two real channels")
    if values.layout != torch.strided or values.is_quantized:
        raise BadInput(f"{path}: a sparse or quantized tensor; save it as an ordinary one")
    check_values(values.double(), lambda: path)  # so that neither integers nor float64 overflow
    return values.float()
