"""AV-MNIST: a handwritten digit (MNIST) and a spoken one (FSDD) of the same class."""

from __future__ import annotations

from dataset.cremad import Dataset as CsvDataset


class Dataset(CsvDataset):
    """The tree that `python -m dataset.prepare.avmnist` writes; csv files as for CREMA-D.

    root/audio/<id>.pt (filter bank), root/visual/<id>.png (28 x 28, leading components removed).
    """

    name = "avmnist"
    modalities = {"audio": "spectrogram", "visual": "image"}
    defaults = dict(image_size=28, epochs=8, batch_size=64, learning_rate=0.01)
