"""CG-MNIST: a grey and a coloured picture of the same handwritten digit; in training the colour
tells the digit, in testing it does not."""

import dataset


class Dataset(dataset.Dataset):
    """grey/<id>.png, colour/<id>.png, 28 x 28; train_00017 = that picture of MNIST's train part."""

    name = "cgmnist"
    modalities = {"grey": "image", "colour": "image"}
    defaults = dict(encoder="conv4", image_size=28)
    defaults |= dict(epochs=10, batch_size=64, learning_rate=0.01)
