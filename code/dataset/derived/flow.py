"""How the picture moves: dense optical flow from each frame of a clip to the next."""

from itertools import pairwise

import cv2
import numpy as np

from utils.errors import BadInput

LIMIT = 20.0  # pixels per frame that a channel can show


def flow_picture(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Two frames (H, W, 3) blue-green-red -> a picture (H, W, 3) uint8: down, right, length.

    OpenCV's DIS flow, medium preset. A channel is 128 + 127 x / LIMIT, clipped, for the movement
    down and to the right; 255 |x| / LIMIT for its length.

    Source: Kroeger et al. 2016; the scale of Simonyan & Zisserman 2014.
    """
    luma = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in (before, after)]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    right, down = np.moveaxis(method.calc(*luma, None), 2, 0)
    signed = [128 + 127 * x / LIMIT for x in (down, right)]
    channels = np.stack([*signed, 255 * np.hypot(down, right) / LIMIT], axis=2)
    return np.clip(channels, 0, 255).round().astype(np.uint8)


def derive(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Frames of a clip -> as many pictures, each the flow to the next frame.

    The last frame, with none after it, has the flow of the one before. Frames should lie a fraction
    of a second apart. Raises BadInput for a single frame.
    """
    if len(pictures) < 2:
        raise BadInput("flow needs clips of two frames and more")
    flow = [flow_picture(before, after) for before, after in pairwise(pictures)]
    return [*flow, flow[-1]]
