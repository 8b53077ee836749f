"""Raw CREMA-D (VideoFlash/*.flv, AudioWAV/*.wav) -> the tree of dataset/cremad.py.

    python -m dataset.prepare.cremad --source DIR
    python -m dataset.prepare.cremad --check          compares the tree with its checksums

Run inside code/. Skips what is done already, so it can be interrupted and run again. Media that
cannot be used are named at the end and in <output>/report.json; training then says how many clips
it found.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from dataset._samples import read_split
from dataset.media.audio import filter_bank, ogm_spectrogram, read_sound_track, read_waveform
from dataset.media.video import read_frames, write_frames
from dataset.modalities import waveform
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import check_sha256, fetch
from utils.errors import BadInput, run

CODES = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
VIDEO_SUFFIXES = (".flv", ".mp4", ".avi")
HOW_TO_GET = (
    "--source: name the folder of CREMA-D. Its home is a Git-LFS repository of several GB:\n"
    "  git lfs install && git clone https://github.com/CheyneyComputerScience/CREMA-D\n"
    "  cd CREMA-D && git lfs pull && cd ..\n"
    "  python -m dataset.prepare.cremad --source CREMA-D"
)
# Both places in OGM-GE's history where the lists stood, tried in turn; what arrives is checked.
SPLIT_HOMES = (
    "https://raw.githubusercontent.com/GeWu-Lab/OGM-GE_CVPR2022/"
    "65a8324464207f5efd41533cb362648c0cdee8a8/data/CREMAD/",
    "https://raw.githubusercontent.com/GeWu-Lab/OGM-GE_CVPR2022/"
    "9e2e21a30e6b037cedb2d5cf46cab0662a19818e/data/",
)
# Facts of the published split: clips per class in the order of CODES, and the SHA-256 of test.csv's
# lines `clip,code` (each ended by a line feed, whatever the file has). With the test clips fixed,
# train.csv holds all others of the 7,442: it is checked as their complement.
SPLIT_COUNTS = {
    "train": [1166, 1142, 1138, 1148, 973, 1131],
    "test": [105, 129, 133, 123, 114, 140],
}
SPLIT_SHA256 = {"test": "959a667af66a01dc439b12d6ec9dc57b36a88e947f48ad63531a4b91f769394f"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--frames_per_second",
        type=float,
        default=3,
        metavar="RATE",
        help="frames taken per second of video; the shortest clips last 1.3 s, two segments want 4",
    )
    parser.add_argument(
        "--audio",
        choices=("fbank", "spectrogram"),
        default="fbank",
        help="Kaldi filter bank 1024 x 128, or the spectrogram 257 x 188 of OGM-GE",
    )
    waveform.Modality.add_options(parser)  # --audio_frames, --mel_bins
    preparation.add_jobs(parser)


def prepare_clip(video: Path, sound: Path, clip: str, output: Path, settings: dict) -> None:
    """Both files of one clip, unless they are there. Raises BadInput for unusable media."""
    picture, folder = output / "audio" / f"{clip}.pt", output / "visual" / clip
    if not picture.is_file():
        refuse_pointer(sound)
        read_sound = read_sound_track if sound == video else read_waveform
        samples, sample_rate_hz = read_sound(sound)
        if settings["audio"] == "spectrogram":
            tensor = ogm_spectrogram(samples, sample_rate_hz)
        else:
            bins, length = settings["mel_bins"], settings["audio_frames"]
            tensor = filter_bank(samples, sample_rate_hz, bins, length)
        preparation.save_tensor(tensor, picture)
    if not folder.is_dir():
        refuse_pointer(video)
        write_frames(read_frames(video, settings["frames_per_second"]), folder)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """For predict.py: a clip of its video and its sound, or of one video with sound."""
    if len(files) > 2:
        raise BadInput(f"{files[0]}: one video with sound, or a video and its sound")
    prepare_clip(files[0], files[-1], name, output, settings)


def refuse_pointer(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: missing")
    if is_pointer(path):
        raise BadInput(f"{path}: a Git-LFS pointer, not the file; run `git lfs pull` in its clone")


def is_pointer(path: Path) -> bool:
    if path.stat().st_size > 1024:
        return False
    return path.read_bytes().startswith(b"version https://git-lfs")


def raw_clips(source: Path) -> dict[str, tuple[Path, Path]]:
    """{clip: (video, sound)} of all that either folder names. Raises BadInput if one lacks."""
    for folder in ("VideoFlash", "AudioWAV"):
        if not (source / folder).is_dir():
            raise BadInput(
                f"--source {source}: has no folder {folder}. It should be a clone of the public "
                "CREMA-D repository with its Git-LFS files (`git lfs pull`)"
            )
    videos = {p.stem: p for p in (source / "VideoFlash").iterdir() if p.suffix in VIDEO_SUFFIXES}
    sounds = {p.stem: p for p in (source / "AudioWAV").glob("*.wav")}
    clips = {}
    for clip in sorted(videos | sounds):
        parts = clip.split("_")
        if len(parts) != 4 or parts[2] not in CODES:
            raise BadInput(f"{source}: {clip!r} is not named like a CREMA-D clip, 1001_DFA_ANG_XX")
        missing = source / "VideoFlash" / f"{clip}.flv", source / "AudioWAV" / f"{clip}.wav"
        clips[clip] = videos.get(clip, missing[0]), sounds.get(clip, missing[1])
    if not clips:
        raise BadInput(f"--source {source}: VideoFlash and AudioWAV are empty")
    files = [file for pair in clips.values() for file in pair if file.is_file()]
    pointers = sum(is_pointer(file) for file in files)
    if pointers == len(files):
        raise BadInput(f"--source {source}: holds Git-LFS pointers only; run `git lfs pull` there")
    if pointers:
        print(
            f"NOTE: {pointers} of {len(files)} files in {source} are Git-LFS pointers, not media. "
            "Stop here and run `git lfs pull` there, or go on without these clips.",
            flush=True,
        )
    return clips


def published_split(clips: list[str], folder: Path | None, output: Path) -> dict[str, list[str]]:
    """{"train" | "test": lines `clip,code`} of the split that MMPareto and OGM-GE use.

    clips: all raw clips; each must be in one of the two files. folder: where train.csv and test.csv
    lie, None to download them.
    """
    lines = {}
    for split, counts in SPLIT_COUNTS.items():
        path = folder / f"{split}.csv" if folder else output / ".download" / f"{split}.csv"
        if folder is None:
            fetch(tuple(f"{home}{split}.csv" for home in SPLIT_HOMES), path)
        elif not path.is_file():
            raise BadInput(f"--split_dir {folder}: has no {split}.csv")
        samples = read_split(path, CODES)
        found = [sum(s.target == k for s in samples) for k in range(len(CODES))]
        if found != counts:
            raise BadInput(f"{path}: clips per class are {found}, the published split has {counts}")
        lines[split] = [f"{s.id},{CODES[s.target]}" for s in samples]
        if split in SPLIT_SHA256:
            content = "".join(f"{line}\n" for line in lines[split]).encode()
            check_sha256(str(path), content, SPLIT_SHA256[split])
    if both := set(lines["train"]) & set(lines["test"]):
        raise BadInput(f"train.csv and test.csv share {len(both)} clips, such as {min(both)}")
    named = {line.split(",")[0] for own in lines.values() for line in own}
    if unnamed := set(clips) - named:
        raise BadInput(
            f"{len(unnamed)} clips are in neither train.csv nor test.csv, such as {min(unnamed)}; "
            "use --split random or --split speaker for other clips"
        )
    return lines


def random_split(clips: list[str], seed: int, test_fraction=0.1) -> dict[str, list[str]]:
    """A seeded split in which every class has the same share of test clips."""
    split: dict[str, list[str]] = {"train": [], "test": []}
    for code in CODES:
        own = sorted(clip for clip in clips if clip.split("_")[2] == code)
        random.Random(f"{seed} {code}").shuffle(own)
        cut = round(len(own) * test_fraction)
        split["test"] += own[:cut]
        split["train"] += own[cut:]
    return {name: [f"{c},{c.split('_')[2]}" for c in sorted(own)] for name, own in split.items()}


def speaker_split(clips: list[str], seed: int, test_fraction=0.1) -> dict[str, list[str]]:
    """A seeded split in which no actor of the test clips speaks in training."""
    actors = sorted({clip.split("_")[0] for clip in clips})
    random.Random(seed).shuffle(actors)
    held_out = set(actors[: max(1, round(len(actors) * test_fraction))])
    split: dict[str, list[str]] = {"train": [], "test": []}
    for clip in sorted(clips):
        name = "test" if clip.split("_")[0] in held_out else "train"
        split[name].append(f"{clip},{clip.split('_')[2]}")
    return split


def prepare(
    clips: dict[str, tuple[Path, Path]],
    output: Path,
    split: dict[str, list[str]],
    settings: dict,
    jobs: int,
) -> dict[str, str]:
    """Writes the whole tree. Returns {clip: what is wrong with it}.

    clips: as `raw_clips` gives them; split: {"train" | "test": lines `clip,code`}; settings: {flag
    of `add_options`: value}.
    """
    for flag, value in settings.items():
        if flag != "audio" and not value > 0:
            raise BadInput(f"--{flag} {value}: must be > 0")
    preparation.begin(output, settings)
    work = {clip: (*files, clip, output, settings) for clip, files in clips.items()}
    problems, seconds = preparation.convert(prepare_clip, work, jobs, "clips")
    listed = [line.split(",")[0] for lines in split.values() for line in lines]
    problems |= {clip: f"{clip}: not among the raw files" for clip in listed if clip not in clips}
    files = [file for pair in clips.values() for file in pair]
    speed = preparation.speed_of(files, len(clips), seconds, jobs)
    preparation.finish(output, CODES, split, problems, speed=speed)
    return problems


def main() -> None:
    parser = preparation.command_line("cremad", __doc__)
    parser.add_argument("--source", type=Path, help="folder of VideoFlash and AudioWAV")
    add_options(parser)
    parser.add_argument(
        "--split",
        choices=("published", "random", "speaker"),
        default="published",
        help="6,698 / 744 clips as published (downloaded); a seeded tenth of the clips, or of the "
        "actors, as test set",
    )
    parser.add_argument(
        "--split_dir", type=Path, help="take train.csv and test.csv of `published` here"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random and speaker split")
    options = argparse.Namespace(**preparation.parse(parser))
    if options.source is None:
        raise BadInput(HOW_TO_GET)
    clips = raw_clips(options.source)
    if options.split == "published":
        split = published_split(list(clips), options.split_dir, options.output)
    else:
        make = {"random": random_split, "speaker": speaker_split}[options.split]
        split = make(list(clips), options.seed)
    flags = ("frames_per_second", "audio", "audio_frames", "mel_bins")
    settings = {flag: vars(options)[flag] for flag in flags}
    prepare(clips, options.output, split, settings, options.jobs)


if __name__ == "__main__":
    run(main)
