"""Video files of any container and codec: their frames and, in audio.py, their sound."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from dataset._limits import LIMITS, check_cost, naming
from dataset.media.whole import check_whole
from utils.atomic import new_folder
from utils.errors import BadInput

COMPLETE = 0.8  # share of a stream's announced duration that must decode; containers round theirs
JPEG_QUALITY = 95


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The container of a media file. Raises BadInput where it is missing, cut short or no media."""
    check_whole(path)
    with naming(path, what="unreadable video"):
        with av.open(str(path), metadata_errors="replace") as container:
            yield container


def pictures_of(container: av.container.InputContainer) -> av.stream.Stream:
    """Its first stream of pictures. Raises BadInput where it has none."""
    if not container.streams.video:
        raise BadInput("has no video")
    return container.streams.video[0]


def with_codec(stream: av.stream.Stream) -> av.stream.Stream:
    """The stream. Raises BadInput, which `opened` names, where nothing can decode it, or its
    pictures are too large."""
    if stream.codec_context is None:
        raise BadInput("unreadable video (of an unknown codec)")
    if stream.type == "video":
        check_cost(pixels=stream.codec_context.width * stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(LIMITS["pixels"])}  # if it changes
    return stream


def decoded(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator:
    """The frames of a stream; packets that cannot be decoded are left out, as players do."""
    stream.codec_context.thread_count = 1  # preparations run a process per core already
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue


def announced_seconds(container, stream) -> float:
    """The duration that the header of an MP4 or MOV file gives this stream; 0 for other containers.

    Theirs is the longest stream's, an estimate, or a placeholder.
    """
    of_header = container.format.name.startswith("mov") and stream.duration
    return float(stream.duration * stream.time_base) if of_header else 0.0


def read_frames(path: Path, frames_per_second: float, at_least: int = 1) -> list[np.ndarray]:
    """Frames (H, W, 3), blue-green-red as OpenCV has them, at `frames_per_second` from the start
    on.

    Takes the first frame at or after each multiple of 1 / frames_per_second by the frames' own
    times, so that videos of variable rate come out right and a rate above the video's own gives
    every frame once. Turned upright as the file says.

    Raises BadInput where the file is unreadable, cut short, or gives fewer than `at_least`.
    """
    with opened(path) as container:
        stream = with_codec(pictures_of(container))
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        promised = announced_seconds(container, stream)
        frames, times, end, to_bgr = [], [], 0.0, VideoReformatter()
        for number, frame in enumerate(decoded(container, stream)):
            check_cost(frames=number)
            time = frame.time if frame.time is not None else number / (rate or 1)
            times.append(time)
            if frame.duration and frame.time_base:  # the last picture may stand for seconds
                end = max(end, time + float(frame.duration * frame.time_base))
            if (time - times[0]) * frames_per_second >= len(frames) - 1e-6:
                picture = to_bgr.reformat(frame, format="bgr24", threads=1).to_ndarray()
                frames.append(np.rot90(picture, frame.rotation // 90))
                check_cost(bytes=picture.nbytes * len(frames))
    if not times:
        raise BadInput(f"{path}: unreadable video")
    seconds = max(max(times) + (1 / rate if rate else 0), end) - min(times[0], 0)
    if seconds < COMPLETE * promised:
        raise BadInput(f"{path}: truncated, {seconds:.1f} of {promised:.1f} s")
    if len({frame.shape for frame in frames}) > 1:
        raise BadInput(f"{path}: pictures of different sizes")
    if len(frames) < at_least:
        raise BadInput(f"{path}: too short, {seconds:.1f} s give {len(frames)} frames")
    return frames


def picture_seconds(path: Path) -> float:
    """How long the pictures of a video last, by the times of its packets, since headers may give no
    duration or a wrong one. 0 for a single picture: its duration says nothing.
    """
    with opened(path) as container:
        stream = pictures_of(container)
        packets = []  # (time, duration) in ticks
        for packet in container.demux(stream):
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and not packet.is_discard:
                packets.append((time, packet.duration or 0))
                check_cost(frames=len(packets))
        tick_seconds = float(stream.time_base or 0)
    if len(packets) < 2:
        return 0.0
    times = sorted(time for time, _ in packets)
    _, last = max(packets)
    last = last or np.median(np.diff(times))  # FLV gives its packets no duration
    return float(times[-1] - times[0] + last) * tick_seconds


def write_frames(frames: list[np.ndarray], folder: Path) -> None:
    """`folder`/frame_00001.jpg and so on; the folder appears complete or not at all."""
    with new_folder(folder) as temporary:
        for number, frame in enumerate(frames, start=1):
            file = temporary / f"frame_{number:05d}.jpg"
            if not cv2.imwrite(str(file), frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
                raise OSError(f"cannot write {file}")
