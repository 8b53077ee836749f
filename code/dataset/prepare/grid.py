"""The GRID corpus of talking faces (videos and alignments) -> dataset/grid.py.

    python -m dataset.prepare.grid --source DIR [--label letter|digit|colour]

DIR holds, at any depth, the videos (bbaf2n.mpg, or mp4) and the alignments (bbaf2n.align, lines
`start end word` in 1/25,000 s) of any number of speakers, or archives of them (s1.zip, clips.tar),
which are unpacked beside the output. A file's speaker is the nearest folder or archive above it
that is called s1, s2 and so on; without any it is s0. A video and its alignment need not lie in one
folder: they are those of one speaker and sentence.

The label is a word of the sentence that the name tells: bbaf2n is "bin blue at f two now". Sound
and pictures are cut around the middle of that word. Left out are clips that are damaged, without
alignment, or whose alignment has not six words or another one there.
"""

import argparse
import re
from pathlib import Path

import cv2
import librosa
import numpy as np
import torch
from torch import Tensor

from dataset._files import one_for_each, tell_left_out
from dataset._limits import check_cost, naming
from dataset._samples import natural
from dataset.media.audio import WINDOW_SECONDS, audible, filter_bank, resampled
from dataset.media.video import picture_seconds, write_frames
from dataset.prepare import _agreement as agreement
from dataset.prepare import _preparation as preparation
from dataset.prepare._archive import raw_with_folders
from utils.atomic import replacing
from utils.command import count, listed, positive, share
from utils.command import natural as whole_number
from utils.errors import BadInput, run_command

VIDEO_SUFFIXES = (".mpg", ".mp4", ".avi", ".mkv")
SENTENCE = re.compile("[blps][bgrw][abiw][a-vx-z][1-9z][anps]")
SPEAKER = re.compile(r"s\d+")
DIGITS = "one two three four five six seven eight nine".split()
# label -> (position of its word in the sentence and of its letter in the name, {letter: word})
LABELS = {
    "colour": (1, {"b": "blue", "g": "green", "r": "red", "w": "white"}),
    "letter": (3, {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"}),
    "digit": (4, {"z": "zero"} | {str(n): word for n, word in enumerate(DIGITS, start=1)}),
}
WORDS = 6  # of a sentence
TICKS = 25_000  # of an alignment, per second
FRAMES_PER_SECOND = 25
HEIGHT, WIDTH = 288, 360  # of the corpus's pictures
MOUTH_BOX = (186, 250, 108, 212)  # top, bottom, left, right: where the mouth of speaker s1 lies
HEIGHTS = {"mouth": 32, "whole": 72}  # of stacked pictures: half the mouth box, a quarter of all
SAMPLE_RATE_HZ = 16_000  # originals have 44.1 kHz, recoded clips often less
MEL_BINS = 64
FLOOR, LOG_MEAN, LOG_STD = 1e-4, -5.7, 3.1  # of log-mel power: as measured on letters of s1
SETTINGS = ("label", "seconds", "visual", "frames", "box", "height", "audio", "keep_mismatched")
HOW_TO_GET = (
    "--source: name the folder of the GRID corpus. This project does not download it: videos and "
    "alignments, an archive for each speaker, are at https://zenodo.org/records/3625687 (CC BY 4.0)"
)


def speaker_of(folders: list[str]) -> str:
    """The last of the folders that is called as a speaker is, s0 where none is."""
    speakers = [name.lower() for name in folders if SPEAKER.fullmatch(name.lower())]
    return speakers[-1] if speakers else "s0"


def raw_clips(source: Path, downloads: Path) -> dict[str, list[Path]]:
    """{speaker_sentence: [video, alignment]}, the video alone where there is no alignment. Raises
    BadInput where there is no video."""
    id_of, strange = {}, {}
    for path, folders in raw_with_folders(source, downloads):
        sentence, suffix = path.stem.lower(), path.suffix.lower()
        if suffix not in (*VIDEO_SUFFIXES, ".align"):
            continue
        if SENTENCE.fullmatch(sentence):
            id_of[path] = f"{speaker_of(folders)}_{sentence}"
        else:
            strange[path] = "not named like a sentence of GRID, bbaf2n"
    tell_left_out(source, strange)
    alignments = one_for_each((p for p in id_of if p.suffix.lower() == ".align"), id_of.get)
    videos = one_for_each((p for p in id_of if p.suffix.lower() != ".align"), id_of.get)
    if not videos:
        raise BadInput(
            f"--source {source}: holds no video of GRID, such as bbaf2n.mpg, in it or below it"
        )
    if alone := alignments.keys() - videos.keys():
        print(f"NOTE: {len(alone)} alignments are of no video, such as {min(alone)}", flush=True)
    return {name: [videos[name], *filter(None, [alignments.get(name)])] for name in videos}


def of_speaker(clip: str) -> str:
    return clip.split("_")[0]


def chosen_speakers(flag: str, wanted: list[str], there: list[str]) -> list[str]:
    """Those that a flag names. Raises BadInput for one that is not there."""
    if unknown := [name for name in wanted if name not in there]:
        raise BadInput(f"{flag} {','.join(unknown)}: the source has {', '.join(there)}")
    return wanted


def test_clips(labels: dict[str, str], options: argparse.Namespace) -> set[str]:
    """Clips for testing: all of some speakers, or of one speaker a seeded share of every class."""
    speakers = sorted({of_speaker(clip) for clip in labels}, key=natural)
    if len(speakers) > 1 or options.test_speakers:
        for flag in ("split_seed", "test_share"):
            if vars(options)[flag] is not None:
                raise BadInput(f"--{flag}: is of a set of one speaker; see --test_speakers")
        wanted = options.test_speakers or speakers[3::4] or speakers[-1:]
        tested = chosen_speakers("--test_speakers", wanted, speakers)
        if set(tested) == set(speakers):
            raise BadInput(f"--test_speakers {','.join(tested)}: leaves no speaker for training")
        print(f"Tested on speakers who are not heard in training: {', '.join(tested)}", flush=True)
        return {clip for clip in labels if of_speaker(clip) in tested}
    seed = options.split_seed or 0
    part = 0.2 if options.test_share is None else options.test_share
    print(
        f"NOTE: one speaker, {speakers[0]}: the speaker of the test clips is heard in training. "
        f"A random split, --split_seed {seed}: {part:g} of every class for testing",
        flush=True,
    )
    return preparation.random_share(labels, seed, part)


def find_raw(options: argparse.Namespace) -> preparation.RawSet:
    take_region(options)
    clips = raw_clips(options.source, options.output.parent / ".download")
    if options.speakers:
        there = sorted({of_speaker(clip) for clip in clips}, key=natural)
        wanted = chosen_speakers("--speakers", options.speakers, there)
        clips = {clip: files for clip, files in clips.items() if of_speaker(clip) in wanted}
    position, words = LABELS[options.label]
    labels = {clip: words[clip.split("_")[1][position]] for clip in clips}
    classes = [word for word in words.values() if word in labels.values()]
    if lacking := [word for word in words.values() if word not in classes]:
        print(f"NOTE: no clip of {len(lacking)} classes: {', '.join(lacking)}", flush=True)
    test = test_clips(labels, options)
    split = {
        "train": {clip: label for clip, label in labels.items() if clip not in test},
        "test": {clip: label for clip, label in labels.items() if clip in test},
    }
    settings = {flag: vars(options)[flag] for flag in SETTINGS}
    return preparation.RawSet(sorted(classes), split, clips, settings)


def take_region(options: argparse.Namespace) -> None:
    """Fills in `box` and `height` of the pictures. Raises BadInput for flags that do not fit."""
    if options.region == "whole" and options.mouth_box:
        raise BadInput("--mouth_box: is of --region mouth, not whole")
    if options.visual == "frames" and options.height:
        raise BadInput("--height: is of --visual stack; frames are resized by train.py")
    if options.frames > options.seconds * FRAMES_PER_SECOND:
        raise BadInput(
            f"--frames {options.frames}: {options.seconds:g} s, --seconds, are "
            f"{int(options.seconds * FRAMES_PER_SECOND)} pictures"
        )
    whole = 0, HEIGHT, 0, WIDTH
    options.box = list(options.mouth_box or MOUTH_BOX if options.region == "mouth" else whole)
    if options.visual == "stack":
        options.height = options.height or HEIGHTS[options.region]


def words_of(path: Path) -> list[tuple[float, float, str]]:
    """(start, end, word) of each word of an alignment, in seconds, without the pauses."""
    words: list[tuple[float, float, str]] = []
    with naming(path):
        check_cost(bytes_of_text=path.stat().st_size)
        text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.splitlines(), start=1):
        row = line.split()
        if not row:
            continue
        if len(row) != 3 or not all(time.isdecimal() for time in row[:2]):
            raise BadInput(f"{path} line {number}: expected `start end word`, got {line.strip()!r}")
        start, end = (int(time) / TICKS for time in row[:2])
        if not (words[-1][1] if words else 0) <= start <= end:
            raise BadInput(f"{path} line {number}: from {start:g} to {end:g} s, after the others")
        if row[2] not in ("sil", "sp"):
            words.append((start, end, row[2].lower()))
    if len(words) != WORDS:
        raise BadInput(f"{path}: has {len(words)} words, a sentence of GRID {WORDS}")
    return words


def start_of_cut(video: Path, alignment: Path, clip_seconds: float, settings: dict) -> float:
    """The second at which the cut begins: the word in its middle, as far as the clip reaches.

    Raises BadInput where the alignment has another word than the video's name, if that is a
    sentence, or where the clip ends within the word or is shorter than the cut.
    """
    position, words = LABELS[settings["label"]]
    start, end, word = words_of(alignment)[position]
    named = words[video.stem[position].lower()] if SENTENCE.fullmatch(video.stem.lower()) else word
    if word != named:
        raise BadInput(f"{alignment}: says {word!r} where {named!r} is in the name")
    if max(end, settings["seconds"]) > clip_seconds:
        raise BadInput(
            f"{video}: too short, {clip_seconds:.2f} s; {word!r} ends at {end:.2f} s and "
            f"{settings['seconds']:g} s are cut"
        )
    begin = (start + end - settings["seconds"]) / 2
    return min(max(begin, 0.0), clip_seconds - settings["seconds"])


def stacked(pictures: list[np.ndarray], box: list[int], height: int) -> np.ndarray:
    """(pictures, H, W) float32 in [-1, 1]: grey, `height` high and as wide as their box tells."""
    top, bottom, left, right = box
    size = round(height * (right - left) / (bottom - top)), height
    grey = [cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in pictures]
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in grey]
    return np.stack(small).astype(np.float32) / 127.5 - 1


def log_mel(samples: np.ndarray) -> Tensor:
    """(log(mel power + FLOOR) - LOG_MEAN) / LOG_STD, (1 + 100 per second, MEL_BINS), of sound at
    SAMPLE_RATE_HZ; Hann window of 512 samples, 10 ms shift."""
    power = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE_HZ, n_fft=512, hop_length=SAMPLE_RATE_HZ // 100, n_mels=MEL_BINS
    )
    return torch.from_numpy((np.log(power.T + FLOOR) - LOG_MEAN) / LOG_STD).float()


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """Sound and pictures around a word, of a video and its alignment."""
    alignments = [path for path in files if path.suffix.lower() == ".align"]
    videos = [path for path in files if path not in alignments]
    if len(videos) != 1 or len(alignments) != 1:
        raise BadInput(
            f"{files[0]}: a video and its alignment, {files[0].stem}.align of the same speaker, "
            "are needed"
        )
    (video,), (alignment,) = videos, alignments
    is_stack = settings["visual"] == "stack"
    tensor_file = output / "audio" / f"{name}.pt"
    visual = output / "visual" / (f"{name}.npy" if is_stack else name)
    if tensor_file.is_file() and visual.exists():
        return
    reading = {"frames_per_second": FRAMES_PER_SECOND} | settings
    frames, samples, sample_rate_hz = agreement.read_clip(video, video, reading)
    of_pictures = picture_seconds(video)
    clip_seconds = min(of_pictures, len(samples) / sample_rate_hz)
    seconds, number = settings["seconds"], settings["frames"]
    begin = start_of_cut(video, alignment, clip_seconds, settings)

    sound, rate_hz = resampled(samples, sample_rate_hz, SAMPLE_RATE_HZ)
    first = round(begin * rate_hz)
    sound = audible(video, sound[first : first + round(seconds * rate_hz)], rate_hz)
    if settings["audio"] == "log_mel":
        tensor = log_mel(sound)
    else:
        length = 1 + int((seconds - WINDOW_SECONDS) * 100 + 1e-6)
        tensor = filter_bank(sound, rate_hz, MEL_BINS, length)

    times = begin + (np.arange(number) + 0.5) * seconds / number
    shown = [frames[int(time * len(frames) / of_pictures)] for time in times]
    height, width = shown[0].shape[:2]
    scaled = np.multiply(settings["box"], np.repeat([height / HEIGHT, width / WIDTH], 2))
    top, bottom, left, right = scaled.round().astype(int)
    pictures = [np.ascontiguousarray(frame[top:bottom, left:right]) for frame in shown]
    if not visual.exists():
        if is_stack:
            with replacing(visual) as temporary, open(temporary, "wb") as file:
                np.save(file, stacked(pictures, settings["box"], settings["height"]))
        else:
            write_frames(pictures, visual)
    preparation.save_tensor(tensor, tensor_file)


def box(text: str) -> tuple[int, int, int, int]:
    """The type of --mouth_box."""
    edges = listed(whole_number)(text)
    if len(edges) != 4 or not (edges[0] < edges[1] <= HEIGHT and edges[2] < edges[3] <= WIDTH):
        raise argparse.ArgumentTypeError(
            f"{text}: must be top,bottom,left,right within {HEIGHT} rows and {WIDTH} columns"
        )
    return tuple(edges)


def main(argv: list[str] | None = None) -> None:
    source = "folder of the videos and alignments, or of archives of them, or one archive"
    parser = preparation.command_line("grid", __doc__, source)
    add = parser.add_argument
    add("--label", choices=sorted(LABELS), default="letter", help="the word that is the class")
    add("--seconds", type=positive, default=0.5, help="that are cut around the word")
    add("--region", choices=("mouth", "whole"), default="mouth", help="of the pictures")
    add(
        "--mouth_box",
        type=box,
        metavar="top,bottom,left,right",
        help=f"in pixels of {WIDTH} x {HEIGHT}, scaled to pictures of other sizes; default "
        f"{','.join(map(str, MOUTH_BOX))}, where the mouth of speaker s1 lies; look whether the "
        "others' do",
    )
    add(
        "--visual",
        choices=("stack", "frames"),
        default="stack",
        help="grey pictures as the channels of one array, or coloured frames of a clip",
    )
    add("--frames", type=count, default=8, metavar="N", help="pictures, evenly over the seconds")
    help_text = f"of the pictures of a stack; default {HEIGHTS['mouth']}, {HEIGHTS['whole']} whole"
    add("--height", type=count, metavar="PIXELS", help=help_text)
    add(
        "--audio",
        choices=("log_mel", "filter_bank"),
        default="log_mel",
        help=f"log-mel spectrogram, or Kaldi filter bank; {MEL_BINS} bands of 16 kHz, every 10 ms",
    )
    add("--speakers", type=listed(str), metavar="s1,s2", help="only these")
    help_text = "these are for testing; default: every fourth, at least one"
    add("--test_speakers", type=listed(str), metavar="s3", help=help_text)
    help_text = "of the random split, where there is one speaker; default 0"
    add("--split_seed", type=whole_number, metavar="N", help=help_text)
    help_text = "of every class is for testing, where there is one speaker; default 0.2"
    add("--test_share", type=share, metavar="SHARE", help=help_text)
    agreement.add_options(parser)  # --keep_mismatched
    preparation.run(parser, find_raw, from_raw, HOW_TO_GET, argv)


if __name__ == "__main__":
    run_command(main)
