"""ImageNet weights of torchvision for encoders with any number of input channels."""

from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from utils.errors import BadInput


def add_pretrained(parser) -> None:
    """--pretrained; once, since each modality may have an encoder of its own. Where the file is not
    to be had, building the encoder raises BadInput, see `load_weights`."""
    if not parser.declares("--pretrained"):
        parser.add_argument(
            "--pretrained", action="store_true", help="begin with torchvision's ImageNet weights"
        )


def load_weights(weights) -> dict[str, Tensor]:
    """The state dict of a member of a torchvision weights enum, from the cache or the net.

    Raises BadInput, with the path where the file belongs, where neither has it, and where the file
    is damaged.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError) as error:
        reason = f"not in the cache and not to be had ({error})"
    except Exception as error:  # a damaged pickle can fail in any way; a wrong hash is RuntimeError
        reason = f"damaged ({error})"
    raise BadInput(f"--pretrained: {reason}; get {weights.url} and put it at {path}")


def channel_mean(weight: Tensor, channels: int) -> Tensor:
    """(O, 3, k, k) weights of a first convolution -> (O, channels, k, k).

    For three channels as they are. Else the mean over colours for every channel, times
    3 / channels: the same picture in every channel then gives what a grey picture gave.
    """
    if channels == weight.shape[1]:
        return weight
    mean = weight.mean(1, keepdim=True) * (weight.shape[1] / channels)
    return mean.expand(-1, channels, -1, -1)
