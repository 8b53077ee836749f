"""CG-MNIST: a grey and a coloured picture of the same handwritten digit; in training the colour
tells the digit, in testing it does not."""

from __future__ import annotations

from dataset.cremad import Dataset as CsvDataset


class Dataset(CsvDataset):
    """The tree that `python -m dataset.prepare.cgmnist` writes; csv files as for CREMA-D.

    root/grey/<id>.png and root/colour/<id>.png, 28 x 28, ids such as train_00017 = that picture of
    MNIST's training part.
    """

    name = "cgmnist"
    modalities = {"grey": "image", "colour": "colour_image"}
    defaults = dict(image_size=28, epochs=10, batch_size=64, learning_rate=0.01)

    @classmethod
    def how_to_prepare(cls) -> str:
        return "Prepare it with: python -m dataset.prepare.cgmnist (see data/README.md)"
