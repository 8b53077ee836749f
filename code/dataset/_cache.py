"""A prepared set packed into one memory-mapped file per modality, so that no run decodes twice."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset._files import files_below
from dataset.modalities import Modality, item_of
from utils.atomic import locked, new_folder
from utils.errors import BadInput

ALIGNMENT_BYTES = 64  # of every sample in the file, so that any dtype can be viewed in place


class Packed:
    """The samples of a cache folder: `packed(sample_id)` is a tensor in mapped memory.

    data.bin holds the samples one after another; index.pt says where: {"dtype": of all samples,
    "where": {id: (first byte, shape)}, "size": bytes of data.bin}.
    """

    def __init__(self, folder: Path):
        index = torch.load(folder / "index.pt", weights_only=True)
        self.dtype, self.where = index["dtype"], index["where"]
        path = str(folder / "data.bin")
        self.data = torch.from_file(path, size=index["size"], dtype=torch.uint8)

    def __call__(self, sample_id: str) -> Tensor:
        first, shape = self.where[sample_id]
        length = torch.Size(shape).numel() * self.dtype.itemsize
        return self.data[first : first + length].view(self.dtype).view(shape)


def is_complete(folder: Path) -> bool:
    """Whether a cache is there and as long as its index says."""
    try:
        index = torch.load(folder / "index.pt", weights_only=True)
        return (folder / "data.bin").stat().st_size == index["size"]
    except OSError:
        return False


def fingerprint(reader: Modality, ids: list[str]) -> tuple[str, str]:
    """(modality and how it is packed, a hash of the ids and files), which name a cache.

    Of files: names, sizes and times of change, as `make` judges; not their bytes.
    """
    how = hashlib.sha256(f"1 {type(reader).__module__} {reader.packed_as}".encode())
    content = hashlib.sha256("\n".join(ids).encode())
    for path in files_below(reader.folder):
        state = path.stat()
        name = path.relative_to(reader.folder).as_posix()
        content.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return f"{reader.folder.name}-{how.hexdigest()[:12]}", content.hexdigest()[:12]


def open_cache(reader: Modality, ids: Iterable[str], cache_dir: Path, workers: int) -> Packed:
    """The cache of `ids` as `reader.pack` gives them; built first where it is missing or stale.

    It appears complete or not at all; a stale one of the same options is removed. Several runs may
    ask at the same time: one builds, the others wait.

    Raises BadInput where it cannot be written.
    """
    ids = sorted(ids)
    name, content = fingerprint(reader, ids)
    folder = cache_dir / f"{name}-{content}"
    if is_complete(folder):
        return Packed(folder)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f"{name}.lock"):
            if not is_complete(folder):  # else it was built while this process waited
                build(reader, ids, folder, workers)
                for other in cache_dir.glob(f"*{name}-*"):  # stale, or half-written
                    if other != folder:
                        shutil.rmtree(other)
        return Packed(folder)
    except OSError as error:
        raise BadInput(
            f"--cache_dir {cache_dir}: cannot hold the cache ({error}); choose another folder with "
            "--cache_dir, or read the files with --cache off"
        ) from None


def pack(reader: Modality, sample_id: str) -> Tensor:
    """What the cache holds of a sample. Raises BadInput naming its file where that is unusable."""
    return item_of(reader, sample_id, packed=True)


def build(reader: Modality, ids: list[str], folder: Path, workers: int) -> None:
    """Packs `ids` into `folder`, by way of a folder that is renamed when it is complete."""
    reader.check_together(ids)
    modality, first = reader.folder.name, pack(reader, ids[0])
    expected, free = first.nbytes * len(ids), shutil.disk_usage(folder.parent).free
    if expected > free:
        raise OSError(f"needs about {expected / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    shutil.rmtree(folder, ignore_errors=True)
    samples = DataLoader(
        ids, batch_size=None, collate_fn=partial(pack, reader), num_workers=workers
    )
    bar = tqdm(samples, desc=f"caching {modality}", leave=False, disable=None)
    where, size = {}, 0
    with new_folder(folder) as temporary:
        with open(temporary / "data.bin", "wb") as file:
            for sample_id, sample in zip(ids, bar):
                assert sample.dtype == first.dtype, f"{reader.folder}: {sample_id}"
                where[sample_id] = (size, tuple(sample.shape))
                content = sample.contiguous().numpy().tobytes()
                size += file.write(content + bytes(-len(content) % ALIGNMENT_BYTES))
            file.flush()
            os.fsync(file.fileno())
        torch.save({"dtype": first.dtype, "where": where, "size": size}, temporary / "index.pt")
    print(f"cache: {modality}, {len(ids)} samples, {size / 1e6:.1f} MB in {folder}", flush=True)
