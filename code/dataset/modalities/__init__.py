"""How the files of a modality become tensors: one file per kind of file.

A file `dataset/modalities/X.py` exports a `class Modality` that derives from the one below.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from dataset._files import entries_of
from dataset._limits import naming
from dataset._samples import fault_of
from dataset._values import check_values
from utils.errors import BadInput
from utils.registry import Contract

# Our own words beside the modalities' in results: the fused branch, the parameters that losses
# share, a probe without a missing modality. And the names of PyTorch's dictionary of encoders.
TAKEN = {"multimodal", "shared", "none", *dir(nn.ModuleDict())}


def check_names(names: list[str]) -> None:
    """Raises BadInput for a modality whose name a model, a flag or a table could not hold."""
    for name in names:
        wrong = [letter for letter in name if letter in ".,=/\\\"'" or letter.isspace()]
        fault = fault_of(name) or (f"holds {wrong[0]!r}" if wrong else "")
        if not fault and name.startswith("-"):
            fault = "begins with '-', as flags do"
        if not fault and name in TAKEN:
            fault = "has a meaning of its own here"
        if fault:
            raise BadInput(
                f"modality {name!r}: {fault}, so no modality can be called so; rename its folder, "
                "or choose others by --modalities"
            )


class Modality(Contract):
    """Reads `<folder>/<id><suffix>`.

    Built as Modality(folder, train, **flags): training may draw at random, from a generator that
    utils/seed.py seeds. Raises BadInput for a flag out of range and a file that it cannot read.
    """

    suffixes: tuple[str, ...] = ()  # lower case; "" is a folder for each sample
    packed_as = ""  # what `pack` gives and the settings it depends on, for the cache; "": no cache
    packed: Callable[[str], Tensor] | None = None  # with the cache: id -> what `pack` gave
    of_one_shape = False  # all packed samples must have the shape of the first
    needs_cache = ""  # the flag that cannot do without the cache, if it is set

    def __init__(self, folder: Path, train: bool):
        self.folder, self.train = Path(folder), train

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of an item as the encoder gets it, (C, H, W) or (T, C, H, W); here of the first file."""
        first = min(self.ids())
        with naming(self.path(first)):
            return tuple(self.pack(first).shape)

    def ids(self) -> set[str]:
        """The ids that have a file."""
        return set(self._files_of_all())

    def path(self, sample_id: str) -> Path:
        """The file of a sample; its suffix may be in upper case."""
        for suffix in (*self.suffixes, *(suffix.upper() for suffix in self.suffixes)):
            if (path := self.folder / f"{sample_id}{suffix}").is_file():
                return path
        missing = self.folder / f"{sample_id}{self.suffixes[0]}"  # opening it will say so
        return self._files_of_all().get(sample_id, missing)  # such as .Jpg

    def _files_of_all(self) -> dict[str, Path]:
        """{id: its file}. Raises BadInput where there are two."""
        files: dict[str, Path] = {}
        for path in entries_of(self.folder):
            if path.suffix.lower() not in self.suffixes:
                continue
            if (other := files.setdefault(path.stem, path)) != path:
                raise BadInput(
                    f"{self.folder}: two files for {path.stem}, {other.name} and {path.name}"
                )
        return files

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


def item_of(reader: Modality, sample_id: str, packed: bool = False):
    """An item of a sample, or what the cache holds of it. All that is read passes here: raises
    BadInput that names the sample's file, whatever a reader raises, for values that are not finite
    or absurd, and for another shape than the first sample's where all must have one."""
    try:
        item = reader.pack(sample_id) if packed else reader.read(sample_id)
        for part in item if isinstance(item, tuple) else (item,):
            check_values(part, lambda: reader.path(sample_id))
        if reader.of_one_shape and (shape := tuple(item.shape)) != reader.shape:
            raise BadInput(f"of shape {shape}, the first sample of {reader.shape}; all need one")
    except Exception:
        with naming(reader.path(sample_id)):  # looked for only now
            raise
    return item
