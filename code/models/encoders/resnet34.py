"""ResNet-34, from scratch or pretrained."""

from torchvision.models import ResNet34_Weights, resnet34

from models.encoders._pretrained import add_pretrained
from models.encoders._resnet import ResNet


class Encoder(ResNet):
    """See _resnet.py; `feature_dim` is 512."""

    add_options = staticmethod(add_pretrained)

    def __init__(self, shape, pretrained: bool = False):
        super().__init__(resnet34, ResNet34_Weights.IMAGENET1K_V1, shape, pretrained)
