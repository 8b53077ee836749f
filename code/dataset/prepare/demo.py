"""The demo set: generated clips in the raw format of CREMA-D, prepared by its own code.

    python -m dataset.prepare.demo            train.py does this by itself where the set is missing

A drawn face speaks with one of six expressions. The expression is always in the picture, but in a
few strokes and at a random place, size, tilt and colour: slow to learn. The voice has the
expression's melody, which is learnt in a few steps, but in a share of the clips it is another
expression's: sound alone ends at that ceiling, and a network that only listens never finds the
face. That imbalance is what MMPareto is about.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
import soundfile

from dataset.prepare import _preparation as preparation
from dataset.prepare import cremad
from utils.command import natural
from utils.errors import BadInput, run_command
from utils.machine import usable_cpus

from_raw = cremad.from_raw  # the demo set is prepared as CREMA-D is
ACTORS = 12
SENTENCES = ["DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI"]
SIZE_PIXELS, FRAMES_PER_SECOND, SECONDS, SAMPLE_RATE_HZ = 64, 10, 1.2, 16000
MISLEADING_VOICES = 0.3  # share of clips whose voice has another expression's melody
TEST_SHARE = 0.25
# 96 x 32 in place of the 1024 x 128 of CREMA-D, so that a CPU trains on it in minutes
SETTINGS = {"frames_per_second": 3.0, "audio": "fbank", "audio_frames": 96, "mel_bins": 32}
FLV1_TAG = 2  # how the FLV container names Sorenson H.263

# mouth curvature (+ smiles), mouth opening, slant (+ angry) and height of the brows, eye size
FACES = {
    "ANG": (-0.3, 0.1, 0.9, -0.3, 0.8),
    "DIS": (-0.8, 0.3, 0.5, 0.0, 0.5),
    "FEA": (-0.1, 0.9, -0.6, 0.8, 1.5),
    "HAP": (1.0, 0.3, 0.0, 0.4, 1.0),
    "NEU": (0.0, 0.0, 0.0, 0.0, 1.0),
    "SAD": (-1.0, 0.0, -0.9, 0.2, 0.7),
}
# pitch in Hz at the start and the end, depth and rate in Hz of the tremor, share of overtones
VOICES = {
    "ANG": (420, 300, 0.8, 11, 0.9),
    "DIS": (260, 140, 0.3, 5, 0.8),
    "FEA": (380, 560, 0.7, 8, 0.3),
    "HAP": (300, 520, 0.2, 4, 0.6),
    "NEU": (240, 240, 0.0, 4, 0.5),
    "SAD": (260, 170, 0.1, 2, 0.2),
}


def face(expression: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The frames (H, W, 3) uint8 of one clip."""
    curve, opening, slant, lift, eye = FACES[expression] + rng.normal(0, 0.12, 5)
    size = SIZE_PIXELS
    centre = size * (0.5 + rng.uniform(-0.06, 0.06, 2))
    radius, tilt = size * rng.uniform(0.36, 0.44), rng.uniform(-0.2, 0.2)
    skin, ink = rng.uniform(90, 230, 3), rng.uniform(0, 60, 3)
    patches = rng.uniform(0, 255, (5, 5, 3))
    background = cv2.resize(patches, (size, size), interpolation=cv2.INTER_CUBIC)
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    drift = rng.normal(0, 0.3, 2)

    # these three draw on the loop's `frame`, where the face is at its `step`
    def place(points):
        moved = np.asarray(points, float) @ turn.T * radius + centre + drift * step
        return np.round(moved * 16).astype(np.int32)  # cv2 takes 1/16 pixels with shift=4

    def line(points, width):
        points = [place(points)]
        cv2.polylines(frame, points, False, ink.tolist(), width, cv2.LINE_AA, shift=4)

    def disc(centre, radius, colour):
        (spot,) = place([centre]).tolist()
        cv2.circle(frame, spot, int(radius * 16), colour.tolist(), -1, cv2.LINE_AA, shift=4)

    frames = []
    for step in range(round(SECONDS * FRAMES_PER_SECOND)):
        frame = background.clip(0, 255).astype(np.uint8)
        disc([0, 0], radius, skin)
        for side in (-1, 1):
            disc([side * 0.38, -0.2], radius * 0.1 * max(eye, 0.3), ink)
            inner, outer = -0.48 - 0.15 * lift + 0.14 * slant, -0.48 - 0.15 * lift - 0.14 * slant
            line([[side * 0.18, inner], [side * 0.58, outer]], 2)
        speaking = 0.12 * (1 + np.sin(step * 2.1)) / 2
        x = np.linspace(-0.4, 0.4, 9)
        lip = 0.45 + 0.25 * curve * (0.5 - (x / 0.4) ** 2)
        gap = (0.35 * max(opening, 0) + speaking) * (1 - (x / 0.4) ** 2)
        line(np.stack([x, lip - gap / 2], 1), 1)
        line(np.stack([x, lip + gap / 2], 1), 1)
        frames.append(np.clip(frame + rng.normal(0, 12, frame.shape), 0, 255).astype(np.uint8))
    return frames


def voice(expression: str, rng: np.random.Generator) -> np.ndarray:
    """The waveform (N,) of one clip, in [-1, 1]."""
    start, end, depth, tremor_hz, overtones = VOICES[expression]
    time = np.arange(round(SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    speaker = rng.uniform(0.9, 1.1)
    vibrato = 1 + 0.02 * np.sin(2 * np.pi * 5 * time)
    pitch_hz = speaker * np.linspace(start, end, len(time)) * vibrato
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    tone = sum(overtones ** (k - 1) * np.sin(k * phase) / k for k in range(1, 7))
    tremor = 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * tremor_hz * time + rng.uniform(0, 6)))
    noise = rng.normal(0, rng.uniform(0.1, 0.4), len(time))
    wave = tone * tremor + noise
    return (0.7 * wave / np.abs(wave).max()).astype(np.float32)


def write_clip(folder: Path, clip: str, seed: int) -> None:
    """The raw files VideoFlash/<clip>.flv and AudioWAV/<clip>.wav."""
    rng = np.random.default_rng([seed, *clip.encode()])
    expression = heard = cremad.code_of(clip)
    if rng.random() < MISLEADING_VOICES:
        heard = rng.choice([code for code in cremad.CODES if code != expression])
    path = folder / "VideoFlash" / f"{clip}.flv"
    shape = (SIZE_PIXELS, SIZE_PIXELS)
    writer = cv2.VideoWriter(str(path), FLV1_TAG, FRAMES_PER_SECOND, shape)
    if not writer.isOpened():
        raise BadInput(f"{path}: this OpenCV cannot write FLV; install opencv-python-headless")
    for frame in face(expression, rng):
        writer.write(frame)
    writer.release()
    sound = folder / "AudioWAV" / f"{clip}.wav"
    soundfile.write(sound, voice(heard, rng), SAMPLE_RATE_HZ, subtype="PCM_16")


def generate(folder: Path, seed: int, actors: int = ACTORS) -> None:
    """A raw CREMA-D look-alike: `actors` x 12 sentences x 6 expressions."""
    for name in ("VideoFlash", "AudioWAV"):
        (folder / name).mkdir(parents=True)
    for actor in range(1001, 1001 + actors):
        for sentence in SENTENCES:
            for code in cremad.CODES:
                write_clip(folder, f"{actor}_{sentence}_{code}_XX", seed)


def prepare(output: Path, seed: int = 0, actors: int = ACTORS, jobs: int | None = None) -> None:
    """Generates and prepares the set; `output` appears only when it is complete.

    jobs: processes; None: as many as there are cores for them.
    """
    try:
        with preparation.new_tree(output) as tree:
            print(f"generating {actors * 72} clips in the raw format of CREMA-D", flush=True)
            raw = tree / ".raw"
            generate(raw, seed, actors)
            clips = cremad.raw_clips(raw)
            split = cremad.random_split(clips, seed, TEST_SHARE)
            raw_set = preparation.RawSet(cremad.CODES, split, clips, SETTINGS)
            preparation.prepare(raw_set, cremad.from_raw, tree, jobs or usable_cpus())
            shutil.rmtree(raw)
    except OSError:
        if not output.exists():
            raise
        print(f"{output}: another process was first; its set, the same one, is used")


def main(argv: list[str] | None = None) -> None:
    parser = preparation.command_line("demo", __doc__)
    parser.add_argument("--seed", type=natural, default=0)
    options = preparation.parse(parser, argv)
    prepare(options.output, options.seed)


if __name__ == "__main__":
    run_command(main)
