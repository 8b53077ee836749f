"""Kinetics-400 clips of the 31 sounding classes -> dataset/kinetics_sounds.py.

    python -m dataset.prepare.kinetics_sounds --source DIR
    python -m dataset.prepare.kinetics_sounds --check       compares the tree with its checksums

Run inside code/. DIR holds the clips of a Kinetics-400 download at any depth, named as the usual
download tools name them, <YouTube id>_<start>_<end>.mp4 or <YouTube id>_<start>.mp4 (other
containers too). Which clips, and their labels:

    --split published   the lists of OGM-GE, my_train.txt and my_test.txt, 14,799 / 2,597 clips,
                        downloaded, or taken from --split_dir
    --split kinetics    DIR/train/<class>/ and DIR/test/<class>/ (val where there is no test), or
                        the annotations train.csv and test.csv of Kinetics in DIR

Sound becomes a mono Kaldi filter bank at its own rate, pictures one frame per second. Clips without
sound, too short or unreadable are named at the end and in <output>/report.json. It can be
interrupted, also killed, and run again.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from dataset._samples import read_csv
from dataset.media.audio import filter_bank, read_sound_track
from dataset.media.video import read_frames, write_frames
from dataset.modalities import waveform
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import fetch
from utils.errors import BadInput, run

# The 34 classes of Arandjelovic & Zisserman 2017 under the names they have in Kinetics-400, without
# typing, fingerpicking and patting, which have no class of that meaning there.
CLASSES = [
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
]
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


class Key(NamedTuple):
    """What identifies a clip: 11 characters of YouTube and the second at which it starts."""

    youtube_id: str
    start_seconds: int

    def __str__(self) -> str:
        return f"{self.youtube_id}_{self.start_seconds}"


def key_of(name: str) -> Key | None:
    """The key in a name <id>_<start>[_<end>], None where there is none."""
    found = re.fullmatch(r"([\w-]{11})_(\d+)(_\d+)?", name, re.ASCII)
    return Key(found[1], int(found[2])) if found else None


def raw_clips(source: Path) -> dict[Key, Path]:
    """All clips below `source`. Raises BadInput where there is none."""
    if not source.is_dir():
        raise BadInput(f"--source {source}: no such folder")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
    clips = {key: path for path in files if (key := key_of(path.stem))}
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


def published_split(folder: Path | None, output: Path) -> dict[str, dict[Key, int]]:
    """{"train" | "test": {clip: number of its class}} of OGM-GE's lists, `id_start,10,number`."""
    split: dict[str, dict[Key, int]] = {}
    for name, count in PUBLISHED_COUNTS.items():
        path = (folder or output / ".download") / f"my_{name}.txt"
        if folder is None:
            fetch((f"{LIST_HOME}my_{name}.txt",), path)
        elif not path.is_file():
            raise BadInput(f"--split_dir {folder}: has no {path.name}")
        split[name] = {}
        for number, row in enumerate(read_csv(path), start=1):
            key = key_of(row[0])
            if len(row) != 3 or not key or not row[2].isdecimal() or int(row[2]) >= len(CLASSES):
                raise BadInput(
                    f"{path} line {number}: expected <YouTube id>_<start>,10,<class 0 to "
                    f"{len(CLASSES) - 1}>, got {','.join(row)!r}"
                )
            split[name][key] = int(row[2])
        if len(split[name]) != count:
            raise BadInput(f"{path}: {len(split[name])} clips, the published list has {count}")
    if both := split["train"].keys() & split["test"].keys():
        raise BadInput(f"my_train.txt and my_test.txt share {len(both)} clips, such as {min(both)}")
    return split


def name_classes(split: dict[str, dict[Key, int]], clips: dict[Key, Path]) -> list[str]:
    """The names of the published list's numbers, read off the folders of the clips.

    The list has numbers only; those whose clips lie in no folder of a class keep the number as
    their name. Raises BadInput where a number's clips lie in folders of different classes.
    """
    names: dict[int, str] = {}
    for numbers in split.values():
        for key, number in numbers.items():
            name = class_of(clips[key].parent.name) if key in clips else None
            if name and names.setdefault(number, name) != name:
                raise BadInput(
                    f"{clips[key]}: class {number} of the list, as clips in {names[number]!r} are"
                )
    if len(set(names.values())) < len(names):
        raise BadInput("two classes of the list have their clips in folders of one class")
    return [names.get(number, f"{number:02d}") for number in range(len(CLASSES))]


def kinetics_split(source: Path, clips: dict[Key, Path]) -> dict[str, dict[Key, str]]:
    """{"train" | "test": {clip: class}} by Kinetics' annotations, or by its folders."""
    split: dict[str, dict[Key, str]] = {}
    for name, parts in {"train": ("train",), "test": ("test", "val", "validate")}.items():
        for part in parts:
            found = annotated(source, part)
            if not found:
                folders = ((key, path.relative_to(source).parts) for key, path in clips.items())
                found = {
                    key: label
                    for key, where in folders
                    if part in where[:-2] and (label := class_of(where[-2]))
                }
            if found:
                split[name] = found
                break
        else:
            raise BadInput(
                f"--source {source}: no {name} clips, neither in {' or '.join(parts)}/<class>/ "
                f"nor by {parts[0]}.csv with columns label,youtube_id,time_start; "
                "or use --split published"
            )
    if both := split["train"].keys() & split["test"].keys():
        raise BadInput(f"--source {source}: {min(both)} is both a training and a test clip")
    return split


def annotated(source: Path, part: str) -> dict[Key, str]:
    """{clip: class} of the 31 classes by <part>.csv of Kinetics, if there is one."""
    path = next((p for p in sorted(source.rglob(f"{part}.csv")) if p.is_file()), None)
    if path is None:
        return {}
    header, *rows = read_csv(path)
    if missing := {"label", "youtube_id", "time_start"} - set(header):
        raise BadInput(f"{path}: has no column {', '.join(sorted(missing))}")
    label, name, start = (header.index(c) for c in ("label", "youtube_id", "time_start"))
    return {
        Key(row[name], int(float(row[start]))): row[label] for row in rows if row[label] in CLASSES
    }


def prepare_clip(path: Path | None, name: str, output: Path, settings: dict) -> None:
    """Both files of one clip, unless they are there. Raises BadInput for unusable media."""
    if path is None:
        raise BadInput(f"{name}: not in the source")
    picture, folder = output / "audio" / f"{name}.pt", output / "visual" / name
    if picture.is_file() and folder.is_dir():
        return
    frames = read_frames(path, settings["frames_per_second"], settings["min_frames"])
    bank = filter_bank(*read_sound_track(path), settings["mel_bins"], settings["audio_frames"])
    if not folder.is_dir():
        write_frames(frames, folder)
    preparation.save_tensor(bank, picture)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """For predict.py: a clip of one video with sound."""
    if len(files) > 1:
        raise BadInput(f"{files[0]}: one video with sound, not {len(files)} files")
    prepare_clip(files[0], name, output, settings)


def prepare(
    clips: dict[Key, Path],
    output: Path,
    split: dict[str, dict[Key, str]],
    classes: list[str],
    settings: dict,
    jobs: int,
) -> dict[str, str]:
    """Writes the whole tree. Returns {clip: what is wrong with it}.

    split: {"train" | "test": {clip: class}}; settings: {flag: value} of frames_per_second,
    min_frames, mel_bins, audio_frames.
    """
    for flag, value in settings.items():
        if not value > 0:
            raise BadInput(f"--{flag} {value}: must be > 0")
    preparation.begin(output, settings)
    listed = [key for part in split.values() for key in part]
    work = {str(key): (clips.get(key), str(key), output, settings) for key in listed}
    problems, seconds = preparation.convert(prepare_clip, work, jobs, "clips")
    files = [clips[key] for key in listed if key in clips]
    speed = preparation.speed_of(files, len(files), seconds, jobs)
    lines = {
        name: [f"{key},{label}" for key, label in part.items()] for name, part in split.items()
    }
    preparation.finish(output, classes, lines, problems, speed=speed)
    return problems


def main() -> None:
    parser = preparation.command_line("kinetics_sounds", __doc__)
    parser.add_argument("--source", type=Path, help="folder of the Kinetics-400 clips")
    parser.add_argument(
        "--split", choices=("published", "kinetics"), default="published", help="see above"
    )
    parser.add_argument("--split_dir", type=Path, help="take my_train.txt and my_test.txt here")
    parser.add_argument(
        "--frames_per_second", type=float, default=1, metavar="RATE", help="taken of the video"
    )
    parser.add_argument(
        "--min_frames",
        type=int,
        default=3,
        metavar="N",
        help="clips that give fewer are too short; training takes 3",
    )
    waveform.Modality.add_options(parser)  # --audio_frames, --mel_bins
    preparation.add_jobs(parser)
    options = argparse.Namespace(**preparation.parse(parser))
    if options.source is None:
        raise BadInput(HOW_TO_GET)
    clips = raw_clips(options.source)
    if options.split == "published":
        numbers = published_split(options.split_dir, options.output)
        classes = name_classes(numbers, clips)
        split = {n: {key: classes[k] for key, k in own.items()} for n, own in numbers.items()}
    else:
        split, classes = kinetics_split(options.source, clips), CLASSES
    flags = ("frames_per_second", "min_frames", "audio_frames", "mel_bins")
    settings = {flag: vars(options)[flag] for flag in flags}
    prepare(clips, options.output, split, classes, settings, options.jobs)


if __name__ == "__main__":
    run(main)
