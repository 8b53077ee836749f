"""Generated clips of a face that speaks: CREMA-D's format and code paths, minutes on a CPU."""

from pathlib import Path

import dataset


class Dataset(dataset.Dataset):
    """Generated on first use, where no folder is named: see dataset/prepare/demo.py, and
    `check_there` of training/options.py."""

    name = "demo"
    modalities = {"audio": "spectrogram", "visual": "frames"}
    defaults = dict(image_size=48, epochs=8, batch_size=32)
    defaults |= dict(optimizer="adam", learning_rate=0.001, schedule="cosine")

    def __init__(self, root: Path):
        if not Path(root).exists():
            from dataset.prepare import demo  # only here: it needs the media libraries

            demo.prepare(Path(root))
        super().__init__(root)

    @classmethod
    def how_to_prepare(cls) -> str:
        return (
            "Without --data_root a run generates it in data/demo; elsewhere it is made with: "
            "sh script/prepare.sh demo --output DIR"
        )

    @staticmethod
    def speaker_of(sample: str) -> str:
        return sample.split("_")[0]
