"""CREMA-D: 7,442 clips of 91 actors speaking in six emotions; sound and face."""

from __future__ import annotations

from pathlib import Path

from utils.errors import BadInput
from utils.samples import Sample, read_csv, read_split


class Dataset:
    """The tree that `python -m dataset.prepare.cremad` writes and that the published loader reads.

    root/audio/<clip>.pt, root/visual/<clip>/frame_000NN.jpg, root/stat.csv (the class codes),
    root/train.csv and root/test.csv (lines `clip,code`). Targets: alphabetical order of the codes.
    """

    name = "cremad"
    modalities = {"audio": "spectrogram", "visual": "frames"}  # modality -> file in modalities/
    defaults: dict = {}  # of train.py's flags: the published CREMA-D run is its own default

    def __init__(self, root: Path):
        self.root = Path(root)
        missing = [
            f for f in ("stat.csv", "train.csv", "test.csv") if not (self.root / f).is_file()
        ]
        if missing:
            raise BadInput(
                f"--dataset {self.name}: {self.root} has no {', '.join(missing)}. "
                f"{self.how_to_prepare()}"
            )
        self.classes = sorted(row[0] for row in read_csv(self.root / "stat.csv"))

    @classmethod
    def how_to_prepare(cls) -> str:
        command = f"python -m dataset.prepare.{cls.name} --source DIR"
        return f"Prepare it with: {command} (see data/README.md)"

    def samples(self, split: str) -> list[Sample]:
        """Samples of "train" or "test" in the order of the file."""
        return read_split(self.root / f"{split}.csv", self.classes)
