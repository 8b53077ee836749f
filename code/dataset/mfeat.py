"""Multiple Features (UCI): six views of a handwritten digit, each a vector."""

import dataset


class Dataset(dataset.Dataset):
    """<view>/<id>.npy (D,); ids such as d3_017, digit 3 on line 3 * 200 + 17, counted from 0."""

    name = "mfeat"
    modalities = dict.fromkeys(("fac", "fou", "kar", "mor", "pix", "zer"), "array")
    defaults = dict(encoder="mlp", mlp_width=64, num_workers=0)
    defaults |= dict(epochs=10, batch_size=64, learning_rate=0.03, schedule="cosine")
