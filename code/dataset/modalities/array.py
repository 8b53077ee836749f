"""Numbers saved as `<id>.npy`: vectors, arrays, pictures, sequences."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset import modalities
from dataset._limits import check_cost, naming
from dataset._values import real
from utils.errors import BadInput

Shape = tuple[int, ...]


def opened(path: Path) -> np.memmap:
    """An array whose numbers are still in its file. Raises BadInput where it is none."""
    with naming(path):
        # mapped, it must be as long as its header says; else a damaged one could ask for TB
        array = np.lib.format.open_memmap(path, mode="r")
        check_cost(numbers=array.size)
    if array.dtype.kind not in "biufc":
        raise BadInput(f"{path}: {array.dtype}, expected numbers")
    return array


def differing(shapes: Mapping[Path, Shape]) -> tuple[set[int], str]:
    """(the axes in which shapes differ, a file of a rare shape with it and the usual one)."""
    counts = Counter(shapes.values())
    usual = max(counts, key=counts.get)
    axes = {i for i in range(max(map(len, counts))) if len({s[i : i + 1] for s in counts}) > 1}
    rare = min(shapes, key=lambda path: (shapes[path] == usual, counts[shapes[path]]))
    return axes, f"{rare}: of shape {shapes[rare]}, others of {usual}"


class Modality(modalities.Modality):
    """Reads numbers as they are, float32, neither normalised nor augmented; all of one shape: a
    vector (D,) as it is, an array (H, W) as (1, H, W), (C, H, W) as it is. Pictures (H, W, C) need
    `--array_channels last`.

    With `--sequences` arrays (T, ...), or with `--time_axis last` (..., T), are sequences: items
    (T_max, D + 1), D numbers at each time, then 1; all 0 after the end. T_max is the longest of the
    folder. So are files (T,) of several lengths; those of one length are vectors still.

    Files that would need pickle are refused.
    """

    suffixes = (".npy",)
    of_one_shape = True

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--sequences",
            action="store_true",
            help="arrays (T, D) are sequences, whose lengths T may differ",
        )
        if not parser.declares("--time_axis"):  # encoders of sequences have it, too
            parser.add_argument(
                "--time_axis",
                choices=("first", "last"),
                default="first",
                help="of arrays that are sequences: their first axis or their last",
            )
        parser.add_argument(
            "--array_channels",
            choices=("first", "last"),
            help="of arrays of three axes: (C, H, W) or (H, W, C)",
        )

    def __init__(
        self, folder: Path, train: bool, sequences=False, time_axis="first", array_channels=None
    ):
        super().__init__(folder, train)
        self.sequences, self.array_channels = sequences, array_channels
        self.time_axis = -1 if time_axis == "last" else 0

    @cached_property
    def shape(self) -> Shape:
        if not self.sequences:
            return super().shape
        shapes = {path: opened(path).shape or (1,) for path in self._files_of_all().values()}
        longest = max(shapes, key=lambda path: shapes[path][self.time_axis])
        times, numbers = shapes[longest][self.time_axis], prod(shapes[longest])
        axes, difference = differing(shapes)
        if len(shapes[longest]) == 1 and not axes:
            return shapes[longest]
        if axes - {self.time_axis % len(shapes[longest])}:
            raise BadInput(
                f"{difference}; sequences may differ in the axis of their times alone, which is "
                "the first, or with --time_axis last the last"
            )
        with naming(longest):
            check_cost(numbers=numbers + times)
        return times, numbers // max(times, 1) + 1

    @property
    def packed_as(self) -> str:
        if self.sequences:
            return f"sequences, time axis {self.time_axis}, as {self.shape}"
        return f"array, channels {self.array_channels}" if self.array_channels else "array"

    def check_together(self, ids: list[str]) -> None:
        """Raises BadInput where they differ as sequences do, and are not said to be any."""
        shapes = {path: opened(path).shape for path in map(self.path, ids)}
        axes, difference = differing(shapes)
        last = max(map(len, shapes.values())) - 1
        if not self.sequences and len(axes) == 1 and axes <= {0, last}:
            flags = "--sequences" if axes == {0} else "--sequences --time_axis last"
            raise BadInput(
                f"{difference}; all need one, or {flags} if these are sequences of different length"
            )

    def pack(self, sample_id: str) -> Tensor:
        """An item, float32."""
        path = self.path(sample_id)
        array = opened(path)
        if not array.size or array.ndim < 1 or (array.ndim > 3 and not self.sequences):
            raise BadInput(f"{path}: {array.shape}, expected an array (D,), (H, W) or (C, H, W)")
        if array.ndim == 3 and not self.sequences:
            array = self._channels_first(path, array)
        numbers = array.astype(complex if array.dtype.kind == "c" else float)
        numbers = real(path, torch.from_numpy(numbers))
        if self.sequences and len(self.shape) == 2:
            return self._padded(path, numbers)
        return numbers[None] if numbers.ndim == 2 else numbers

    def _channels_first(self, path: Path, array: np.ndarray) -> np.ndarray:
        """(H, W, C) or (C, H, W) -> (C, H, W). Raises BadInput where it could be either."""
        height, width, channels = array.shape
        if not self.array_channels and channels in (1, 3, 4) and min(height, width) > 4:
            raise BadInput(
                f"{path}: of shape {array.shape}, a picture (H, W, C)? Save it as a picture, or "
                f"say --array_channels last to read it as {(channels, height, width)}, "
                f"--array_channels first for {height} channels"
            )
        return np.moveaxis(array, -1, 0) if self.array_channels == "last" else array

    def _padded(self, path: Path, numbers: Tensor) -> Tensor:
        """A sequence -> its item (T_max, D + 1)."""
        longest, width = self.shape
        numbers = numbers.movedim(self.time_axis, 0)
        numbers = numbers.reshape(len(numbers), -1)
        if len(numbers) > longest or numbers.shape[1] != width - 1:
            raise BadInput(
                f"{path}: {len(numbers)} times of {numbers.shape[1]} numbers, expected at most "
                f"{longest} times, as in the longest sequence of the data, of {width - 1} numbers"
            )
        item = torch.zeros(self.shape)
        item[: len(numbers), :-1], item[: len(numbers), -1] = numbers, 1
        return item
