"""Raw media to prepared trees: real formats, damaged files, splits, downloads."""

import csv
import gzip
import io
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from media import problems_of
from PIL import Image

from dataset._samples import read_split
from dataset.media import audio
from dataset.modalities import frames
from dataset.prepare import _preparation as preparation
from dataset.prepare import avmnist, cremad, demo
from utils.errors import BadInput

SETTINGS = {"frames_per_second": 3.0, "audio": "fbank", "audio_frames": 96, "mel_bins": 32}
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 300000\n"
)


def test_the_demo_set_has_the_tree_of_the_published_loader(demo_root):
    assert (demo_root / "stat.csv").read_bytes().startswith(b"\xef\xbb\xbfANG")
    rows = {s: list(csv.reader((demo_root / f"{s}.csv").open())) for s in ("train", "test")}
    assert {s: len(r) for s, r in rows.items()} == {"train": 54, "test": 18}
    assert all(clip.split("_")[2] == code for r in rows.values() for clip, code in r)
    clip = rows["train"][0][0]
    picture = torch.load(demo_root / "audio" / f"{clip}.pt", weights_only=True)
    assert picture.shape == (96, 32) and picture.dtype == torch.float32
    names = sorted(p.name for p in (demo_root / "visual" / clip).iterdir())
    assert names == [f"frame_{i:05d}.jpg" for i in range(1, 5)]  # 1.2 s at 3 per second


def test_the_demo_set_follows_its_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        for folder in ("VideoFlash", "AudioWAV"):
            (tmp_path / name / folder).mkdir(parents=True)
        demo.write_clip(tmp_path / name, "1001_DFA_HAP_XX", seed)
    for file in ("VideoFlash/1001_DFA_HAP_XX.flv", "AudioWAV/1001_DFA_HAP_XX.wav"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_a_clip_that_cannot_be_used_is_named_with_its_fault(raw_demo, tmp_path, capsys):
    clips = sorted(p.stem for p in (raw_demo / "AudioWAV").iterdir())[:8]
    files = {}
    for folder, suffix in (("VideoFlash", "flv"), ("AudioWAV", "wav")):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        files[suffix] = [tmp_path / "raw" / folder / f"{clip}.{suffix}" for clip in clips]
        for file in files[suffix]:
            shutil.copy(raw_demo / folder / file.name, file)
    flv, wav = files["flv"], files["wav"]
    flv[0].write_bytes(POINTER)
    wav[1].write_bytes(wav[1].read_bytes()[:8000])
    flv[2].write_bytes(flv[2].read_bytes()[:3000])
    soundfile.write(wav[3], np.zeros(16000), 16000, subtype="PCM_16")
    wav[4].unlink()
    split = cremad.random_split(clips, 0, 0.5)
    raw = preparation.RawSet(cremad.CODES, split, cremad.raw_clips(tmp_path / "raw"), SETTINGS)
    preparation.prepare(raw, cremad.from_raw, tmp_path / "out", 1)
    problems = problems_of(tmp_path / "out")
    assert list(problems) == clips[:5]
    faults = ("pointer", "truncated", "truncated", "silent", "missing")
    for clip, fault in zip(clips, faults):
        assert clip in problems[clip] and fault in problems[clip]
    assert "run `git lfs pull` there" in capsys.readouterr().out
    assert not (tmp_path / "out" / "visual" / clips[0]).exists()


def test_splits_follow_their_seed_and_the_second_one_holds_out_actors():
    clips = [
        f"{a}_{s}_{c}_XX" for a in range(1001, 1011) for s in demo.SENTENCES for c in cremad.CODES
    ]
    for make in (cremad.random_split, cremad.speaker_split):
        split = make(clips, 3)
        assert split == make(clips[::-1], 3) != make(clips, 4)
        train, test = (set(split[name]) for name in ("train", "test"))
        assert not train & test and train | test == set(clips)
    train_actors, test_actors = (set(map(cremad.actor_of, part)) for part in (train, test))
    assert not train_actors & test_actors and len(test_actors) == 1
    labels = list(cremad.random_split(clips, 3)["test"].values())
    assert [labels.count(code) for code in cremad.CODES] == [12] * 6


def test_the_published_split_is_downloaded_and_checked(tmp_path, monkeypatch):
    """From an address that is a file's."""
    for part, first in (("train", 1001), ("test", 5001)):
        codes = [c for c, n in zip(cremad.CODES, cremad.SPLIT_COUNTS[part]) for _ in range(n)]
        rows = [f"{first + i}_DFA_{code}_XX,{code}\n" for i, code in enumerate(codes)]
        (tmp_path / f"{part}.csv").write_text("".join(rows))
    assert all(len(digest) == 64 for digest in cremad.SPLIT_SHA256.values())
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {})
    monkeypatch.setattr(cremad, "SPLIT_HOMES", (f"file://{tmp_path}/gone/", f"file://{tmp_path}/"))
    split = cremad.published_split(["1001_DFA_ANG_XX"], None, tmp_path / "out")
    assert [len(labels) for labels in split.values()] == [6698, 744]
    with pytest.raises(BadInput, match="1 clips are in neither train.csv nor test.csv, such as x"):
        cremad.published_split(["x"], tmp_path, tmp_path)
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {"test": "0" * 64})
    with pytest.raises(BadInput, match="test.csv: SHA-256 of its content is"):
        cremad.published_split([], tmp_path, tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,ANG\na,ANG\n", "line 2: id 'a' stands in the file twice"),
        ("a,JOY\n", "line 1: label 'JOY' is none of ANG, "),
        ("../a,ANG\n", "line 1: id '../a' is no plain file name"),
    ],
)
def test_bad_lines_of_split_files_are_named(text, message, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_split(tmp_path / "x.csv", cremad.CODES)


# Sound and video


def tone(seconds=1.0, rate=16000):
    return np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_the_filter_bank_is_that_of_the_published_script_to_the_last_bit():
    """Its lines are copied here, but for the padding. Rounding shows in the bands without sound."""
    waveform = tone() + 0.1
    published = torchaudio.compliance.kaldi.fbank(
        torch.from_numpy(waveform - waveform.mean())[None],
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )
    bank = audio.filter_bank(waveform, 16000)
    assert bank.shape == (1024, 128) and len(published) == 98
    assert torch.equal(bank[:98], (published + 4.503877) / (5.141276 * 2))
    assert torch.equal(bank[98:], torch.full((926, 128), 4.503877) / (5.141276 * 2))  # of zeros
    assert audio.filter_bank(tone(20), 16000).shape == (1024, 128)
    mel = 1127 * np.log(1 + np.array([20, 440, 8000]) / 700)
    expected = 128 * (mel[1] - mel[0]) / (mel[2] - mel[0])
    assert abs(bank[10:90].mean(0).argmax() - expected) < 3  # 440 Hz stands where it should


def test_ogms_spectrogram_is_resampled_and_repeats_the_sound_for_three_seconds():
    picture = audio.ogm_spectrogram(tone(rate=16000), 16000)
    assert picture.shape == (257, 188) and torch.isfinite(picture).all()
    for column in (5, 50, 100, 180):
        assert abs(picture[:, column].argmax() - 440 / (22050 / 512)) <= 1


def test_waveforms_become_mono_at_their_own_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(0.5, 44100), np.zeros(22050)], 1), 44100)
    samples, sample_rate_hz = audio.read_waveform(tmp_path / "a.wav")
    assert sample_rate_hz == 44100
    np.testing.assert_allclose(samples, tone(0.5, 44100) / 2, atol=1e-4)  # 16 bits


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_one_frame_is_picked_of_each_segment(count):
    for available in range(1, 13):
        segment = available // count
        for train in (False, True):
            picked = [frames.pick(available, count, train) for _ in range(30)]
            assert all(len(positions) == count for positions in picked)
            assert all(0 <= i < available for positions in picked for i in positions)
            if segment:
                assert all([i // segment for i in p] == list(range(count)) for p in picked)
            if train and segment > 1:
                assert len({positions[0] for positions in picked}) > 1
    # the published index counts from 1
    assert frames.pick(4 * count + count - 1, count, False) == [4 * i + 1 for i in range(count)]
    assert frames.pick(count, count, False) == list(range(count))


# Digits


def test_avmnist_is_disjoint_and_true_to_its_sources(avmnist_root, real_digits):
    recordings = avmnist.recordings(real_digits, avmnist_root)
    for part in ("train", "test"):
        pictures, digits = avmnist.mnist(part, real_digits, avmnist_root)
        labels = dict(csv.reader((avmnist_root / f"{part}.csv").open()))
        origins = list(csv.reader((avmnist_root / f"{part}_origin.csv").open()))
        assert len(labels) == len(origins) == {"train": 60, "test": 30}[part]
        likeness = []
        for sample, index, name in origins:
            assert labels[sample] == str(digits[int(index)]) == name[0]
            assert (name.split("_")[1] in avmnist.HELD_OUT_SPEAKERS) == (part == "test")
            sound = soundfile.read(io.BytesIO(recordings[name]), dtype="float32")
            bank = torch.load(avmnist_root / "audio" / f"{sample}.pt", weights_only=True)
            assert torch.equal(bank, audio.filter_bank(*sound, mel_bins=32, frames=48))
            with Image.open(avmnist_root / "visual" / f"{sample}.png") as picture:
                assert picture.size == (28, 28) and picture.mode == "L"
                both = np.stack([np.asarray(picture).ravel(), pictures[int(index)].ravel()])
            likeness.append(np.corrcoef(both)[0, 1])
        assert min(likeness) > 0.1  # what is left of each when most of it is removed


def test_the_index_split_is_that_of_the_recordings(real_digits, tmp_path):
    names = list(avmnist.recordings(real_digits, tmp_path))
    assert len(names) == 3000
    assert sum(avmnist.is_test_recording(name, "index") for name in names) == 300


def test_weakening_removes_the_leading_components(real_digits, tmp_path):
    pictures, digits = avmnist.mnist("test", real_digits, tmp_path)
    assert np.bincount(digits).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    weak = avmnist.Weaken(pictures, 0.92)(pictures)
    left = (weak / 127.5 - 1).reshape(len(weak), -1).var(0).sum()
    share = left / (pictures / 255.0).reshape(len(pictures), -1).var(0).sum()
    assert 0.05 < share <= 0.085
    assert np.array_equal(avmnist.Weaken(pictures, 0)(pictures), pictures)


def test_the_recordings_of_a_digit_take_turns():
    names = [f"{d}_theo_{i}" for d in range(10) for i in range(3)]
    digits = np.repeat(np.arange(10), 6)
    pairs = avmnist.pair(digits, names, 60, np.random.default_rng(0))
    assert len({index for index, _ in pairs}) == 60
    assert all(name[0] == str(digits[index]) for index, name in pairs)
    counts = {name: sum(n == name for _, n in pairs) for name in names}
    assert set(counts.values()) == {2}


def test_changed_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "recordings.tar.gz", "w:gz") as file:
        file.add(__file__, "3_theo_17.wav")
    with pytest.raises(BadInput, match="recordings.tar.gz: SHA-256 of its content is"):
        avmnist.recordings(tmp_path, tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(BadInput, match="t10k-images-idx3-ubyte.gz: SHA-256 of its"):
        avmnist.mnist("test", tmp_path, tmp_path)
