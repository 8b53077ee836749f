"""A prepared set packed into one memory-mapped file per modality, so that no run decodes twice."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset._files import files_below
from dataset._workers import prepare_worker
from dataset.modalities import Modality, item_of
from utils.atomic import locked, new_folder
from utils.errors import BadInput
from utils.machine import shortage

ALIGNMENT_BYTES = 64  # of every sample in the file, so that any dtype can be viewed in place
INDEX = "index.json"


class Packed:
    """The samples of a cache folder: `packed(sample_id)` is a tensor in mapped memory.

    data.bin holds the samples one after another; index.json says where, behind a checksum of
    itself: {"dtype": of all samples, "where": {id: (first byte, shape, CRC-32)}, "size": bytes of
    data.bin, "files": {name: what `state_of` says}}.

    A sample is compared with its checksum when a process first reads it, at some 4 GB/s, so opening
    a cache of any size takes no time. Where it differs, what `read` gives of its file is taken, and
    the next run builds the cache anew.
    """

    def __init__(self, folder: Path, index: dict, read: partial):
        self.folder, self.where, self.size, self.read = folder, index["where"], index["size"], read
        self.dtype = getattr(torch, index["dtype"])
        self._map()

    def _map(self) -> None:
        path = str(self.folder / "data.bin")
        self.data = torch.from_file(path, size=self.size, dtype=torch.uint8)
        self.checked, self.is_damaged = set(), False

    def __getstate__(self) -> dict:
        """A worker that is spawned gets the path, and maps the file itself."""
        return {k: v for k, v in vars(self).items() if k not in ("data", "checked")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._map()

    def __call__(self, sample_id: str) -> Tensor:
        first, shape, checksum = self.where[sample_id]
        length = torch.Size(shape).numel() * self.dtype.itemsize
        content = self.data[first : first + length]
        if sample_id not in self.checked:
            if crc32(content.numpy()) != checksum:
                return self._unpacked(sample_id)
            self.checked.add(sample_id)
        return content.view(self.dtype).view(shape)

    def _unpacked(self, sample_id: str) -> Tensor:
        """Of a sample whose bytes in the cache have changed; says so, once in a process."""
        if not self.is_damaged:
            print(
                f"cache: {self.folder}: {sample_id} is damaged; of such samples the files are read "
                "instead, and the next run builds this cache anew",
                flush=True,
            )
            with suppress(OSError):  # where nothing can be written
                (self.folder / INDEX).unlink()
        self.is_damaged = True
        return self.read(sample_id)


def read_index(folder: Path) -> dict:
    """The index of a cache that is whole. Raises ValueError that says what is wrong with it."""
    try:
        checksum, text = (folder / INDEX).read_text(encoding="utf-8").split("\n", 1)
        if checksum != str(crc32(text.encode())):
            raise ValueError
        index = json.loads(text)
    except (OSError, ValueError):
        raise ValueError(f"damaged, {INDEX} is missing or is not what was written") from None
    try:
        size = (folder / "data.bin").stat().st_size
    except OSError as error:
        raise ValueError(f"damaged, data.bin: {error.strerror}") from None
    if size != index["size"]:
        raise ValueError(f"damaged, data.bin has {size} bytes, {index['size']} were written")
    return index


def write_index(folder: Path, index: dict) -> None:
    text = json.dumps(index)
    (folder / INDEX).write_text(f"{crc32(text.encode())}\n{text}", encoding="utf-8")


def name_of(reader: Modality) -> str:
    """Of the caches of a modality that are packed in this way."""
    how = hashlib.sha256(f"1 {type(reader).__module__} {reader.packed_as}".encode())
    return f"{reader.folder.name}-{how.hexdigest()[:12]}"


def state_of(reader: Modality) -> dict[str, list[int]]:
    """{name: [size, time of change]} of a modality's files: what `make` judges by; not their
    bytes."""
    states = ((path.relative_to(reader.folder), path.stat()) for path in files_below(reader.folder))
    return {name.as_posix(): [state.st_size, state.st_mtime_ns] for name, state in states}


def difference(before: Path, files: dict[str, list[int]], ids: list[str]) -> str:
    """Why the cache in `before` is not that of these files and ids."""
    try:
        index = read_index(before)
    except ValueError as problem:
        return str(problem)
    old = index["files"]
    parts = {
        "added": files.keys() - old.keys(),
        "removed": old.keys() - files.keys(),
        "changed": {name for name in files.keys() & old.keys() if files[name] != old[name]},
    }
    said = [f"{len(n)} {what}, such as {min(n)}" for what, n in parts.items() if n]
    if said:
        return f"files: {'; '.join(said)}"
    return f"other samples are asked for, {len(ids)} in place of {len(index['where'])}"


def caches_of(name: str, cache_dir: Path) -> list[Path]:
    """The caches of this name, those that are stale and half-written included."""
    return [p for p in cache_dir.glob("*-*") if p.name.lstrip(".").startswith(f"{name}-")]


def open_cache(reader: Modality, ids: Iterable[str], cache_dir: Path, workers: int) -> Packed:
    """The cache of `ids` as `reader.pack` gives them; built first where it is missing, stale or
    damaged, and then it is said why.

    It appears complete or not at all; a stale one of the same options is removed. Several runs may
    ask at the same time: one builds, the others wait.

    Raises BadInput where it cannot be written.
    """
    ids, name, files = sorted(ids), name_of(reader), state_of(reader)
    content = hashlib.sha256(json.dumps([ids, sorted(files.items())]).encode()).hexdigest()[:12]
    folder, read = cache_dir / f"{name}-{content}", partial(item_of, reader, packed=True)
    try:
        return Packed(folder, read_index(folder), read)
    except ValueError:
        pass  # it is built
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir / f"{name}.lock"):
            try:  # whether it was built while this process waited
                index = read_index(folder)
            except ValueError:
                before = [p for p in caches_of(name, cache_dir) if p.name[0] != "."]
                if before:
                    newest = folder if folder in before else max(before, key=os.path.getmtime)
                    why = difference(newest, files, ids)
                    print(f"cache: {reader.folder.name} is built anew: {why}", flush=True)
                build(reader, ids, files, folder, workers)
                for other in caches_of(name, cache_dir):
                    if other != folder:
                        shutil.rmtree(other)
                index = read_index(folder)
        return Packed(folder, index, read)
    except OSError as error:
        raise BadInput(
            f"--cache_dir {cache_dir}: cannot hold the cache ({error}); choose another folder with "
            "--cache_dir, or read the files with --cache off"
        ) from None


def build(reader: Modality, ids: list[str], files: dict, folder: Path, workers: int) -> None:
    """Packs `ids` into `folder`, by way of a folder that is renamed when it is complete.

    files: as `state_of` gives them. Raises BadInput where a process that decodes dies.
    """
    reader.check_together(ids)
    read = partial(item_of, reader, packed=True)
    modality, first = reader.folder.name, read(ids[0])
    expected, free = first.nbytes * len(ids), shutil.disk_usage(folder.parent).free
    if expected > free:
        raise OSError(f"needs about {expected / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    shutil.rmtree(folder, ignore_errors=True)
    samples = DataLoader(
        ids,
        batch_size=None,
        collate_fn=read,
        num_workers=workers,
        worker_init_fn=prepare_worker,
    )
    bar = tqdm(samples, desc=f"caching {modality}", leave=False, disable=None)
    where, size = {}, 0
    try:
        with new_folder(folder) as temporary:
            with open(temporary / "data.bin", "wb") as file:
                for sample_id, sample in zip(ids, bar):
                    assert sample.dtype == first.dtype, f"{reader.folder}: {sample_id}"
                    content = sample.contiguous().numpy().tobytes()
                    where[sample_id] = (size, tuple(sample.shape), crc32(content))
                    size += file.write(content + bytes(-len(content) % ALIGNMENT_BYTES))
                file.flush()
                os.fsync(file.fileno())
            dtype = str(first.dtype).removeprefix("torch.")
            write_index(temporary, {"dtype": dtype, "where": where, "size": size, "files": files})
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not (cause := shortage(error)):
            raise
        done = len(where)  # a worker has two samples at hand
        suspects = ", ".join(ids[done : done + 2 * workers])
        raise BadInput(
            f"{reader.folder}: {cause}; or a file cannot be decoded, one of {suspects}"
        ) from None
    print(f"cache: {modality}, {len(ids)} samples, {size / 1e6:.1f} MB in {folder}", flush=True)
