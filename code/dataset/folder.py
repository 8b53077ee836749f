"""Your own data: --data_root DIR with train.csv, test.csv and one folder per modality."""

from __future__ import annotations

from pathlib import Path

import dataset
from dataset._samples import is_header, natural, read_csv
from utils import registry
from utils.errors import BadInput


def kind_of(folder: Path) -> tuple[str, set[str]]:
    """(file in modalities/, ids) by what lies in a modality's folder.

    A folder per sample is `frames`; files are read by what names their suffix. Raises BadInput for
    suffixes that nothing reads, and for two kinds in one folder.
    """
    readers = {}
    for name in registry.names("dataset/modalities"):
        reader = registry.load_class("dataset/modalities", name, "--modalities")
        readers |= {suffix: name for suffix in reader.suffixes}
    found: dict[str, str] = {}  # reader -> one of its entries
    ids: dict[str, str] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        suffix = "" if entry.is_dir() else entry.suffix.lower()
        if suffix not in readers:
            known = ", ".join(sorted(filter(None, readers)))
            raise BadInput(f"{entry}: no modality reads it; a folder of frames, or one of {known}")
        name = entry.stem if suffix else entry.name
        if name in ids:
            raise BadInput(f"{folder}: two files for {name}, {ids[name]} and {entry.name}")
        ids[name] = entry.name
        found.setdefault(readers[suffix], entry.name)
    if len(found) != 1:
        raise BadInput(
            f"{folder}: {' and '.join(found.values()) or 'empty'}; one kind of file is needed"
        )
    return next(iter(found)), set(ids)


class Dataset(dataset.Dataset):
    """DIR/train.csv and DIR/test.csv (lines `id,label`; a first line `id,label` is left out) and
    DIR/<modality>/<id>.<suffix>, or DIR/<modality>/<id>/ with the frames of a clip.

    Classes: the labels of train.csv in natural order. Raises BadInput for labels that only test.csv
    has, and for an id in both or twice or that is no plain name; samples without a file are
    refused by `check_complete`.
    """

    name = "folder"

    def __init__(self, root: Path):
        self.root, kinds = Path(root), self._kinds_at(root)
        self.modalities = {modality: reader for modality, (reader, _) in kinds.items()}
        labels = {split: self._labels(split) for split in ("train", "test")}
        self.classes = sorted(labels["train"], key=natural)
        if len(self.classes) < 2:
            raise BadInput(
                f"{self.root / 'train.csv'}: needs lines id,label with at least two labels, has "
                f"{self.classes or 'none'}"
            )
        if unknown := sorted(labels["test"] - labels["train"], key=natural):
            raise BadInput(f"{self.root / 'test.csv'}: not in train.csv: {', '.join(unknown)}")
        ids = {split: [s.id for s in self.samples(split)] for split in ("train", "test")}
        if both := set(ids["train"]) & set(ids["test"]):
            raise BadInput(f"{self.root}: {min(both)!r} is in train.csv and in test.csv")
        self.ids, self.kinds = ids, kinds

    def check_complete(self, modalities: list[str]) -> None:
        """Raises BadInput where a sample has no file in one of these modalities."""
        for modality in modalities:
            present = self.kinds[modality][1]
            for split, own in self.ids.items():
                if missing := [name for name in own if name not in present]:
                    raise BadInput(
                        f"{self.root / modality}: {len(missing)} of {len(own)} ids of {split}.csv "
                        f"have no file, such as {missing[0]!r}; files there are for "
                        f"{sorted(present, key=natural)[0]!r} and so on"
                    )

    @classmethod
    def modalities_at(cls, root: Path | None) -> dict[str, str]:
        """{folder below `root`: file in modalities/ that reads its files}."""
        return {modality: reader for modality, (reader, _) in cls._kinds_at(root).items()}

    @classmethod
    def _kinds_at(cls, root: Path | None) -> dict[str, tuple[str, set[str]]]:
        """{folder below `root`: `kind_of` it}, in alphabetical order.

        Folders whose name starts with a dot, and `cache`, are left out.
        """
        if root is None:
            raise BadInput(f"--dataset folder: needs --data_root DIR. {cls.how_to_prepare()}")
        names = ("train.csv", "test.csv")
        if missing := [name for name in names if not (Path(root) / name).is_file()]:
            raise BadInput(
                f"--data_root {root}: has no {', '.join(missing)}. {cls.how_to_prepare()}"
            )
        folders = sorted(f for f in Path(root).iterdir() if f.is_dir() and f.name[0] != ".")
        found = {f.name: kind_of(f) for f in folders if f.name != "cache"}
        if not found:
            raise BadInput(f"--data_root {root}: has no folder. {cls.how_to_prepare()}")
        return found

    @classmethod
    def how_to_prepare(cls) -> str:
        return (
            "DIR holds train.csv and test.csv (lines id,label) and one folder per modality "
            "(see data/README.md)"
        )

    def _labels(self, split: str) -> set[str]:
        rows = read_csv(self.root / f"{split}.csv")
        return {row[1] for row in rows if len(row) == 2 and not is_header(row)}
