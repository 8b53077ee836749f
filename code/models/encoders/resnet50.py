"""ResNet-50, from scratch or pretrained: see _resnet.py; `feature_dim` 2048."""

from models.encoders._resnet import ResNet


class Encoder(ResNet):
    architecture = "resnet50"
