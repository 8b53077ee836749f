"""From the files to the device: samples become batches ({modality: input}, target).

1. `BatchSampler` chooses the samples of a batch.
2. `SampleDataset` reads each of them, in a worker process, from the cache or from its files.
3. `collate` stacks them.
4. `Batches` moves the stack to the device, where `Modality.on_device` finishes it.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from dataset._cache import open_cache
from dataset._samples import Sample
from dataset._workers import prepare_worker
from dataset.modalities import Modality, item_of
from utils import distributed, registry
from utils.errors import BadInput
from utils.seed import generator, restored, seed_host, seeded

KEPT_BYTES = 64 * 2**20  # of a split that comes in the same order in every epoch
TESTED_BYTES = 8 * 2**20  # of a batch that nothing is learnt from; more if --batch_size is more


class BatchSampler(Sampler):
    """Yields batches as lists of (epoch, index): every index once, if `shuffle` in another order
    in every `epoch`, which the user sets.

    The epoch travels with the index because workers live longer than an epoch. Of each batch, every
    process takes its share, as equal as can be, so order and batches do not depend on the number of
    processes. An empty share is left out.
    """

    def __init__(self, size: int, batch_size: int, seed: int, shuffle: bool):
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def whole(self, step: int) -> int:
        """Samples of batch `step`, over all processes."""
        return min(self.batch_size, self.size - step * self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = range(self.size)
        if self.shuffle:
            order = torch.randperm(self.size, generator=generator(self.seed, self.epoch)).tolist()
        for first in range(0, self.size, self.batch_size):
            batch = order[first : first + self.batch_size]
            share = batch[distributed.rank() :: distributed.world_size()]
            if share:
                yield [(self.epoch, index) for index in share]


class SampleDataset(Dataset):
    """`samples` as `readers` {modality: reader} give them.

    Item (epoch, index) is ({modality: tensor or tuple of tensors}, target). What readers draw at
    random, from torch, numpy or `random`, depends on seed, epoch and index alone: a sample is the
    same with any number of workers, and after a resume.
    """

    def __init__(self, samples: list[Sample], readers: dict[str, Modality], seed: int):
        self.samples, self.readers, self.seed = samples, readers, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: tuple[int, int]) -> tuple[dict, int]:
        (item,) = self.__getitems__([position])
        return item

    def __getitems__(self, positions: list[tuple[int, int]]) -> list[tuple[dict, int]]:
        """A batch, as DataLoader asks for it: what is drawn outside goes on as if nothing was."""
        with restored():
            return [self._read(epoch, index) for epoch, index in positions]

    def _read(self, epoch: int, index: int) -> tuple[dict, int]:
        sample = self.samples[index]
        seed_host(self.seed, epoch, index)
        return {m: item_of(r, sample.id) for m, r in self.readers.items()}, sample.target


def collate(items: list[tuple[dict, int]]) -> tuple[dict, Tensor]:
    """Items of a SampleDataset, stacked: ({modality: (B, ...) or a tuple of such}, target (B,)).

    Raises BadInput where a modality's shapes differ.
    """

    def stack(modality: str, values: tuple):
        if isinstance(values[0], tuple):
            return tuple(stack(modality, parts) for parts in zip(*values))
        if len(shapes := {tuple(x.shape) for x in values}) > 1:
            raise BadInput(
                f"{modality}: samples of different shapes, {sorted(shapes)}; prepare again"
            )
        return default_collate(values)  # of a worker: in shared memory, or it raises an error here

    inputs, targets = zip(*items)
    batch = {m: stack(m, tuple(sample[m] for sample in inputs)) for m in inputs[0]}
    return batch, torch.tensor(targets)


def to_device(batch: tuple[dict, Tensor], readers: dict[str, Modality], device: str):
    """What `collate` gives -> ({modality: input of the encoder}, target) on `device`."""

    def move(x):
        if isinstance(x, Tensor):
            return x.to(device, non_blocking=True)  # copied while the device works on
        return tuple(move(part) for part in x)  # a list, where memory is pinned

    inputs, target = batch
    return {m: reader.on_device(move(inputs[m])) for m, reader in readers.items()}, move(target)


def first_batch(data: SampleDataset, count: int, device: str) -> tuple[dict[str, Tensor], Tensor]:
    """The first `count` samples as one batch on `device`."""
    return to_device(collate([data[0, index] for index in range(count)]), data.readers, device)


def copied(batch: tuple[dict, Tensor]) -> tuple[dict, Tensor]:
    """What a model may write on."""
    return tree_map(Tensor.clone, batch)


class Batches(DataLoader):
    """Loads the batches of `sampler`: ({modality: input of the encoder}, target (B,)) on `device`.

    What is read in the same order in every epoch is the same then: it is kept if it is small.

    data: a SampleDataset, or one with the same items and `readers`.
    """

    _kept: list[tuple[dict, Tensor]] | None = None  # as `collate` gives them

    def __init__(self, data: Dataset, sampler: BatchSampler, device: str, num_workers: int = 0):
        super().__init__(
            data,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=num_workers,
            worker_init_fn=prepare_worker,
            persistent_workers=num_workers > 0,
            pin_memory=device == "cuda",
            # its own: it would draw a seed for the workers from the run's generator, with workers
            # in the first epoch only, without them in every epoch
            generator=torch.Generator(),
        )
        self.device = device

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for batch in self._loaded() if self._kept is None else map(copied, self._kept):
            yield to_device(batch, self.dataset.readers, self.device)

    def _loaded(self) -> Iterator[tuple[dict, Tensor]]:
        kept, bytes_left = [], 0 if self.batch_sampler.shuffle else KEPT_BYTES
        for batch in super().__iter__():
            bytes_left -= sum(part.nbytes for part in tree_leaves(batch))
            if bytes_left >= 0:
                kept.append(copied(batch))
            else:
                kept.clear()
            yield batch
        if bytes_left >= 0:
            self._kept = kept


def build_readers(
    kinds: Mapping[str, str], root: Path, train: bool, flags: Mapping[str, object]
) -> dict[str, Modality]:
    """{modality: reader of root/<modality>}, each with those of `flags` that it declares.

    kinds: {modality: file in modalities/}.
    """
    readers = {}
    for modality, kind in kinds.items():
        build = registry.load_class("dataset/modalities", kind, "--modalities")
        with seeded(flags.get("random_seed", 0)):
            readers[modality] = build(root / modality, train, **registry.settings(build, flags))
    return readers


def complete_samples(dataset, split: str, present: dict[str, set[str]]) -> list[Sample]:
    """Samples of a split that have a file in every modality; prints how many of how many.

    present: {modality: ids that have a file}.

    Raises BadInput when there is none.
    """
    samples = dataset.samples(split)
    complete = [s for s in samples if all(s.id in ids for ids in present.values())]
    counts = f"{len(complete)} of {len(samples)} samples found"
    print(f"{dataset.name} {split}: {counts} in {dataset.root}")
    for modality, ids in present.items():
        if missing := [s.id for s in samples if s.id not in ids]:
            few = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            print(f"  WARNING: {len(missing)} without {modality}: {few}")
    if not complete:
        raise BadInput(
            f"--data_root {dataset.root}: no {split} sample is there. {dataset.how_to_prepare()}"
        )
    return complete


def check_classes(dataset, samples: list[Sample]) -> None:
    """Raises BadInput for a class without training samples: nothing could be learnt about it."""
    there = {sample.target for sample in samples}
    lacking = [name for target, name in enumerate(dataset.classes) if target not in there]
    if lacking:
        few = ", ".join(map(repr, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
        raise BadInput(
            f"--data_root {dataset.root}: no training sample of {len(lacking)} of "
            f"{len(dataset.classes)} classes, {few}; add their files, or take the classes out of "
            "stat.csv, train.csv and test.csv"
        )


def split_again(training: list[Sample], test: list[Sample], seed: int) -> tuple[list, list]:
    """(training, test): other samples of both, drawn at random, as many of every class."""
    to_draw = Counter(sample.target for sample in test)
    return drawn_from(training + test, to_draw, generator(seed, 1))


def split_validation(samples: list[Sample], fraction: float, seed: int) -> tuple[list, list]:
    """(training, validation): `fraction` of the samples of every class, drawn at random, is for
    validation. Both in the order of `samples`."""
    sizes = Counter(sample.target for sample in samples)
    to_draw = {target: round(size * fraction) for target, size in sizes.items()}
    return drawn_from(samples, to_draw, generator(seed))


def drawn_from(
    samples: list[Sample], counts: dict[int, int], random: torch.Generator
) -> tuple[list, list]:
    """(the others, `counts` samples of every class, drawn at random). Both in the order of
    `samples`."""
    to_draw, drawn = dict(counts), set()
    for index in torch.randperm(len(samples), generator=random).tolist():
        if to_draw.get(samples[index].target, 0) > 0:
            to_draw[samples[index].target] -= 1
            drawn.add(index)
    others = [s for i, s in enumerate(samples) if i not in drawn]
    return others, [s for i, s in enumerate(samples) if i in drawn]


def split_speakers(dataset, samples: list[Sample], names: str) -> tuple[list, list]:
    """(training, validation): all samples of the named speakers are for validation. Raises BadInput
    for one who is not there, and where nobody is left."""
    speakers = {sample.id: dataset.speaker_of(sample.id) for sample in samples}
    there, wanted = sorted({*speakers.values()} - {""}), set(names.split(","))
    if unknown := sorted(wanted - {*there}):
        who = f"choose from {', '.join(there)}" if there else f"{dataset.name} has no speakers"
        raise BadInput(
            f"--val_speakers {names}: nobody in the training split is {unknown[0]}; {who}"
        )
    if wanted == {*there}:
        raise BadInput(f"--val_speakers {names}: leaves nobody to train on")
    training = [s for s in samples if speakers[s.id] not in wanted]
    return training, [s for s in samples if speakers[s.id] in wanted]


def check_batch_size(model: nn.Module, loader: Batches, accumulate: int) -> None:
    """Raises BadInput for a batch larger than the split, a last batch with fewer samples than
    processes, for samples that the model cannot take, and a part of a batch with one sample where
    it cannot be trained on one. Afterwards the layers of a model that wait for their first input,
    such as nn.LazyLinear, have their parameters; all else is as it was.

    Batch normalisation needs two values per channel, and an encoder may leave one of a small
    picture; that is tried, since it would end the run at the end of its first epoch.
    """
    sampler, processes = loader.batch_sampler, distributed.world_size()
    size, last = sampler.size, sampler.whole(len(sampler) - 1)
    refused = f"--batch_size {sampler.batch_size}: "
    if sampler.batch_size > size:
        raise BadInput(f"{refused}larger than the training split; at most {size}")
    if last < processes:
        raise BadInput(
            f"{refused}leaves a last batch of {last} of {size} samples for {processes} processes; "
            "choose another size, or fewer processes"
        )
    inputs, _ = first_batch(loader.dataset, min(2, size), loader.device)
    with restored(), torch.no_grad():
        model.try_forward(inputs)
        if last // processes // accumulate <= 1:
            try:
                copy.deepcopy(model).train()({m: x[:1] for m, x in inputs.items()})
            except ValueError as error:
                raise BadInput(
                    f"{refused}leaves a part of one sample of {size}, which cannot be normalised "
                    f"({error}); choose another"
                ) from None


def build_loaders(dataset, flags: Mapping[str, Any]) -> dict[str, Batches]:
    """Loaders "train", "test", where samples are held out "val", and for probes "train_plain": the
    training split in order and without augmentation.

    flags: those of a run, train.py's and those that its readers declare.

    Raises BadInput where no sample, or none for validation, can be used, and for bad flags.
    """
    kinds = {modality: dataset.modalities[modality] for modality in flags["modalities"]}
    augmented = build_readers(kinds, dataset.root, True, flags)
    plain = build_readers(kinds, dataset.root, False, flags)
    present = {modality: reader.ids() for modality, reader in plain.items()}
    dataset.check_complete(present)
    training = complete_samples(dataset, "train", present)
    test = complete_samples(dataset, "test", present)
    if flags["random_split"]:
        training, test = split_again(training, test, flags["random_seed"])
    ids = sorted(sample.id for sample in training + test)
    for modality, reader in plain.items():
        if flags["cache"] == "on" and reader.packed_as:
            folder = Path(flags["cache_dir"] or dataset.root / "cache")
            reader.packed = open_cache(reader, ids, folder, flags["num_workers"])
            augmented[modality].packed = reader.packed
        elif reader.needs_cache:
            raise BadInput(f"{reader.needs_cache}: needs the cache; leave out --cache off")
        else:
            reader.check_together(ids)

    def batches(samples: list[Sample], readers: dict[str, Modality], shuffle=False) -> Batches:
        seed, size = flags["random_seed"], flags["batch_size"]
        if not shuffle:  # small samples are tested many at a time
            size = max(size, TESTED_BYTES // sum(4 * prod(r.shape) for r in readers.values()))
        sampler = BatchSampler(len(samples), size, seed, shuffle)
        data = SampleDataset(samples, readers, seed)
        return Batches(data, sampler, flags["device"], flags["num_workers"])

    loaders = {}
    if (fraction := flags["val_fraction"]) > 0:
        training, validation = split_validation(training, fraction, flags["random_seed"])
        if not validation:
            raise BadInput(f"--val_fraction {fraction}: leaves no validation sample")
    elif names := flags["val_speakers"]:
        training, validation = split_speakers(dataset, training, names)
    else:
        validation = []
    if validation:
        loaders["val"] = batches(validation, plain)
    check_classes(dataset, training)
    return loaders | {
        "train": batches(training, augmented, shuffle=True),
        "train_plain": batches(training, plain),
        "test": batches(test, plain),
    }
