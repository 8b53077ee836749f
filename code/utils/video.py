"""Video files to frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from utils.errors import BadInput

COMPLETE = 0.8  # share of the announced frames that must decode; containers round their duration


def read_frames(path: Path, frames_per_second: float) -> list[np.ndarray]:
    """Frames (H, W, 3), blue-green-red as OpenCV has them, at `frames_per_second` from the start
    on.

    Takes the first frame at or after each multiple of 1 / frames_per_second, so a rate above the
    video's own gives every frame once. Raises BadInput where the file is unreadable, cut short, or
    holds fewer than two frames.
    """
    capture = cv2.VideoCapture(str(path))
    rate, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    frames, decoded = [], 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        if rate > 0 and decoded / rate * frames_per_second >= len(frames) - 1e-6:
            frames.append(frame)
        decoded += 1
    capture.release()
    if decoded == 0 or rate <= 0:
        raise BadInput(f"{path}: unreadable video")
    if decoded == 1:
        raise BadInput(f"{path}: a single frame")
    if decoded < COMPLETE * announced:
        raise BadInput(f"{path}: truncated, {decoded} of {announced:.0f} frames")
    return frames
