"""Files of a sample that disagree on how long it lasts: named, left out, kept by a flag."""

import json

import numpy as np
import pytest
import soundfile
import torch
from media import NO_DURATION, problems_of, write_media

from dataset._samples import read_labels
from dataset.folder import Dataset
from dataset.media.audio import filter_bank
from dataset.media.video import picture_seconds, read_frames
from dataset.prepare import _agreement as agreement
from dataset.prepare import cremad, kinetics_sounds
from utils.errors import BadInput

RATE_HZ = 16000
FLAGS = ["--audio_frames", "64", "--mel_bins", "32", "--jobs", "1"]


def write_sound(path, seconds, loud=0.3):
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    soundfile.write(path, loud * np.sin(2 * np.pi * 440 * time), RATE_HZ, subtype="PCM_16")


def write_clip(source, clip, picture=2.0, sound=1.9, suffix=".flv", loud=0.3, **changes):
    """VideoFlash/<clip>.flv of so many seconds without sound, and AudioWAV/<clip>.wav."""
    for folder in ("VideoFlash", "AudioWAV"):
        (source / folder).mkdir(parents=True, exist_ok=True)
    encoder = "flv" if suffix == ".flv" else "libx264"
    times = np.arange(max(1, round(10 * picture))) / 10
    path = source / "VideoFlash" / f"{clip}{suffix}"
    write_media(path, **dict(video=encoder, audio=None, times=times, moves=3) | changes)
    write_sound(source / "AudioWAV" / f"{clip}.wav", sound, loud)


def true_set(source, lists, monkeypatch):
    """A small CREMA-D, clips of which are as its README says, with its lists."""
    good = [f"{actor}_DFA_{code}_XX" for actor in (1001, 1002, 1003) for code in cremad.CODES]
    for clip in good:
        write_clip(source, clip)
    write_clip(source, "1064_IEO_DIS_MD", 61, 4.1)
    write_clip(source, "1064_TIE_SAD_XX", 1.0, 3.3, options=NO_DURATION[".flv"])
    write_clip(source, "1076_MTI_NEU_XX", 0.1, 2.4)
    write_clip(source, "1076_MTI_SAD_XX", 2.6, 2.6, loud=0, still=True)
    lists.mkdir()
    parts = {"train": good[:12] + list(cremad.FLAWED), "test": good[12:]}
    counts = {}
    for part, clips in parts.items():
        codes = [cremad.code_of(clip) for clip in clips]
        counts[part] = [codes.count(code) for code in cremad.CODES]
        rows = [f"{clip},{code}\n" for clip, code in zip(clips, codes)]
        (lists / f"{part}.csv").write_text("".join(rows))
    monkeypatch.setattr(cremad, "SPLIT_COUNTS", counts)
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {})
    return good


def test_the_published_lists_without_the_clips_that_disagree_are_complete(
    tmp_path, monkeypatch, capsys
):
    source, out = tmp_path / "raw", tmp_path / "out"
    good = true_set(source, tmp_path / "lists", monkeypatch)
    flags = ["--source", str(source), "--split_dir", str(tmp_path / "lists"), *FLAGS]
    cremad.main([*flags, "--output", str(out)])
    printed = capsys.readouterr().out
    assert "out: 12 of 12 train (16 less 4 left out), 6 of 6 test samples usable" in printed
    problems = problems_of(out)
    lasting = {
        "1064_IEO_DIS_MD": "61.0 s of picture beside 4.1 s of sound; CREMA-D's README: a minute",
        "1064_TIE_SAD_XX": "1.0 s of picture beside 3.3 s of sound; CREMA-D's README: has no dura",
        "1076_MTI_NEU_XX": "0.0 s of picture beside 2.4 s of sound; CREMA-D's README: very short",
        "1076_MTI_SAD_XX": "2.6 s of a still picture beside 2.6 s of silent sound; CREMA-D's READ",
    }
    assert problems.keys() == lasting.keys()
    for clip, text in lasting.items():
        assert f"{clip}.flv: {text}" in problems[clip]
        assert f"left out {problems[clip]}" in printed
        assert not (out / "visual" / clip).exists() and not (out / "audio" / f"{clip}.pt").exists()
    listed = [set(read_labels(out / f"{part}.csv")) for part in ("train", "test")]
    assert listed == [set(good[:12]), set(good[12:])]
    with pytest.raises(SystemExit) as end:
        cremad.main(["--check", "--output", str(out)])
    assert end.value.code == 0
    assert "12 of 12 train (16 less 4 left out) samples" in capsys.readouterr().out


def test_a_damaged_clip_is_no_clip_that_disagrees(tmp_path, monkeypatch):
    source, out = tmp_path / "raw", tmp_path / "out"
    good = true_set(source, tmp_path / "lists", monkeypatch)
    sound = source / "AudioWAV" / f"{good[0]}.wav"
    sound.write_bytes(sound.read_bytes()[:9000])
    flags = ["--source", str(source), "--split_dir", str(tmp_path / "lists"), *FLAGS]
    cremad.main([*flags, "--output", str(out)])
    message = r"11 of 12 train \(16 less 4 left out\) samples; mend(.|\n)*truncated"
    with pytest.raises(BadInput, match=message):
        cremad.main(["--check", "--output", str(out)])


def test_a_flag_keeps_them_as_published_code_prepares_them(tmp_path, monkeypatch):
    source, out = tmp_path / "raw", tmp_path / "out"
    true_set(source, tmp_path / "lists", monkeypatch)
    flags = ["--source", str(source), "--split_dir", str(tmp_path / "lists"), *FLAGS]
    cremad.main([*flags, "--output", str(out), "--keep_mismatched"])
    assert not problems_of(out)
    counts = {clip: len(list((out / "visual" / clip).iterdir())) for clip in cremad.FLAWED}
    assert list(counts.values()) == [183, 3, 1, 8]  # three a second
    bank = torch.load(out / "audio" / "1076_MTI_SAD_XX.pt", weights_only=True)
    silence = np.zeros(round(2.6 * RATE_HZ), np.float32)
    assert torch.equal(bank, filter_bank(silence, RATE_HZ, 32, 64))
    assert torch.isfinite(bank).all()
    with pytest.raises(SystemExit):
        cremad.main(["--check", "--output", str(out)])
    with pytest.raises(BadInput, match="was begun with .*; use the same flags, or delete it"):
        cremad.main([*flags, "--output", str(out)])


def prepare_pair(source, clip, output, **settings):
    settings = dict(frames_per_second=3, audio="fbank", audio_frames=64, mel_bins=32) | settings
    (video,) = (source / "VideoFlash").glob(f"{clip}.*")
    sound = source / "AudioWAV" / f"{clip}.wav"
    cremad.from_raw([video, sound], clip, output, settings)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(), None),
        (dict(picture=3.4, sound=2.24), None),  # as 54 clips of CREMA-D
        (dict(picture=2.0, sound=2.5), None),  # as 1058_IEO_ANG_LO
        (dict(picture=5.7, sound=1.9), "5.7 s of picture beside 1.9 s of sound"),
        (dict(picture=0.6, sound=3.3), "0.6 s of picture beside 3.3 s of sound"),
        (dict(picture=0.1), "0.0 s of picture beside 1.9 s of sound"),
        (dict(still=True), "2.0 s of a still picture beside 1.9 s of sound"),
        (dict(loud=0), "2.0 s of picture beside 1.9 s of silent sound"),
        (dict(sound=0), "2.0 s of picture beside 0.0 s of silent sound"),
        (dict(suffix=".mp4", picture=9, sound=4), "9.0 s of picture beside 4.0 s of sound"),
    ],
)
def test_seconds_of_picture_are_held_against_seconds_of_sound(changes, message, tmp_path):
    clip = "1001_DFA_ANG_XX"
    write_clip(tmp_path / "raw", clip, **changes)
    if message is None:
        prepare_pair(tmp_path / "raw", clip, tmp_path / "out")
        return
    with pytest.raises(agreement.Disagreement, match=f"{clip}.*: {message}$"):
        prepare_pair(tmp_path / "raw", clip, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_recording_is_never_kept(tmp_path):
    write_clip(tmp_path / "raw", "1001_DFA_ANG_XX", sound=0)
    with pytest.raises(BadInput, match="silent"):
        prepare_pair(tmp_path / "raw", "1001_DFA_ANG_XX", tmp_path / "out", keep_mismatched=True)


def test_real_talking_faces_are_not_still(real_digits):
    for file in sorted((real_digits / "grid").glob("*.mpg")):
        for frames_per_second in (1, 3, 25):
            frames = read_frames(file, frames_per_second)
            assert not agreement.is_still(frames)
            assert agreement.is_still(frames[:1] * 5)
        assert picture_seconds(file) == pytest.approx(3, abs=0.05)  # 75 frames, 25 a second


def test_videos_of_before_december_2020_are_told(tmp_path, capsys):
    clips = ["1005_IWW_DIS_XX", "1007_IWL_HAP_XX", "1001_DFA_ANG_XX", "1002_DFA_ANG_XX"]
    for clip in clips:
        write_clip(tmp_path, clip)
    write_clip(tmp_path, clips[1], audio="aac", suffix=".mp4", seconds=1.9)
    (tmp_path / "VideoFlash" / f"{clips[1]}.flv").unlink()
    cremad.note_old_copy(cremad.raw_clips(tmp_path))
    printed = capsys.readouterr().out
    assert "1 videos have no sound, as 28 had none until 16 December 2020: 1005_IWW_DIS" in printed
    assert clips[1] not in printed and "Sound is read from AudioWAV" in printed
    (tmp_path / "VideoFlash" / f"{clips[0]}.flv").unlink()
    cremad.note_old_copy(cremad.raw_clips(tmp_path))
    assert not capsys.readouterr().out


def kinetics(folder, output, name, seconds, keep=False, suffix=".mp4", **changes):
    """Frames that the preparation makes of a clip of that name."""
    settings = dict(frames_per_second=1, min_frames=3, audio_frames=64, mel_bins=32)
    path = write_media(folder / f"{name}{suffix}", **dict(seconds=seconds, moves=3) | changes)
    settings["keep_mismatched"] = keep
    kinetics_sounds.from_raw([path], "x", output, settings)
    return len(list((output / "visual" / "x").iterdir()))


@pytest.mark.parametrize(
    "name, seconds, message",
    [
        ("abcdefghijk_000010_000020", 60, "60.0 s of picture beside 10.0 s by its name"),
        ("abcdefghijk_000010_000020", 4, "4.0 s of picture beside 4.0 s of sound beside 10.0 s by"),
        ("abcdefghijk_10", 60, "60.0 s of picture beside 10.0 s by its name"),
        ("abcdefghijk_000010_000020", 10, None),
        ("abcdefghijk_000010_000020", 7, None),
        ("abcdefghijk_000010_000014", 4, None),
        ("my own clip", 4, None),
    ],
)
def test_a_clip_of_kinetics_lasts_as_long_as_its_name_says(name, seconds, message, tmp_path):
    if message:
        with pytest.raises(agreement.Disagreement, match=f"{name}.mp4: {message}"):
            kinetics(tmp_path, tmp_path / "out", name, seconds)
        assert not (tmp_path / "out").exists()
        assert kinetics(tmp_path, tmp_path / "kept", name, seconds, keep=True) == seconds
    else:
        assert kinetics(tmp_path, tmp_path / "out", name, seconds) == seconds


def test_kinetics_says_which_clips_it_left_out(tmp_path, capsys):
    for part in ("train", "test"):
        for label in ("singing", "laughing"):
            folder = tmp_path / "raw" / part / label
            folder.mkdir(parents=True)
            for start in (2, 5):
                name = f"{label[:4]}-{part:_<6}_{start:06d}_{start + 4:06d}.mp4"
                seconds = 20 if (part, label, start) == ("train", "singing", 5) else 4
                write_media(folder / name, seconds=seconds)
    flags = ["--source", str(tmp_path / "raw"), "--split", "kinetics", *FLAGS]
    kinetics_sounds.main([*flags, "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert (
        "left out" in printed and "20.0 s of picture" in printed and "4.0 s by its nam" in printed
    )
    assert "3 of 3 train (4 less 1 left out), 4 of 4 test samples usable" in printed
    assert "1 samples are left out" in printed and "--keep_mismatched" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["left_out"] == {"train": ["sing-train__5"], "test": []}
    assert report["expected"] == {"train": 4, "test": 4}


def test_own_data_that_last_otherwise_are_warned_of(own_data, capsys):
    dataset = Dataset(own_data)
    ids = {sample.id for split in ("train", "test") for sample in dataset.samples(split)}
    present = {modality: ids for modality in ("sound", "clip", "photo")}
    dataset.check_complete(present)
    assert not capsys.readouterr().out
    write_sound(own_data / "sound" / "train3.wav", 4)  # beside frames of 0.5 s
    dataset.check_complete(present)
    assert "WARNING: 1 of 12 last otherwise in sound and clip: train3" in capsys.readouterr().out
    for number in range(1, 6):  # frames of a fixed number have no rate
        write_sound(own_data / "sound" / f"train{number}.wav", 0.5 * number)
    dataset.check_complete(present)
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_random_pairs_are_left_out_where_they_disagree_and_only_there(fuzz, tmp_path):
    """Containers with and without a duration; lengths, stillness and silence drawn at random."""
    outcomes = {True: 0, False: 0}
    for seed in fuzz:
        rng = np.random.default_rng(seed)
        source, clip = tmp_path / str(seed), "1001_DFA_ANG_XX"
        picture, sound = round(rng.choice([0.1, rng.uniform(0.2, 6)]), 1), rng.uniform(0.1, 6)
        if rng.random() < 0.4:
            sound = picture * rng.uniform(0.85, 1.1) + 0.05
        suffix = rng.choice([".flv", ".mp4", ".avi"])
        still, silent = rng.random(2) < 0.15
        options = NO_DURATION.get(suffix) if rng.random() < 0.5 else None
        video = {".flv": "flv", ".avi": "mpeg4"}.get(suffix, "libx264")
        changes = dict(still=bool(still), options=options, video=video, loud=0 if silent else 0.3)
        write_clip(source, clip, picture, sound, suffix, **changes)
        # one frame holds nothing; two or more of which one is taken may or may not move
        held = 0 if still and picture > 0.4 or picture < 0.15 else picture
        heard = 0 if silent else sound
        share = min(held, heard) / max(held, heard) if max(held, heard) else 0
        if 0.5 < share < 0.7:  # either is right: 1 frame of 2 is half of it
            continue
        told = (seed, suffix, picture, round(sound, 2), still, silent, options)
        try:
            prepare_pair(source, clip, source / "out")
        except agreement.Disagreement as problem:
            assert share < 0.6, told
            assert f"{clip}{suffix}: " in str(problem) and " s of " in str(problem)
            assert not (source / "out").exists()
            prepare_pair(source, clip, source / "out", keep_mismatched=True)
            assert (source / "out" / "audio" / f"{clip}.pt").is_file()
        else:
            assert share > 0.6, told
        outcomes[share < 0.6] += 1
        taken = len(list((source / "out" / "visual" / clip).iterdir()))
        assert abs(taken - max(1, 3 * picture)) <= 1, told
    assert min(outcomes.values()) > len(fuzz) / 5


@pytest.mark.slow
def test_random_clips_of_kinetics_are_held_against_their_names(fuzz, tmp_path):
    for seed in list(fuzz)[::2]:
        rng = np.random.default_rng(seed)
        promised, seconds = int(rng.integers(4, 12)), rng.uniform(3.2, 30)
        if rng.random() < 0.5:
            seconds = promised * rng.uniform(0.75, 1.1)
        seconds = round(max(seconds, 3.2), 1)
        sound, suffix = seconds, rng.choice([".mp4", ".mkv", ".flv"])
        if suffix == ".mp4" and rng.random() < 0.3:
            sound = seconds * rng.uniform(0.1, 0.9)
        options = NO_DURATION[suffix] if rng.random() < 0.5 else None
        share = min(promised, sound) / max(promised, seconds)
        if abs(share - 0.6) < 0.05:
            continue
        start = int(rng.integers(0, 900))
        name = f"{'ab-_' * 3:.11}_{start:06d}_{start + promised:06d}"
        folder = tmp_path / str(seed)
        folder.mkdir()
        made = (folder, folder / "out", name, sound)
        changes = dict(times=np.arange(round(10 * seconds)) / 10, suffix=suffix, options=options)
        told = (seed, promised, seconds, sound, suffix, options)
        try:
            kinetics(*made, **changes)
        except agreement.Disagreement as problem:
            assert share < 0.6 and f"{seconds:.1f} s of picture" in str(problem), (told, problem)
            kinetics(*made, keep=True, **changes)
        else:
            assert share > 0.6, told
