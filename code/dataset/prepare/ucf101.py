"""UCF-101 videos and their public split files -> dataset/ucf101.py.

    python -m dataset.prepare.ucf101 --source DIR [--split 1]

DIR holds, at any depth, the videos (v_<Class>_g<group>_c<clip>.avi) and the text files
classInd.txt, trainlist01.txt, testlist01.txt (02, 03 for the other splits). Of every video some
frames per second are kept, and with each the optical flow to the very next frame of the video.
Videos that are missing or unreadable are left out.
"""

import argparse
from pathlib import Path

from dataset._files import one_for_each, raw_files
from dataset._limits import naming
from dataset.derived.flow import flow_picture
from dataset.media.video import read_frames, write_frames
from dataset.prepare import _preparation as preparation
from utils.command import positive
from utils.errors import BadInput, run_command

PUBLISHED_COUNTS = {  # of each public split
    1: {"train": 9537, "test": 3783},
    2: {"train": 9586, "test": 3734},
    3: {"train": 9624, "test": 3696},
}
HOW_TO_GET = (
    "--source: name the folder with the videos of UCF-101 and its split files. This project does "
    "not download them: UCF101.rar (7 GB) and UCF101TrainTestSplits-RecognitionTask.zip are at "
    "https://www.crcv.ucf.edu/data/UCF101.php"
)


def rows_of(path: Path) -> list[list[str]]:
    """The words of each line that is not empty."""
    with naming(path):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [line.split() for line in text.splitlines() if line.strip()]


def read_classes(source: Path) -> list[str]:
    """The names of classInd.txt in the order of their numbers, from 1 on."""
    path = preparation.find(source, "classInd.txt")
    rows = rows_of(path)
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or row[0] != str(number):
            raise BadInput(f"{path} line {number}: expected '{number} <class>', got {row}")
    return [name for _, name in rows]


def read_split(source: Path, number: int, classes: list[str]) -> dict[str, dict[str, str]]:
    """{"train" | "test": {video without suffix: class}}; the class is the folder in the list."""
    split: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    number_of = {name: str(i) for i, name in enumerate(classes, start=1)}
    for part, labels in split.items():
        path = preparation.find(source, f"{part}list{number:02d}.txt")
        for line, row in enumerate(rows_of(path), start=1):
            video = Path(row[0])
            label = video.parent.name
            if label not in number_of or row[1:] not in ([], [number_of[label]]):
                raise BadInput(f"{path} line {line}: expected '<class>/<video> [its number]'")
            labels[video.stem] = label
    return split


def find_raw(options: argparse.Namespace) -> preparation.RawSet:
    classes = read_classes(options.source)
    split = read_split(options.source, options.split, classes)
    files = [path for path in raw_files(options.source) if path.suffix.lower() == ".avi"]
    videos = one_for_each(files, lambda path: path.stem)
    if not videos:
        raise BadInput(f"--source {options.source}: has no video, *.avi, in it or below it")
    listed = [name for part in split.values() for name in part]
    files = {name: [videos[name]] if name in videos else [] for name in listed}
    settings = dict(frames_per_second=options.frames_per_second, video_rate=options.video_rate)
    expected = PUBLISHED_COUNTS[options.split]
    return preparation.RawSet(sorted(classes), split, files, settings, expected)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """Frames and flow of a clip of one video."""
    if len(files) > 1:
        raise BadInput(f"{files[0]}: one video, not {len(files)} files")
    folders = [output / modality / name for modality in ("visual", "flow")]
    if all(folder.is_dir() for folder in folders):
        return
    frames = read_frames(files[0], settings["video_rate"], 2)
    step = max(1, round(settings["video_rate"] / settings["frames_per_second"]))
    kept = range(0, len(frames) - 1, step)  # the last frame has none after it
    flow = [flow_picture(frames[i], frames[i + 1]) for i in kept]
    for folder, pictures in zip(folders, ([frames[i] for i in kept], flow)):
        if not folder.is_dir():
            write_frames(pictures, folder)


def main(argv: list[str] | None = None) -> None:
    source = "folder of the videos and the split files"
    parser = preparation.command_line("ucf101", __doc__, source)
    add = parser.add_argument
    add("--split", type=int, choices=(1, 2, 3), default=1, help="of the public ones")
    add("--frames_per_second", type=positive, default=1, metavar="RATE", help="kept of a video")
    add(
        "--video_rate",
        type=positive,
        default=25,
        metavar="RATE",
        help="frames per second of the videos: the flow is over 1 / RATE seconds",
    )
    preparation.run(parser, find_raw, from_raw, HOW_TO_GET, argv)


if __name__ == "__main__":
    run_command(main)
