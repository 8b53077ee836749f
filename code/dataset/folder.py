"""Your own data: --data_root DIR with train.csv, test.csv and one folder per modality."""

from itertools import combinations
from pathlib import Path
from statistics import median

import soundfile

import dataset
from dataset._files import LEFTOVER, entries_of, id_of, look_into, tell_left_out
from dataset._samples import natural, read_labels
from dataset.modalities import frames, waveform
from utils import registry
from utils.errors import BadInput


def kind_of(folder: Path) -> str:
    """The file in modalities/ that reads a modality's folder: `frames` a folder for each sample,
    the others files with the suffixes that they name.

    Raises BadInput for a suffix that nothing reads, for two kinds, and for two files of one id.
    """
    readers = {}
    for name in registry.names("dataset/modalities"):
        reader = registry.load_class("dataset/modalities", name, "--modalities")
        readers |= dict.fromkeys(reader.suffixes, name)
    examples: dict[str, str] = {}  # kind -> its first entry
    entries: dict[str, str] = {}  # id -> its entry
    for entry in entries_of(folder):
        suffix = "" if entry.is_dir() else entry.suffix.lower()
        if suffix not in readers:
            known = ", ".join(sorted(filter(None, readers)))
            raise BadInput(f"{entry}: no modality reads it; a folder of frames, or one of {known}")
        name = id_of(entry)
        if name in entries:
            raise BadInput(f"{folder}: two files for {name}, {entries[name]} and {entry.name}")
        entries[name] = entry.name
        examples.setdefault(readers[suffix], entry.name)
    if len(examples) != 1:
        raise BadInput(
            f"{folder}: {' and '.join(examples.values()) or 'empty'}; one kind of file is needed"
        )
    return next(iter(examples))


def length(kind: str, folder: Path, sample_id: str) -> float:
    """Frames of a clip, seconds of a recording; 0 where the file says nothing."""
    if kind == "frames":
        return len(frames.pictures_in(folder / sample_id))
    try:
        return soundfile.info(waveform.Modality(folder, train=False).path(sample_id)).duration
    except (OSError, RuntimeError):
        return 0.0  # reading it will say what is wrong


class Dataset(dataset.Dataset):
    """DIR/train.csv and DIR/test.csv (lines `id,label`; a first line `id,label` is left out) and
    DIR/<modality>/<id>.<suffix>, or DIR/<modality>/<id>/ with the frames of a clip.

    Classes: the labels of train.csv in natural order. Raises BadInput for labels that only test.csv
    has, and for an id in both or twice or that is no plain name.
    """

    name = "folder"

    def __init__(self, root: Path):
        self.root = Path(root)
        self.modalities = self.modalities_at(self.root)
        train = read_labels(self.root / "train.csv")
        test = read_labels(self.root / "test.csv")
        self.classes = sorted(set(train.values()), key=natural)
        if len(self.classes) < 2:
            raise BadInput(
                f"{self.root / 'train.csv'}: needs lines id,label with at least two labels, has "
                f"{self.classes or 'none'}"
            )
        if unknown := sorted(set(test.values()) - set(train.values()), key=natural):
            raise BadInput(f"{self.root / 'test.csv'}: not in train.csv: {', '.join(unknown)}")
        if both := train.keys() & test.keys():
            raise BadInput(f"{self.root}: {min(both)!r} is in train.csv and in test.csv")

    def check_complete(self, present: dict[str, set[str]]) -> None:
        """Raises BadInput where a sample has no file in one of these modalities. Warns of samples
        whose clips and recordings last otherwise than each other."""
        for modality, ids in present.items():
            tell_left_out(self.root / modality, look_into(self.root / modality)[1])
            for split in ("train", "test"):
                samples = self.samples(split)
                if missing := [sample.id for sample in samples if sample.id not in ids]:
                    some = ", ".join(repr(name) for name in sorted(ids, key=natural)[:3])
                    raise BadInput(
                        f"{self.root / modality}: {len(missing)} of {len(samples)} ids of "
                        f"{split}.csv have no file, such as {missing[0]!r}; files there are for "
                        f"{some or 'nothing'}"
                    )
        timed = [m for m in present if self.modalities[m] in ("frames", "waveform")]
        for first, second in combinations(timed, 2):
            self._warn_of_lengths(first, second)

    def _warn_of_lengths(self, first: str, second: str) -> None:
        """Frames have no rate here, so the usual frames per second of sound is taken as theirs,
        where at least 9 of 10 samples have it."""
        from dataset.prepare._agreement import SHARE  # only here: it needs torchaudio and librosa

        ratio = {}
        for sample in self.samples("train") + self.samples("test"):
            lengths = [
                length(self.modalities[m], self.root / m, sample.id) for m in (first, second)
            ]
            ratio[sample.id] = lengths[0] / lengths[1] if lengths[1] else 0.0
        usual = median(ratio.values())
        odd = [name for name, r in ratio.items() if min(r, usual) < SHARE * max(r, usual)]
        if odd and len(odd) <= len(ratio) / 10:
            few = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
            count = f"{len(odd)} of {len(ratio)}"
            print(f"  WARNING: {count} last otherwise in {first} and {second}: {few}")

    @classmethod
    def modalities_at(cls, root: Path | None) -> dict[str, str]:
        """{folder below `root`: file in modalities/ that reads its files}, in alphabetical order.

        `cache` is left out, and what no data set means, see dataset/_files.py.
        """
        if root is None:
            raise BadInput(f"--dataset folder: needs --data_root DIR. {cls.how_to_prepare()}")
        cls._check_files(Path(root), "train.csv", "test.csv")
        entries, left_out = look_into(Path(root))
        entries += [f for f in left_out if left_out[f] != LEFTOVER]  # refused by its name later on
        folders = [f for f in entries if f.is_dir() and f.name != "cache"]
        modalities = {f.name: kind_of(f) for f in folders}
        if not modalities:
            raise BadInput(f"--data_root {root}: has no folder. {cls.how_to_prepare()}")
        return modalities

    @classmethod
    def name_of(cls, root: Path) -> str:
        return root.resolve().name or cls.name

    @classmethod
    def how_to_prepare(cls) -> str:
        return (
            "DIR holds train.csv and test.csv (lines id,label) and one folder per modality "
            "(see data/README.md)"
        )
