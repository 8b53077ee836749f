"""UCF-101 videos and their public split files -> dataset/ucf101.py.

    python -m dataset.prepare.ucf101 --source DIR [--split 1]
    python -m dataset.prepare.ucf101 --check       compares the tree with its checksums

Run inside code/. DIR holds, at any depth, the videos (v_<Class>_g<group>_c<clip>.avi) and the text
files classInd.txt, trainlist01.txt, testlist01.txt (02, 03 for the other splits). Of every video
some frames per second are kept, and with each the optical flow to the very next frame of the video.
Videos that are missing or unreadable are named at the end and in <output>/report.json. It can be
interrupted, also killed, and run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dataset.derived.flow import flow_picture
from dataset.media.video import read_frames, write_frames
from dataset.prepare import _preparation as preparation
from utils.errors import BadInput, run

PUBLISHED_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}  # training, test
HOW_TO_GET = (
    "--source: name the folder with the videos of UCF-101 and its split files. This project does "
    "not download them: UCF101.rar (7 GB) and UCF101TrainTestSplits-RecognitionTask.zip are at "
    "https://www.crcv.ucf.edu/data/UCF101.php"
)


def lines_of(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.split() for line in text.splitlines() if line.strip()]


def read_classes(source: Path) -> list[str]:
    """The names of classInd.txt in the order of their numbers, from 1 on."""
    path = preparation.find(source, "classInd.txt")
    rows = lines_of(path)
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0] != str(number):
            raise BadInput(f"{path} line {number}: expected '{number} <class>', got {row}")
    return [name for _, name in rows]


def read_split(source: Path, number: int, classes: list[str]) -> dict[str, dict[str, str]]:
    """{"train" | "test": {video without suffix: class}}; the class is the folder in the list."""
    split: dict[str, dict[str, str]] = {}
    number_of = {name: str(i) for i, name in enumerate(classes, start=1)}
    for part in ("train", "test"):
        path = preparation.find(source, f"{part}list{number:02d}.txt")
        split[part] = {}
        for line, row in enumerate(lines_of(path), start=1):
            where = Path(row[0])
            label, name = where.parent.name, where.stem
            if label not in number_of or row[1:] not in ([], [number_of[label]]):
                raise BadInput(f"{path} line {line}: expected '<class>/<video> [its number]'")
            split[part][name] = label
    if both := split["train"].keys() & split["test"].keys():
        raise BadInput(f"--source {source}: {min(both)} is both a training and a test video")
    return split


def prepare_clip(path: Path | None, name: str, output: Path, settings: dict) -> None:
    """Frames and flow of one video, unless they are there. Raises BadInput for unusable media."""
    if path is None:
        raise BadInput(f"{name}: not in the source")
    folders = [output / modality / name for modality in ("visual", "flow")]
    if all(folder.is_dir() for folder in folders):
        return
    every = read_frames(path, settings["video_rate"], 2)
    step = max(1, round(settings["video_rate"] / settings["frames_per_second"]))
    kept = range(0, len(every) - 1, step)  # the last frame has none after it
    pictures = [every[i] for i in kept], [flow_picture(every[i], every[i + 1]) for i in kept]
    for folder, own in zip(folders, pictures):
        if not folder.is_dir():
            write_frames(own, folder)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """For predict.py: a clip of one video."""
    if len(files) > 1:
        raise BadInput(f"{files[0]}: one video, not {len(files)} files")
    prepare_clip(files[0], name, output, settings)


def prepare(
    source: Path,
    output: Path,
    split_number: int,
    settings: dict,
    jobs: int,
    expected: dict[str, int] | None = None,
) -> dict[str, str]:
    """Writes the whole tree. Returns {video: what is wrong with it}.

    settings: {flag: value} of frames_per_second and video_rate, per second.
    """
    if not source.is_dir():
        raise BadInput(f"--source {source}: no such folder")
    for flag, value in settings.items():
        if not value > 0:
            raise BadInput(f"--{flag} {value}: must be > 0")
    classes = read_classes(source)
    split = read_split(source, split_number, classes)
    videos = {path.stem: path for path in sorted(source.rglob("*.avi"))}
    if not videos:
        raise BadInput(f"--source {source}: has no video, *.avi, in it or below it")
    preparation.begin(output, settings)
    listed = [name for part in split.values() for name in part]
    work = {name: (videos.get(name), name, output, settings) for name in listed}
    problems, seconds = preparation.convert(prepare_clip, work, jobs, "videos")
    files = [videos[name] for name in listed if name in videos]
    speed = preparation.speed_of(files, len(files), seconds, jobs)
    lines = {
        part: [f"{name},{label}" for name, label in own.items()] for part, own in split.items()
    }
    preparation.finish(output, sorted(classes), lines, problems, expected, speed)
    return problems


def main() -> None:
    parser = preparation.command_line("ucf101", __doc__)
    parser.add_argument("--source", type=Path, help="folder of the videos and the split files")
    parser.add_argument(
        "--split", type=int, choices=(1, 2, 3), default=1, help="of the public ones"
    )
    parser.add_argument(
        "--frames_per_second", type=float, default=1, metavar="RATE", help="kept of a video"
    )
    parser.add_argument(
        "--video_rate",
        type=float,
        default=25,
        metavar="RATE",
        help="frames per second of the videos: the flow is over 1 / RATE seconds",
    )
    preparation.add_jobs(parser)
    options = argparse.Namespace(**preparation.parse(parser))
    if options.source is None:
        raise BadInput(HOW_TO_GET)
    settings = {flag: vars(options)[flag] for flag in ("frames_per_second", "video_rate")}
    counts = dict(zip(("train", "test"), PUBLISHED_COUNTS[options.split]))
    prepare(options.source, options.output, options.split, settings, options.jobs, counts)


if __name__ == "__main__":
    run(main)
