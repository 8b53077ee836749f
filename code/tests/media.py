"""Real media files for tests, of any container and codec; what a preparation reports."""

import json
import struct
from fractions import Fraction

import av
import numpy as np

RATE_HZ = 22050
TICKS = 1000  # per second, of the frames' times


WIDTH, HEIGHT = 64, 48


NO_DURATION = {  # how a container is written that does not say how long it is
    ".flv": {"flvflags": "no_duration_filesize"},
    ".mkv": {"live": "1"},
    ".mp4": {"movflags": "frag_keyframe+empty_moov"},
}


def write_media(
    path,
    video="libx264",
    audio="aac",
    times=None,
    seconds=3.0,
    loud=0.5,
    moves=0,
    still=False,
    options=None,
):
    """A file of `seconds` whose top left quarter is dark, the rest brighter with every second.

    video, audio: names of encoders, None for no such track; times: of the frames in seconds, by
    default 10 a second; loud: peak of the 440 Hz on the left, 0 on the right; moves: pixels per
    frame, to the right, of waves in their place; still: the first picture all the time; options:
    of the container.
    """
    times = np.arange(0, seconds, 0.1) if times is None else times
    packets = []
    with av.open(str(path), "w", options=options or {}) as container:
        if video:
            stream = container.add_stream(video, rate=10)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS)
            if video == "mpeg4":  # counts ticks with 16 bits
                stream.codec_context.time_base = Fraction(1, 10)
        if audio:
            rate_hz = 48000 if audio == "libopus" else RATE_HZ
            sound = container.add_stream(audio, rate=rate_hz, layout="stereo")
            time = np.arange(round(seconds * rate_hz)) / rate_hz
            left = (loud * 2**15 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
            samples = np.stack([left, np.zeros_like(left)], 1).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.rate, frame.pts = rate_hz, 0
            packets += sound.encode(frame)
            packets += sound.encode(None)
        if video:
            for number, time in enumerate(times):
                shown = 0 if still else time
                picture = np.full((HEIGHT, WIDTH, 3), 80 + 40 * int(shown + 1e-6) % 160, np.uint8)
                picture[: HEIGHT // 2, : WIDTH // 2] = 20
                if moves and not still:
                    x, y = np.arange(WIDTH) - moves * number, np.arange(HEIGHT)[:, None]
                    waves = np.sin(x * 6 * np.pi / WIDTH) * np.sin(y * 6 * np.pi / HEIGHT)
                    picture[:] = 128 + 100 * waves[..., None]
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = round(float(time) / stream.codec_context.time_base)
                frame.time_base = stream.codec_context.time_base
                packets += stream.encode(frame)
            packets += stream.encode(None)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def problems_of(root):
    """{id: what is wrong with it} of a prepared tree."""
    return json.loads((root / "report.json").read_text())["problems"]


def turn(path):
    """Writes the display matrix of a quarter turn into an mp4, as phones do."""
    content = bytearray(path.read_bytes())
    matrix = [0, 1, 0, -1, 0, 0, 0, 0, 2**14]  # 16.16 fixed point, the last 2.30
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = struct.pack(">9i", *(v * 2**16 for v in matrix))
    path.write_bytes(content)
