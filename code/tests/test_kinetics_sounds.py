"""Clips of any container to Kinetics-Sounds: decoding, labels, lists, what cannot be used."""

import csv

import cv2
import numpy as np
import pytest
import torch
from media import RATE_HZ, turn, write_media

from dataset.media.audio import read_sound_track
from dataset.media.video import read_frames
from dataset.prepare import kinetics_sounds
from dataset.prepare.kinetics_sounds import clip_of
from utils.errors import BadInput

SETTINGS = dict(frames_per_second=1.0, min_frames=3, audio_frames=64, mel_bins=32)


@pytest.mark.parametrize(
    "name, video, audio, times",
    [
        ("variable.mp4", "libx264", "aac", [0, 0.1, 0.15, 0.2, 1.1, 1.4, 2.1, 2.9]),
        ("a.webm", "libvpx", "libopus", None),
    ],
)
def test_every_container_gives_its_frames_and_its_sound(name, video, audio, times, tmp_path):
    path = write_media(tmp_path / name, video, audio, times=times)
    frames = read_frames(path, 1)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    # one frame of each second, by the frames' own times
    assert [round(frame[-1, -1].mean() / 40) for frame in frames] == [2, 3, 4]
    assert frames[0][0, 0].mean() < 30
    samples, rate_hz = read_sound_track(path)
    assert rate_hz == (48000 if audio == "libopus" else RATE_HZ)
    assert samples.dtype == np.float32 and abs(len(samples) / rate_hz - 3) < 0.1
    middle = samples[len(samples) // 4 : len(samples) // 4 + rate_hz]
    spectrum = np.abs(np.fft.rfft(middle))
    assert abs(spectrum.argmax() - 440) <= 1  # Hz, of one second
    assert abs(middle.max() - 0.25) < 0.03  # the mean of 0.5 on the left and silence


def test_the_sound_of_a_wav_track_comes_through_to_the_last_bit(tmp_path):
    path = write_media(tmp_path / "a.mkv", None, "pcm_s16le")
    time = np.arange(3 * RATE_HZ) / RATE_HZ
    left = (0.5 * 2**15 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    samples, _ = read_sound_track(path)
    assert np.abs(samples * 2**15 - left / 2).max() <= 0.5


def test_clips_are_turned_upright(tmp_path):
    path = write_media(tmp_path / "a.mp4")
    turn(path)
    first = read_frames(path, 1)[0]
    assert first.shape == (64, 48, 3)
    assert first[0, -1].mean() < 30 < 60 < first[0, 0].mean()
    np.testing.assert_array_equal(first, cv2.VideoCapture(str(path)).read()[1])


@pytest.mark.parametrize(
    "changes, share_kept, fault",
    [
        (dict(audio=None), 1, "has no sound"),
        (dict(seconds=1.2), 1, "too short, 1.2 s give 2 frames"),
        (dict(video="libvpx", audio="libopus"), 0.6, "truncated, "),
    ],
)
def test_a_clip_that_cannot_be_used_is_named_with_its_fault(changes, share_kept, fault, tmp_path):
    path = write_media(tmp_path / "a.mkv", **changes)
    content = path.read_bytes()
    path.write_bytes(content[: round(len(content) * share_kept)])
    with pytest.raises(BadInput, match=f"a.mkv: {fault}"):
        kinetics_sounds.from_raw([path], "x", tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()


def test_real_clips_give_the_filter_bank_of_their_sound_and_a_frame_per_second(
    real_digits, tmp_path
):
    """GRID: MPEG with sound, 25 frames per second, 3 s, 44.1 kHz."""
    file, *_ = sorted((real_digits / "grid").glob("*.mpg"))
    assert len(read_frames(file, 3)) == 9
    assert len(read_frames(file, 1000)) == 75  # each frame once
    settings = SETTINGS | dict(audio_frames=1024, mel_bins=128)
    kinetics_sounds.from_raw([file], "x", tmp_path, settings)
    bank = torch.load(tmp_path / "audio" / "x.pt", weights_only=True)
    assert bank.shape == (1024, 128)
    assert (bank[295] - bank[-1]).abs().max() > 0.05  # 2.978 s of sound, then zeros
    assert (bank[296:] == bank[-1]).all()
    frames = sorted((tmp_path / "visual" / "x").iterdir())
    assert [frame.name for frame in frames] == [f"frame_{i:05d}.jpg" for i in (1, 2, 3)]
    assert cv2.imread(str(frames[0])).shape == (288, 360, 3)


def test_the_id_of_a_clip_is_its_video_and_its_first_second():
    assert clip_of("-3Mwkq-7TV4_000002_000012") == "-3Mwkq-7TV4_2" == clip_of("-3Mwkq-7TV4_2")
    assert clip_of("4ot6CQO00l4_1245_1255") == "4ot6CQO00l4_1245"
    for name in ("video", "-3Mwkq-7TV4", "short_2", "-3Mwkq-7TV4_2_3_4", "../../k_____2"):
        assert clip_of(name) is None


def test_the_published_lists_get_their_names_from_the_folders(raw_kinetics, tmp_path, monkeypatch):
    clips = kinetics_sounds.raw_clips(raw_kinetics)
    rows = {"train": [], "test": ["abcdefghijk_5,10,30"]}
    for clip, path in clips.items():
        number = {"playing drums": 11, "singing": 25}[path.parent.name]
        rows[path.parents[1].name].append(f"{clip},10,{number}")
    for part, lines in rows.items():
        (tmp_path / f"my_{part}.txt").write_text("\n".join(lines))
    with pytest.raises(BadInput, match="my_train.txt: 8 clips, the published list has 14799"):
        kinetics_sounds.published_lists(tmp_path, tmp_path)
    counts = {part: len(lines) for part, lines in rows.items()}
    monkeypatch.setattr(kinetics_sounds, "PUBLISHED_COUNTS", counts)
    lists = kinetics_sounds.published_lists(tmp_path, tmp_path)
    names = kinetics_sounds.name_classes(lists, clips)
    assert names[11] == "playing drums" and names[25] == "singing" and names[30] == "30"
    assert len(set(names)) == 31
    drums = next(clip for clip in lists["train"] if lists["train"][clip] == 11)
    lists["train"][drums] = 25
    with pytest.raises(BadInput, match="class 25 of the list, as clips in"):
        kinetics_sounds.name_classes(lists, clips)


def test_every_clip_has_the_label_the_frames_and_the_sound_of_its_file(
    kinetics_sounds_root, raw_kinetics
):
    """A clip's name tells its class; the louder its file, the louder its filter bank."""
    label_of = {"rums": "playing drums", "ging": "singing"}
    for split, count in (("train", 4), ("test", 2)):
        labels = dict(csv.reader((kinetics_sounds_root / f"{split}.csv").open()))
        assert len(labels) == 2 * count
        assert all(label == label_of[clip[:4]] for clip, label in labels.items())
        for start in label_of:
            clips = [clip for clip in labels if clip.startswith(start)]
            clips.sort(key=lambda clip: int(clip.rsplit("_", 1)[1]))  # by number
            assert len(clips) == count
            files = [kinetics_sounds_root / "audio" / f"{clip}.pt" for clip in clips]
            peaks = [torch.load(file, weights_only=True).max().item() for file in files]
            assert peaks == sorted(peaks) and peaks[-1] - peaks[0] > 0.1
            for clip in clips:
                assert len(list((kinetics_sounds_root / "visual" / clip).iterdir())) == 3


def test_annotations_give_the_labels_that_folders_give(raw_kinetics, tmp_path):
    clips = kinetics_sounds.raw_clips(raw_kinetics)
    by_folder = kinetics_sounds.kinetics_split(raw_kinetics, clips)
    assert {part: len(labels) for part, labels in by_folder.items()} == {"train": 8, "test": 4}
    for part, labels in by_folder.items():
        rows = [f"{label},{clip[:11]},{clip[12:]},x" for clip, label in labels.items()]
        rows.append("juggling balls,abcdefghijk,5,x")  # not of the 31
        text = "label,youtube_id,time_start,split\n" + "\n".join(rows)
        (tmp_path / f"{part}.csv").write_text(text)
    flat = {clip: tmp_path / path.name for clip, path in clips.items()}
    assert kinetics_sounds.kinetics_split(tmp_path, flat) == by_folder
