"""Samples to mini-batches."""

from __future__ import annotations

import copy
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset._cache import open_cache
from dataset._samples import Sample
from dataset.modalities import Modality
from utils import distributed, registry
from utils.errors import BadInput
from utils.seed import generator, seeded


class SampleDataset(Dataset):
    """`samples` with all modalities of `readers`; indexed by (epoch, index), see `BatchSampler`.

    An item is ({modality: tensor}, target). Randomness of the readers is seeded per item and epoch.
    """

    def __init__(self, samples: list[Sample], readers: dict, seed: int):
        self.samples, self.readers, self.seed = samples, readers, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, where: tuple[int, int]) -> tuple[dict[str, Tensor], int]:
        epoch, index = where
        sample = self.samples[index]
        with seeded(self.seed, epoch, index):
            inputs = {m: reader.read(sample.id) for m, reader in self.readers.items()}
        return inputs, sample.target


class BatchSampler(Sampler):
    """Yields lists of (epoch, index): every index once, in an order of its own per `epoch` if
    `shuffle`, in batches of which each process gets its share, as equal as can be.

    The epoch travels with the index, so workers that live longer than an epoch know it too. The
    order and the batches do not depend on the number of processes; an empty share is left out.
    """

    def __init__(self, size: int, batch_size: int, seed: int, shuffle: bool):
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def whole(self, step: int) -> int:
        """Samples of batch `step`, over all processes."""
        return min(self.batch_size, self.size - step * self.batch_size)

    def __iter__(self):
        order = range(self.size)
        if self.shuffle:
            order = torch.randperm(self.size, generator=generator(self.seed, self.epoch)).tolist()
        for first in range(0, self.size, self.batch_size):
            batch = order[first : first + self.batch_size]
            share = batch[distributed.rank() :: distributed.world_size()]
            if share:
                yield [(self.epoch, index) for index in share]


class Batches:
    """A loader whose batches are on the device and finished there: ({modality: input}, target)."""

    def __init__(self, loader: DataLoader, readers: dict, device: str):
        self.loader, self.readers, self.device = loader, readers, device
        self.dataset, self.sampler = loader.dataset, loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for inputs, target in self.loader:
            yield self.to_device(inputs, target)

    def to_device(self, inputs: dict, target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return finish_inputs(inputs, self.readers, self.device), move(target, self.device)


def move(x, device: str):
    """A tensor or a tuple of them to a device; the copy runs beside the work that is queued."""
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=True)
    return tuple(move(part, device) for part in x)


def finish_inputs(inputs: dict, readers: dict, device: str) -> dict[str, Tensor]:
    """A batch as `collate` gives it, on the device and as the encoders want it."""
    inputs = {m: move(x, device) for m, x in inputs.items()}
    for modality, reader in readers.items():
        inputs[modality] = reader.on_device(inputs[modality])
    return inputs


def split_validation(
    samples: list[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, validation): a seeded `fraction` of every class goes to validation."""
    held_out: set[int] = set()
    order = torch.randperm(len(samples), generator=generator(seed)).tolist()
    left = {k: round(n * fraction) for k, n in Counter(s.target for s in samples).items()}
    for index in order:
        if left[samples[index].target] > 0:
            left[samples[index].target] -= 1
            held_out.add(index)
    training = [s for i, s in enumerate(samples) if i not in held_out]
    return training, [s for i, s in enumerate(samples) if i in held_out]


def collate(items: list[tuple[dict[str, Tensor], int]]) -> tuple[dict[str, Tensor], Tensor]:
    """({modality: (B, ...) or a tuple of such}, target (B,)).

    Raises BadInput where a modality's shapes differ.
    """

    def stack(modality: str, tensors: list[Tensor]) -> Tensor:
        if len(shapes := {tuple(t.shape) for t in tensors}) > 1:
            raise BadInput(
                f"{modality}: samples of different shapes, {sorted(shapes)}; prepare again"
            )
        return torch.stack(tensors)

    batch = {}
    for modality, first in items[0][0].items():
        values = [inputs[modality] for inputs, _ in items]
        if isinstance(first, tuple):
            batch[modality] = tuple(stack(modality, list(parts)) for parts in zip(*values))
        else:
            batch[modality] = stack(modality, values)
    return batch, torch.tensor([target for _, target in items])


def quiet_worker(worker: int) -> None:
    """Ctrl-C is for the main process, which then ends its workers; a thread of theirs that was
    handing over a batch meanwhile has nothing to say. Errors of the readers travel another way."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *exception: None


def build_readers(
    root: Path,
    files: Mapping[str, str],
    modalities: list[str],
    train: bool,
    flags: Mapping[str, object],
) -> dict[str, Modality]:
    """{modality: reader} of a prepared tree, each with those of `flags` that it declares.

    files: {modality: the file of dataset/modalities/ that reads it}.
    """
    readers = {}
    for modality in modalities:
        build = registry.load_class("dataset/modalities", files[modality], "--modalities")
        folder = Path(root) / modality
        readers[modality] = build(folder, train, **registry.settings(build, flags))
    return readers


def available(dataset, split: str, present: dict[str, set[str]]) -> list[Sample]:
    """Samples of a split that have a file in every modality; says how many of how many.

    present: {modality: ids that have a file}.

    Raises BadInput when there is none.
    """
    samples = dataset.samples(split)
    found = [s for s in samples if all(s.id in ids for ids in present.values())]
    print(f"{dataset.name} {split}: {len(found)} of {len(samples)} samples found in {dataset.root}")
    if any(s.id not in ids for ids in present.values() for s in samples):
        for modality, ids in present.items():
            lacking = [s.id for s in samples if s.id not in ids]
            if lacking:
                few = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
                print(f"  WARNING: {len(lacking)} without {modality}: {few}")
    if not found:
        raise BadInput(
            f"--data_root {dataset.root}: no {split} sample is there. {dataset.how_to_prepare()}"
        )
    return found


def build_loader(
    samples: list[Sample],
    readers: dict[str, Modality],
    batch_size: int,
    seed: int,
    shuffle: bool,
    num_workers: int,
    device: str,
) -> Batches:
    """Batches of `batch_size`, the short last one kept as published; workers stay alive."""
    loader = DataLoader(
        SampleDataset(samples, readers, seed),
        batch_sampler=BatchSampler(len(samples), batch_size, seed, shuffle),
        num_workers=num_workers,
        collate_fn=collate,
        worker_init_fn=quiet_worker,
        persistent_workers=num_workers > 0,
        pin_memory=device == "cuda",
    )
    return Batches(loader, readers, device)


def check_batches(size: int, batch_size: int) -> None:
    """Raises BadInput for a batch larger than the split, or too small for the processes."""
    if batch_size > size:
        raise BadInput(f"--batch_size {batch_size}: larger than the training split; at most {size}")
    processes, last = distributed.world_size(), size % batch_size or batch_size
    if min(batch_size, last) < processes:
        raise BadInput(
            f"--batch_size {batch_size}: leaves a last batch of {last} of {size} samples "
            f"for {processes} processes; choose another size, or fewer processes"
        )


def check_smallest_part(model: nn.Module, loader: Batches, accumulate: int) -> None:
    """Raises BadInput where a part of one sample would end the run at the end of an epoch.

    Batch normalisation needs two values per channel; small pictures have one per sample.
    """
    batch_size = loader.sampler.batch_size
    last = len(loader.dataset) % batch_size or batch_size
    share = min(batch_size, last) // distributed.world_size()
    if share // accumulate > 1:
        return
    item = loader.dataset[0, 0]
    inputs, _ = loader.to_device(*collate([item]))
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(inputs)
    except ValueError as error:
        raise BadInput(
            f"--batch_size {batch_size}: leaves a part of one sample of "
            f"{len(loader.dataset)}, which cannot be normalised ({error}); choose another"
        ) from None


def pack_all(plain: dict, augmented: dict, ids: list[str], present, folder: Path, workers: int):
    """Gives the readers of both kinds the cache of their modality, built where it is not there."""
    for modality, reader in plain.items():
        if reader.packed_as:
            there = [name for name in ids if name in present[modality]]
            packed = open_cache(reader, modality, there, folder, workers)
            reader.packed = augmented[modality].packed = packed


def build_loaders(
    dataset,
    modalities: list[str],
    flags: Mapping[str, object],
    *,
    batch_size: int,
    random_seed: int,
    val_fraction: float,
    cache: str,
    cache_dir: str | Path | None,
    num_workers: int,
    device: str,
) -> dict[str, Batches]:
    """Loaders "train", "test" and, with a `val_fraction` > 0, "val".

    "train_plain" is the training split in order and without augmentation, for probes. The keyword
    arguments are the flags of train.py; flags: has those that the readers declare.
    """
    augmented = build_readers(dataset.root, dataset.modalities, modalities, True, flags)
    plain = build_readers(dataset.root, dataset.modalities, modalities, False, flags)
    dataset.check_complete(modalities)
    present = {modality: reader.ids() for modality, reader in plain.items()}
    training, validation = available(dataset, "train", present), []
    test = available(dataset, "test", present)
    if cache == "on":
        ids = list(dict.fromkeys(s.id for s in training + test))
        folder = Path(cache_dir or Path(dataset.root) / "cache")
        pack_all(plain, augmented, ids, present, folder, num_workers)
    elif needing := [reader.needs_cache for reader in augmented.values() if reader.needs_cache]:
        raise BadInput(f"{needing[0]}: needs the cache; leave out --cache off")
    if val_fraction > 0:
        training, validation = split_validation(training, val_fraction, random_seed)
        if not validation:
            raise BadInput(f"--val_fraction {val_fraction}: leaves no validation sample")
    check_batches(len(training), batch_size)

    def loader(samples: list[Sample], readers: dict, shuffle: bool) -> Batches:
        return build_loader(samples, readers, batch_size, random_seed, shuffle, num_workers, device)

    loaders = {
        "train": loader(training, augmented, True),
        "train_plain": loader(training, plain, False),
        "test": loader(test, plain, False),
    }
    if validation:
        loaders["val"] = loader(validation, plain, False)
    return loaders
