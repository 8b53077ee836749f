"""AV-MNIST: a handwritten digit (MNIST) and a spoken one (FSDD) of the same class."""

import dataset


class Dataset(dataset.Dataset):
    """audio/<id>.pt (filter bank), visual/<id>.png (28 x 28, leading components removed)."""

    name = "avmnist"
    modalities = {"audio": "spectrogram", "visual": "image"}
    defaults = dict(image_size=28, epochs=8, batch_size=64, learning_rate=0.01)
