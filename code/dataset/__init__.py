"""Which samples there are: one file per data set, chosen by `--dataset <file name>`.

A file `dataset/X.py` exports a `class Dataset` that derives from the one below.
"""

from pathlib import Path

from dataset._samples import Sample, read_csv, read_split
from utils.errors import BadInput
from utils.registry import Contract


class Dataset(Contract):
    """A prepared tree, see data/README.md: root/stat.csv (the class names), root/train.csv and
    root/test.csv (lines `id,class`), root/<modality>/<id>... Targets: alphabetical order of names.

    Built as Dataset(root). Raises BadInput naming the command that prepares the set where a file is
    missing.
    """

    name = ""
    modalities: dict[str, str] = {}  # modality -> the file in modalities/ that reads it
    defaults: dict[str, object] = {}  # flags of train.py that this set wants otherwise
    root: Path
    classes: list[str]  # targets are their positions

    def __init__(self, root: Path):
        self.root = Path(root)
        self._check_files(self.root, "stat.csv", "train.csv", "test.csv")
        self.classes = sorted(row[0] for row in read_csv(self.root / "stat.csv"))

    @classmethod
    def modalities_at(cls, root: Path | None) -> dict[str, str]:
        """{modality: file in modalities/} of the set at `root`: the same for every root here."""
        del root
        return cls.modalities

    @classmethod
    def name_of(cls, root: Path) -> str:
        """What runs on the set at `root` are called after."""
        del root
        return cls.name

    @classmethod
    def how_to_prepare(cls) -> str:
        return f"Prepare it with: sh script/prepare.sh {cls.name} (see data/README.md)"

    @staticmethod
    def speaker_of(sample: str) -> str:
        """Whose a sample is, by its id, for --val_speakers; "" where the set does not tell."""
        del sample
        return ""

    def samples(self, split: str) -> list[Sample]:
        """Samples of "train" or "test" in the order of the file."""
        return read_split(self.root / f"{split}.csv", self.classes)

    def check_complete(self, present: dict[str, set[str]]) -> None:
        """Raises BadInput if a sample lacks a modality, where none may; by default it is left out.

        present: {modality: ids that have a file}.
        """

    @classmethod
    def _check_files(cls, root: Path, *names: str) -> None:
        if missing := [name for name in names if not (root / name).is_file()]:
            raise BadInput(
                f"--dataset {cls.name}: {root} has no {', '.join(missing)}. {cls.how_to_prepare()}"
            )
