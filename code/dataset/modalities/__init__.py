"""How the files of a modality become tensors: one file per kind of file.

A file `dataset/modalities/X.py` exports a `class Modality` that derives from the one below.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from torch import Tensor

from dataset._values import check_values
from utils.registry import Contract


class Modality(Contract):
    """Reads `<folder>/<id><suffix>`.

    Built as Modality(folder, train, **flags): training may draw at random, from a generator that
    utils/seed.py seeds. Raises BadInput for a flag out of range and a file that it cannot read.
    """

    suffixes: tuple[str, ...] = ()  # lower case; "" is a folder for each sample
    packed_as = ""  # what `pack` gives and the settings it depends on, for the cache; "": no cache
    packed: Callable[[str], Tensor] | None = None  # with the cache: id -> what `pack` gave
    needs_cache = ""  # the flag that cannot do without the cache, if it is set

    def __init__(self, folder: Path, train: bool):
        self.folder, self.train = Path(folder), train

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of an item as the encoder gets it, (C, H, W) or (T, C, H, W); here of the first file."""
        return tuple(self.pack(min(self.ids())).shape)

    def ids(self) -> set[str]:
        """The ids that have a file."""
        return {p.stem for p in self.folder.glob("*") if p.suffix.lower() in self.suffixes}

    def path(self, sample_id: str) -> Path:
        """The file of a sample: the first of `suffixes` that is there."""
        for suffix in (*self.suffixes, *(suffix.upper() for suffix in self.suffixes)):
            if (path := self.folder / f"{sample_id}{suffix}").is_file():
                return path
        return self.folder / f"{sample_id}{self.suffixes[0]}"  # opening it says that it is missing

    def pack(self, sample_id: str) -> Tensor:
        """What the cache holds of a sample, of one dtype: all that is costly, nothing random."""
        raise NotImplementedError

    def read(self, sample_id: str) -> Tensor | tuple[Tensor, ...]:
        """An item, of which batches are made; here what is packed."""
        return (self.packed or self.pack)(sample_id)

    def check_together(self, ids: list[str]) -> None:
        """Raises BadInput where these samples differ in what their items do not show, such as the
        sample rate of sound. Called before a cache is built, without one before training."""

    def on_device(self, batch: Tensor | tuple[Tensor, ...]) -> Tensor:
        """A batch of items, on the device -> what the encoder gets, (B, *shape) float32."""
        return batch


def checked(reader: Modality, sample_id: str, item: Tensor | tuple[Tensor, ...]):
    """The item that a reader gave. All items pass here: raises BadInput for values that are not
    finite, or absurd, naming the sample's file."""
    for part in item if isinstance(item, tuple) else (item,):
        check_values(part, lambda: reader.path(sample_id))
    return item
