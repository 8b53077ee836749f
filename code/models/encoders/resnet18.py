"""ResNet-18, with the published initialisation or pretrained: see _resnet.py; `feature_dim` 512."""

from models.encoders._resnet import ResNet


class Encoder(ResNet):
    architecture = "resnet18"
