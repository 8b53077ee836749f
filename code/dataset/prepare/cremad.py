"""Raw CREMA-D (VideoFlash/*.flv, AudioWAV/*.wav) -> the tree of dataset/cremad.py.

    python -m dataset.prepare.cremad --source DIR

Clips whose media cannot be used are left out; training then says how many clips it found. So are
those whose picture and sound do not last alike, which published codes train on: without them the
set is complete.
"""

import argparse
import random
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from dataset._files import one_for_each, raw_files, tell_left_out
from dataset._samples import read_labels
from dataset.media.audio import filter_bank, ogm_spectrogram
from dataset.media.video import opened, write_frames
from dataset.modalities import waveform
from dataset.prepare import _agreement as agreement
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import check_sha256
from utils.command import positive
from utils.errors import BadInput, run_command

CODES = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
SETTINGS = ("frames_per_second", "audio", "audio_frames", "mel_bins", "keep_mismatched")  # flags
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
# What CREMA-D's README (of 2025, "Video Files", "Audio Files") says about clips of its own. All are
# in train.csv. The files decide; where they are unusable, this says that nothing can mend them.
FLAWED = {
    "1064_IEO_DIS_MD": "a minute with every emotion",
    "1064_TIE_SAD_XX": "has no duration",
    "1076_MTI_NEU_XX": "very short, no sound",
    "1076_MTI_SAD_XX": "picture of an error, no sound",
}
# Their videos had no sound until 16 December 2020, says the same place.
ONCE_WITHOUT_SOUND = (
    "1005_IWW_DIS_XX 1007_IWL_HAP_XX 1037_DFA_ANG_XX 1037_WSI_DIS_XX 1037_WSI_FEA_XX "
    "1037_WSI_SAD_XX 1039_IWL_SAD_XX 1039_WSI_SAD_XX 1045_ITS_HAP_XX 1045_WSI_DIS_XX "
    "1046_TIE_HAP_XX 1058_IEO_SAD_HI 1061_TIE_ANG_XX 1063_IEO_DIS_HI 1067_IEO_FEA_LO "
    "1068_IEO_SAD_MD 1070_IWL_SAD_XX 1071_WSI_ANG_XX 1072_WSI_ANG_XX 1073_MTI_SAD_XX "
    "1075_IWW_DIS_XX 1075_WSI_DIS_XX 1076_ITH_HAP_XX 1076_ITH_NEU_XX 1076_TAI_NEU_XX "
    "1079_IWL_ANG_XX 1079_TAI_DIS_XX 1091_IWW_FEA_XX"
).split()


def refuse_pointer(path: Path) -> None:
    if not path.is_file():
        raise BadInput(f"{path}: missing")
    if is_pointer(path):
        raise BadInput(f"{path}: a Git-LFS pointer, not the file; run `git lfs pull` in its clone")


def is_pointer(path: Path) -> bool:
    """False for a file that cannot be read, too: its reader says why."""
    try:
        with open(path, "rb") as file:
            return file.read(1024).startswith(b"version https://git-lfs")
    except OSError:
        return False


def code_of(clip: str) -> str:
    """The emotion in a clip's name, actor_sentence_emotion_level."""
    return clip.split("_")[2]


def actor_of(clip: str) -> str:
    return clip.split("_")[0]


def stem_of(suffixes: tuple[str, ...], path: Path) -> str | None:
    """The name of a file with one of these suffixes, None of another."""
    return path.stem if path.suffix.lower() in suffixes else None


def raw_clips(source: Path) -> dict[str, list[Path]]:
    """{clip: [video, sound]} of all clips that either folder has; where one of the files is
    missing, its path. Raises BadInput where a folder is missing, or all are Git-LFS pointers."""
    for folder in ("VideoFlash", "AudioWAV"):
        if not (source / folder).is_dir():
            raise BadInput(
                f"--source {source}: has no folder {folder}. It should be a clone of the public "
                "CREMA-D repository with its Git-LFS files (`git lfs pull`)"
            )
    videos = one_for_each(raw_files(source / "VideoFlash"), partial(stem_of, VIDEO_SUFFIXES))
    sounds = one_for_each(raw_files(source / "AudioWAV"), partial(stem_of, (".wav",)))
    clips, strange = {}, {}
    for clip in sorted(videos | sounds):
        if clip.count("_") != 3 or code_of(clip) not in CODES:
            file = videos.get(clip) or sounds[clip]
            strange[file] = "not named like a CREMA-D clip, 1001_DFA_ANG_XX"
            continue
        video = videos.get(clip, source / "VideoFlash" / f"{clip}.flv")
        clips[clip] = [video, sounds.get(clip, source / "AudioWAV" / f"{clip}.wav")]
    tell_left_out(source, strange)
    if not clips:
        raise BadInput(f"--source {source}: VideoFlash and AudioWAV hold no clip of CREMA-D")
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


def note_old_copy(clips: dict[str, list[Path]]) -> None:
    """Says so where the videos are of before December 2020."""
    soundless = []
    for clip in ONCE_WITHOUT_SOUND:
        try:
            with opened(clips[clip][0]) as container:
                if not container.streams.audio:
                    soundless.append(clip)
        except (KeyError, BadInput):
            continue  # not of these clips, or named with its fault later on
    if soundless:
        print(
            f"NOTE: an older copy of CREMA-D: {len(soundless)} videos have no sound, as "
            f"{len(ONCE_WITHOUT_SOUND)} had none until 16 December 2020: {', '.join(soundless)}. "
            "Sound is read from AudioWAV, so the prepared set is the same.",
            flush=True,
        )


def published_split(
    clips: Iterable[str], folder: Path | None, downloads: Path
) -> dict[str, dict[str, str]]:
    """{"train" | "test": {clip: code}} of the split that MMPareto and OGM-GE use.

    clips: all raw clips; those in neither of the two files are named, and refused if all are.
    folder: where train.csv and test.csv lie, None to download them.
    """
    split = {}
    for part in SPLIT_COUNTS:
        name = f"{part}.csv"
        urls = [f"{home}{name}" for home in SPLIT_HOMES]
        read = partial(read_published, part)
        split[part] = preparation.find_or_fetch(name, urls, downloads, folder, read, "--split_dir")
    if unnamed := set(clips) - split["train"].keys() - split["test"].keys():
        line = (
            f"{len(unnamed)} clips are in neither train.csv nor test.csv, such as {min(unnamed)}; "
            "use --split random or --split speaker for other clips"
        )
        if unnamed == set(clips):
            raise BadInput(line)
        print(f"NOTE: {line}", flush=True)
    return split


def read_published(part: str, path: Path) -> dict[str, str]:
    """{clip: code} of train.csv or test.csv, if they are as published."""
    labels = read_labels(path, CODES)
    clips_per_class = [list(labels.values()).count(code) for code in CODES]
    if clips_per_class != (counts := SPLIT_COUNTS[part]):
        raise BadInput(
            f"{path}: clips per class are {clips_per_class}, the published split has {counts}"
        )
    if part in SPLIT_SHA256:
        content = "".join(f"{clip},{code}\n" for clip, code in labels.items())
        check_sha256(str(path), content.encode(), SPLIT_SHA256[part])
    return labels


def random_split(clips: Iterable[str], seed: int, test_share=0.1) -> dict[str, dict[str, str]]:
    """A seeded split in which every class has the same share of test clips."""
    labels = {clip: code_of(clip) for clip in clips}
    return divide(clips, preparation.random_share(labels, seed, test_share))


def speaker_split(clips: Iterable[str], seed: int, test_share=0.1) -> dict[str, dict[str, str]]:
    """A seeded split in which no actor of the test clips speaks in training."""
    actors = sorted({actor_of(clip) for clip in clips})
    random.Random(seed).shuffle(actors)
    held_out = actors[: max(1, round(len(actors) * test_share))]
    return divide(clips, {clip for clip in clips if actor_of(clip) in held_out})


def divide(clips: Iterable[str], test: set[str]) -> dict[str, dict[str, str]]:
    """{"train" | "test": {clip: code}}."""
    return {
        "train": {clip: code_of(clip) for clip in sorted(clips) if clip not in test},
        "test": {clip: code_of(clip) for clip in sorted(test)},
    }


def find_raw(options: argparse.Namespace) -> preparation.RawSet:
    clips = raw_clips(options.source)
    note_old_copy(clips)
    if options.split == "published":
        split = published_split(clips, options.split_dir, options.output / ".download")
    else:
        make = {"random": random_split, "speaker": speaker_split}[options.split]
        split = make(clips, options.seed)
    files = {clip: clips.get(clip, []) for part in split.values() for clip in part}
    settings = {flag: vars(options)[flag] for flag in SETTINGS}
    return preparation.RawSet(CODES, split, dict(sorted(files.items())), settings)


def from_raw(files: list[Path], name: str, output: Path, settings: dict) -> None:
    """Sound and frames of a clip, of its video and its sound, or of one video with sound.

    Raises BadInput where they are unusable, Disagreement where nothing can mend that.
    """
    if len(files) > 2:
        raise BadInput(f"{files[0]}: one video with sound, or a video and its sound")
    video, sound = files[0], files[-1]
    tensor_file, folder = output / "audio" / f"{name}.pt", output / "visual" / name
    if tensor_file.is_file() and folder.is_dir():
        return
    for file in files:
        refuse_pointer(file)
    try:
        frames, samples, sample_rate_hz = agreement.read_clip(video, sound, settings)
    except BadInput as problem:
        if name not in FLAWED:
            raise
        known = f"{problem}; CREMA-D's README: {FLAWED[name]}"
        raise preparation.Disagreement(known) from None
    if not folder.is_dir():
        write_frames(frames, folder)
    if settings["audio"] == "spectrogram":
        tensor = ogm_spectrogram(samples, sample_rate_hz)
    else:
        bins, length = settings["mel_bins"], settings["audio_frames"]
        tensor = filter_bank(samples, sample_rate_hz, bins, length)
    preparation.save_tensor(tensor, tensor_file)


def main(argv: list[str] | None = None) -> None:
    parser = preparation.command_line("cremad", __doc__, "folder of VideoFlash and AudioWAV")
    add = parser.add_argument
    add(
        "--frames_per_second",
        type=positive,
        default=3,
        metavar="RATE",
        help="frames taken per second of video; the shortest clips last 1.3 s, two segments want 4",
    )
    add(
        "--audio",
        choices=("fbank", "spectrogram"),
        default="fbank",
        help="Kaldi filter bank 1024 x 128, or the spectrogram 257 x 188 of OGM-GE",
    )
    waveform.add_bank_size(parser)  # --audio_frames, --mel_bins
    add(
        "--split",
        choices=("published", "random", "speaker"),
        default="published",
        help="6,698 / 744 clips as published (downloaded); a seeded tenth of the clips, or of the "
        "actors, as test set",
    )
    help_text = "take train.csv and test.csv of `published` here"
    add("--split_dir", type=preparation.existing, help=help_text)
    add("--seed", type=int, default=0, help="of the random and speaker split")
    agreement.add_options(parser)  # --keep_mismatched
    preparation.run(parser, find_raw, from_raw, HOW_TO_GET, argv)


if __name__ == "__main__":
    run_command(main)
