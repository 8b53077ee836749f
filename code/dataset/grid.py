"""GRID: talking faces with sound, cut around a word of the sentence: letter, digit or colour."""

import json
from pathlib import Path

import dataset
from dataset._limits import naming

DEFAULT_ROOT = Path(__file__).resolve().parents[2] / "data" / "grid"  # without --data_root


class Dataset(dataset.Dataset):
    """audio/<id>.pt, and the pictures as one array, visual/<id>.npy, their number as its channels,
    or as frames, visual/<id>/frame_0000N.jpg; ids such as s1_bbaf2n, speaker and sentence.
    """

    name = "grid"
    modalities = {"audio": "spectrogram", "visual": "array"}
    defaults = dict(encoder="cnn", image_size=64)
    defaults |= dict(epochs=20, batch_size=32, learning_rate=0.03)

    def __init__(self, root: Path):
        super().__init__(root)
        self.modalities = self.modalities_at(self.root)

    @classmethod
    def modalities_at(cls, root: Path | None) -> dict[str, str]:
        """`frames` reads the pictures where the set at `root` was prepared with --visual frames."""
        settings = Path(root or DEFAULT_ROOT) / "settings.json"
        if settings.is_file():
            with naming(settings, what="damaged, prepare it again"):
                if json.loads(settings.read_text(encoding="utf-8"))["visual"] == "frames":
                    return cls.modalities | {"visual": "frames"}
        return cls.modalities

    @staticmethod
    def speaker_of(sample: str) -> str:
        return sample.split("_")[0]
