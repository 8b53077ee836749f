"""One colour picture, saved as `<id>.png`."""

from dataset.modalities import image


class Modality(image.Modality):
    """Reads `<folder>/<id>.png` as (3, S, S) in [-1, 1], S = `--image_size`. No augmentation."""

    channels = 3
    mode, kind = "RGB", "colour picture"
