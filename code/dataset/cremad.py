"""CREMA-D: 7,442 clips of 91 actors speaking in six emotions; sound and face."""

import dataset


class Dataset(dataset.Dataset):
    """The tree that the published loader reads: audio/<clip>.pt, visual/<clip>/frame_000NN.jpg.

    The published CREMA-D run is train.py's own default.
    """

    name = "cremad"
    modalities = {"audio": "spectrogram", "visual": "frames"}

    @staticmethod
    def speaker_of(sample: str) -> str:
        return sample.split("_")[0]
