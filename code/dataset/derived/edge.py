"""Where the picture changes: the length of its gradient."""

import cv2
import numpy as np


def derive(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Pictures (H, W, 3) blue-green-red -> (H, W), the length of Scharr's gradient of the luma,
    scaled so that a step from black to white has 255."""
    edges = []
    for picture in pictures:
        luma = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32)
        dx = cv2.Scharr(luma, cv2.CV_32F, 1, 0)
        dy = cv2.Scharr(luma, cv2.CV_32F, 0, 1)
        # Scharr's weights add up to 16 on each side
        edges.append(np.clip(np.hypot(dx, dy) / 16, 0, 255).round().astype(np.uint8))
    return edges
