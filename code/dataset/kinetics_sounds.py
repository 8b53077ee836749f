"""Kinetics-Sounds: clips of 31 Kinetics-400 classes that can be seen and heard."""

import dataset


class Dataset(dataset.Dataset):
    """audio/<id>.pt, visual/<id>/frame_000NN.jpg; -3Mwkq-7TV4_2 = YouTube's name and the second at
    which the clip starts. Three frames a clip; cached at the size Kinetics is usually stored in.
    """

    name = "kinetics_sounds"
    modalities = {"audio": "spectrogram", "visual": "frames"}
    defaults = dict(frames_per_clip=3, cache_pixels=256)
