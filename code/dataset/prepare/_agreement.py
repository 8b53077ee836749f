"""Whether the files of a sample agree on how long it lasts: one rule for all preparations."""

import argparse
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dataset.media.audio import WINDOW_SECONDS, Silent, read_sound_track, read_waveform
from dataset.media.video import picture_seconds, read_frames
from dataset.prepare._preparation import Disagreement

# The shortest must last this share of the longest. Among CREMA-D's 7,442 clips (sizes of the MP3 of
# their videos, 256 kbit/s, and of their WAV, in its Git-LFS pointers) 7,438 have 0.658 and more,
# four have 0.334 and less.
SHARE = 0.6
# A picture is still if none of BLOCKS x BLOCKS blocks ever differs by more than these of 255 levels
# from the first frame. Stills that are encoded at CREMA-D's 1 Mbit/s: up to 5; the quietest of 86
# talking faces of GRID: 17.
STILL, BLOCKS = 5, 32


class Length(NamedTuple):
    """How long something of a sample lasts."""

    seconds: float
    what: str  # "of sound"
    is_empty: bool = False  # a still picture, silence: nothing happens in it


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep_mismatched",
        action="store_true",
        help="prepare clips, too, that are left out since their durations disagree or nothing "
        "happens in them",
    )


def check_agreement(path: Path, lengths: list[Length]) -> None:
    """Raises Disagreement where the shortest is less than 0.6 of the longest, or all last 0 s.

    What is empty counts as 0 s.
    """
    seconds = [0.0 if length.is_empty else length.seconds for length in lengths]
    if min(seconds) < SHARE * max(seconds) or max(seconds) == 0:
        lasting = " beside ".join(f"{length.seconds:.1f} s {length.what}" for length in lengths)
        raise Disagreement(f"{path}: {lasting}")


def is_still(frames: list[np.ndarray]) -> bool:
    """Whether nothing ever moves in two frames or more."""
    small = [
        cv2.resize(np.ascontiguousarray(frame), (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    return len(small) > 1 and max(cv2.absdiff(f, small[0]).max() for f in small[1:]) <= STILL


def read_clip(
    video: Path, sound: Path, settings: dict, at_least: int = 1, promised: float | None = None
) -> tuple[list[np.ndarray], np.ndarray, int]:
    """(frames, mono samples, their rate in Hz) of a clip; `sound` may be the video itself.

    settings: frames_per_second, and keep_mismatched where that is true. promised: seconds that the
    clip's name gives. Raises BadInput where a file is unusable, Disagreement where they disagree.
    """
    keep = settings.get("keep_mismatched", False)  # older runs do not have it
    if promised and not keep:  # before a whole film is decoded
        lengths = [Length(picture_seconds(video), "of picture"), Length(promised, "by its name")]
        if lengths[0].seconds > promised:
            check_agreement(video, lengths)
    frames = read_frames(video, settings["frames_per_second"], at_least)
    read_sound = read_sound_track if sound == video else read_waveform
    is_silent = False
    try:
        samples, sample_rate_hz = read_sound(sound)
    except Silent as silence:
        samples, sample_rate_hz = silence.sound
        is_silent = True
        if keep and len(samples) < WINDOW_SECONDS * sample_rate_hz:
            raise
    if not keep:
        still, heard = is_still(frames), len(samples) / sample_rate_hz
        lengths = [
            Length(picture_seconds(video), "of a still picture" if still else "of picture", still),
            Length(heard, "of silent sound" if is_silent else "of sound", is_silent),
        ]
        if promised:
            lengths.append(Length(promised, "by its name"))
        check_agreement(video, lengths)
    return frames, samples, sample_rate_hz
