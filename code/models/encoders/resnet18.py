"""ResNet-18, from scratch with the published initialisation or pretrained."""

from models.encoders._resnet import ResNet


class Encoder(ResNet):
    """See _resnet.py; `feature_dim` is 512."""

    architecture = "resnet18"
