"""ResNet-50, from scratch or pretrained."""

from models.encoders._resnet import ResNet


class Encoder(ResNet):
    """See _resnet.py; `feature_dim` is 2048."""

    architecture = "resnet50"
