"""Kinetics-400 clips of the 31 sounding classes -> dataset/kinetics_sounds.py.

    python -m dataset.prepare.kinetics_sounds --source DIR

DIR holds the clips of a Kinetics-400 download at any depth, named as the usual download tools name
them, <YouTube id>_<start>_<end>.mp4 or <YouTube id>_<start>.mp4 (other containers too). Which
clips, and their labels:

    --split published   the lists of OGM-GE, my_train.txt and my_test.txt, 14,799 / 2,597 clips,
                        downloaded, or taken from --split_dir
    --split kinetics    DIR/train/<class>/ and DIR/test/<class>/ (val where there is no test), or
                        the annotations train.csv and test.csv of Kinetics in DIR

Sound becomes a mono Kaldi filter bank at its own rate, pictures one frame per second. Clips without
sound, too short or unreadable are left out, and those that do not last as long as their name says
(10 s where it gives no end): whole videos that were never cut, and the ends of videos.
"""

import argparse
import re
from functools import partial
from pathlib import Path

from dataset._files import files_below, one_for_each, raw_files, tell_left_out
from dataset._samples import read_csv
from dataset.media.audio import filter_bank
from dataset.media.video import write_frames
from dataset.modalities import waveform
from dataset.prepare import _agreement as agreement
from dataset.prepare import _preparation as preparation
from utils.command import count, positive
from utils.errors import BadInput, run_command

# The 34 classes of Arandjelovic & Zisserman 2017 under the names they have in Kinetics-400, without
# typing, fingerpicking and patting, which have no class of that meaning there.
CLASSES = (
    "blowing nose, blowing out candles, bowling, chopping wood, dribbling basketball, laughing, "
    "mowing lawn, playing accordion, playing bagpipes, playing bass guitar, playing clarinet, "
    "playing drums, playing guitar, playing harmonica, playing keyboard, playing organ, "
    "playing piano, playing saxophone, playing trombone, playing trumpet, playing violin, "
    "playing xylophone, ripping paper, shoveling snow, shuffling cards, singing, stomping grapes, "
    "tap dancing, tapping guitar, tapping pen, tickling"
).split(", ")
SETTINGS = (
    "frames_per_second",
    "min_frames",
    "audio_frames",
    "mel_bins",
    "keep_mismatched",
)  # flags
CLIP_SECONDS = 10  # of every clip of Kinetics
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".flv", ".mov", ".mpg")
PUBLISHED_COUNTS = {"train": 14799, "test": 2597}
LIST_HOME = (
    "https://raw.githubusercontent.com/GeWu-Lab/OGM-GE_CVPR2022/"
    "149c68e5987f92484dd30cd468d444f6d98f57bd/data/KineticSound/"
)
HOW_TO_GET = (
    "--source: name the folder of your Kinetics-400 clips. They belong to those who put them on "
    "YouTube, so this project does not download them. The CVD Foundation hosts Kinetics-400 "
    "(450 GB): https://github.com/cvdfoundation/kinetics-dataset\n"
    "Only the clips of 31 classes are used; what is missing is named."
)


NAME = re.compile(r"([\w-]{11})_(\d+)(?:_(\d+))?", re.ASCII)  # <YouTube id>_<start>[_<end>]


def clip_of(name: str) -> str | None:
    """The id <YouTube id>_<second> of a clip named <id>_<start>[_<end>]; None for another name."""
    match = NAME.fullmatch(name)
    return f"{match[1]}_{int(match[2])}" if match else None


def promised_seconds(name: str) -> float | None:
    """How long a clip of that name should last; None for another name."""
    match = NAME.fullmatch(name)
    if not match:
        return None
    start, end = int(match[2]), int(match[3] or 0)
    return end - start if end > start else CLIP_SECONDS


def raw_clips(source: Path) -> dict[str, Path]:
    """All clips below `source`. Raises BadInput where there is none."""
    files = [path for path in raw_files(source) if path.suffix.lower() in SUFFIXES]
    strange = {p: "not named <YouTube id>_<start>_<end>" for p in files if not clip_of(p.stem)}
    tell_left_out(source, strange)
    clips = one_for_each(files, lambda path: clip_of(path.stem))
    if not clips:
        raise BadInput(
            f"--source {source}: holds no clip named <YouTube id>_<start>_<end> with one of "
            + ", ".join(SUFFIXES)
        )
    return clips


def class_of(folder: str) -> str | None:
    """The class whose name a folder has, with blanks or underscores; None for another name."""
    name = folder.replace("_", " ")
    return name if name in CLASSES else None


def published_lists(folder: Path | None, downloads: Path) -> dict[str, dict[str, int]]:
    """{"train" | "test": {clip: number of its class}} of OGM-GE's lists, `id_start,10,number`.

    folder: where the lists lie, None to download them.
    """
    lists = {}
    for part in ("train", "test"):
        name, read = f"my_{part}.txt", partial(read_published, part)
        urls = [f"{LIST_HOME}{name}"]
        lists[part] = preparation.find_or_fetch(name, urls, downloads, folder, read, "--split_dir")
    return lists


def read_published(part: str, path: Path) -> dict[str, int]:
    """{clip: number of its class} of a list, if it is as published."""
    numbers = {}
    for line, row in enumerate(read_csv(path), start=1):
        clip = clip_of(row[0])
        if len(row) != 3 or not clip or not row[2].isdecimal() or int(row[2]) >= len(CLASSES):
            raise BadInput(
                f"{path} line {line}: expected <YouTube id>_<start>,10,<class 0 to "
                f"{len(CLASSES) - 1}>, got {','.join(row)!r}"
            )
        numbers[clip] = int(row[2])
    if len(numbers) != PUBLISHED_COUNTS[part]:
        raise BadInput(
            f"{path}: {len(numbers)} clips, the published list has {PUBLISHED_COUNTS[part]}"
        )
    return numbers


def name_classes(lists: dict[str, dict[str, int]], clips: dict[str, Path]) -> list[str]:
    """The names of the published lists' numbers, read off the folders of the clips.

    The lists have numbers only; those whose clips lie in no folder of a class keep the number as
    their name. Raises BadInput where a number's clips lie in folders of different classes.
    """
    names: dict[int, str] = {}
    for numbers in lists.values():
        for clip, number in numbers.items():
            name = class_of(clips[clip].parent.name) if clip in clips else None
            if name and names.setdefault(number, name) != name:
                raise BadInput(
                    f"{clips[clip]}: class {number} of the list, as clips in {names[number]!r} are"
                )
    if len(set(names.values())) < len(names):
        raise BadInput("two classes of the list have their clips in folders of one class")
    return [names.get(number, f"{number:02d}") for number in range(len(CLASSES))]


def kinetics_split(source: Path, clips: dict[str, Path]) -> dict[str, dict[str, str]]:
    """{"train" | "test": {clip: class}} by Kinetics' annotations, or by its folders."""
    split: dict[str, dict[str, str]] = {}
    for part, names in {"train": ["train"], "test": ["test", "val", "validate"]}.items():
        for name in names:
            labels = annotated(source, name) or by_folder(source, name, clips)
            if labels:
                split[part] = labels
                break
        else:
            raise BadInput(
                f"--source {source}: no {part} clips, neither in {' or '.join(names)}/<class>/ "
                f"nor by {part}.csv with columns label,youtube_id,time_start; "
                "or use --split published"
            )
    return split


def annotated(source: Path, name: str) -> dict[str, str]:
    """{clip: class} of the 31 classes by <name>.csv of Kinetics, if there is one."""
    path = next((path for path in files_below(source) if path.name == f"{name}.csv"), None)
    if path is None:
        return {}
    header, *rows = read_csv(path) or [[]]
    if missing := {"label", "youtube_id", "time_start"} - set(header):
        raise BadInput(f"{path}: has no column {', '.join(sorted(missing))}")
    label, youtube_id, start = (header.index(c) for c in ("label", "youtube_id", "time_start"))
    labels = {}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header) or not row[start].replace(".", "", 1).isdecimal():
            raise BadInput(f"{path} line {line}: expected {','.join(header)}, got {','.join(row)}")
        if row[label] in CLASSES:
            labels[f"{row[youtube_id]}_{int(float(row[start]))}"] = row[label]
    return labels


def by_folder(source: Path, name: str, clips: dict[str, Path]) -> dict[str, str]:
    """{clip: class} of the clips in <name>/<class>/."""
    labels = {}
    for clip, path in clips.items():
        folder = path.relative_to(source).parent
        if name in folder.parts[:-1] and (label := class_of(folder.name)):
            labels[clip] = label
    return labels


def find_raw(options: argparse.Namespace) -> preparation.RawSet:
    clips = raw_clips(options.source)
    if options.split == "published":
        lists = published_lists(options.split_dir, options.output / ".download")
        classes = name_classes(lists, clips)
        split = {
            part: {clip: classes[number] for clip, number in numbers.items()}
            for part, numbers in lists.items()
        }
    else:
        split = kinetics_split(options.source, clips)
        there = {label for labels in split.values() for label in labels.values()}
        classes = [name for name in CLASSES if name in there]
        if lacking := [name for name in CLASSES if name not in there]:
            print(f"NOTE: no clip of {len(lacking)} classes: {', '.join(lacking)}", flush=True)
    listed = [clip for part in split.values() for clip in part]
    files = {clip: [clips[clip]] if clip in clips else [] for clip in listed}
    settings = {flag: vars(options)[flag] for flag in SETTINGS}
    return preparation.RawSet(classes, split, files, settings)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """Filter bank and frames of a clip of one video with sound."""
    if len(files) > 1:
        raise BadInput(f"{files[0]}: one video with sound, not {len(files)} files")
    bank_file, folder = output / "audio" / f"{name}.pt", output / "visual" / name
    if bank_file.is_file() and folder.is_dir():
        return
    video = files[0]
    frames, samples, sample_rate_hz = agreement.read_clip(
        video, video, settings, settings["min_frames"], promised_seconds(video.stem)
    )
    bank = filter_bank(samples, sample_rate_hz, settings["mel_bins"], settings["audio_frames"])
    if not folder.is_dir():
        write_frames(frames, folder)
    preparation.save_tensor(bank, bank_file)


def main(argv: list[str] | None = None) -> None:
    source = "folder of the Kinetics-400 clips"
    parser = preparation.command_line("kinetics_sounds", __doc__, source)
    add = parser.add_argument
    add("--split", choices=("published", "kinetics"), default="published", help="see above")
    help_text = "take my_train.txt and my_test.txt here"
    add("--split_dir", type=preparation.existing, help=help_text)
    add("--frames_per_second", type=positive, default=1, metavar="RATE", help="taken of the video")
    help_text = "clips that give fewer are too short; training takes 3"
    add("--min_frames", type=count, default=3, metavar="N", help=help_text)
    waveform.add_bank_size(parser)  # --audio_frames, --mel_bins
    agreement.add_options(parser)  # --keep_mismatched
    preparation.run(parser, find_raw, from_raw, HOW_TO_GET, argv)


if __name__ == "__main__":
    run_command(main)
