"""Raw media to prepared trees: real formats, damaged files, splits, downloads."""

import csv
import gzip
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from media import problems_of
from PIL import Image

from dataset._samples import read_split
from dataset.media import audio, video
from dataset.modalities import frames
from dataset.prepare import _preparation as preparation
from dataset.prepare import avmnist, cremad, demo
from dataset.prepare._download import check_sha256, fetch
from utils.errors import BadInput

CODE = Path(__file__).resolve().parents[1]
SETTINGS = {"frames_per_second": 3.0, "audio": "fbank", "audio_frames": 96, "mel_bins": 32}
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 300000\n"
)


def prepare(source, output, split, settings=SETTINGS):
    """The tree of a raw CREMA-D; what is reported as unusable."""
    raw = preparation.RawSet(cremad.CODES, split, cremad.raw_clips(source), settings)
    preparation.prepare(raw, cremad.from_raw, output, 1)
    return problems_of(output)


def some_clips(raw, folder, count=8):
    """A raw tree with the first clips of `raw`, one of each class and more."""
    clips = sorted(p.stem for p in (raw / "AudioWAV").iterdir())[:count]
    for name, suffix in (("VideoFlash", "flv"), ("AudioWAV", "wav")):
        (folder / name).mkdir(parents=True)
        for clip in clips:
            shutil.copy(raw / name / f"{clip}.{suffix}", folder / name)
    return clips


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
        (tmp_path / name / "VideoFlash").mkdir(parents=True)
        (tmp_path / name / "AudioWAV").mkdir()
        demo.write_clip(tmp_path / name, "1001_DFA_HAP_XX", seed)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 2
    for file in files:
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b != c


def test_damaged_media_are_named_and_skipped(raw_demo, tmp_path, capsys):
    clips = some_clips(raw_demo, tmp_path / "raw", 9)
    flv = [tmp_path / "raw" / "VideoFlash" / f"{c}.flv" for c in clips]
    wav = [tmp_path / "raw" / "AudioWAV" / f"{c}.wav" for c in clips]
    flv[0].write_bytes(POINTER)
    wav[1].write_bytes(POINTER)
    wav[2].write_bytes(wav[2].read_bytes()[:8000])
    flv[3].write_bytes(flv[3].read_bytes()[:3000])
    soundfile.write(wav[4], np.zeros(16000), 16000, subtype="PCM_16")
    single = cv2.VideoWriter(str(flv[5]), demo.FLV1_TAG, 10, (64, 64))
    single.write(np.zeros((64, 64, 3), np.uint8))
    single.release()
    flv[6].write_bytes(b"")
    wav[7].unlink()
    split = cremad.random_split(clips, 0, 0.5)
    problems = prepare(tmp_path / "raw", tmp_path / "out", split)

    assert set(problems) == set(clips[:8])
    expected = ["pointer", "pointer", "truncated", "truncated|unreadable", "silent", "single frame"]
    expected += ["unreadable", "missing"]
    for clip, word in zip(clips, expected):
        assert any(w in problems[clip] for w in word.split("|")), (word, problems[clip])
        assert clip in problems[clip]
    printed = capsys.readouterr().out
    assert "0 of 6 train, 1 of 3 test samples usable" in printed
    assert printed.startswith("NOTE: 2 of 17 files in") and "run `git lfs pull` there" in printed
    assert all(clip in printed for clip in clips[:8])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["usable"] == {"train": 0, "test": 1} and report["problems"] == problems
    assert report["expected"] == {"train": 6, "test": 3}
    assert not (tmp_path / "out" / "visual" / clips[0]).exists()
    # whoever trains on it hears about it
    listed = read_split(tmp_path / "out" / "train.csv", cremad.CODES)
    listed += read_split(tmp_path / "out" / "test.csv", cremad.CODES)
    assert len(listed) == 9


def test_preparation_continues_and_repairs(raw_demo, tmp_path, capsys):
    clips = some_clips(raw_demo, tmp_path / "raw", 6)
    split = cremad.random_split(clips, 0)
    broken = tmp_path / "raw" / "AudioWAV" / f"{clips[0]}.wav"
    good = broken.read_bytes()
    broken.write_bytes(POINTER)

    def run(settings):
        return prepare(tmp_path / "raw", tmp_path / "out", split, settings)

    assert list(run(SETTINGS)) == [clips[0]]
    kept = tmp_path / "out" / "audio" / f"{clips[1]}.pt"
    before = kept.stat().st_mtime_ns
    killed = subprocess.Popen(["true"])
    killed.wait()
    (tmp_path / "out" / "visual" / f".{clips[2]}.{killed.pid}.tmp").mkdir()  # as it leaves one
    broken.write_bytes(good)
    assert run(SETTINGS) == {}
    assert kept.stat().st_mtime_ns == before
    assert not list((tmp_path / "out").rglob("*.tmp"))
    with pytest.raises(BadInput, match="was begun with .* use the same flags"):
        run(SETTINGS | {"frames_per_second": 1.0})


def test_only_pointers_end_at_once_with_the_mending_command(raw_demo, tmp_path):
    some_clips(raw_demo, tmp_path / "raw", 3)
    for file in (tmp_path / "raw").rglob("*.*"):
        file.write_bytes(POINTER)
    with pytest.raises(BadInput, match="pointers only; run `git lfs pull`"):
        cremad.raw_clips(tmp_path / "raw")


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--frames_per_second=0", "--frames_per_second 0.0: must be a positive number"),
        ("--mel_bins=0", "--mel_bins 0: must be at least 1"),
        ("--audio_frames=-1", "--audio_frames -1: must be at least 1"),
    ],
)
def test_bad_settings(raw_demo, tmp_path, flag, message):
    with pytest.raises(BadInput, match=message):
        cremad.main(["--source", str(raw_demo), "--output", str(tmp_path / "out"), flag])
    assert not (tmp_path / "out").exists()


def test_wrong_source_folders(tmp_path):
    with pytest.raises(BadInput, match="has no folder VideoFlash"):
        cremad.raw_clips(tmp_path)
    (tmp_path / "VideoFlash").mkdir()
    (tmp_path / "AudioWAV").mkdir()
    with pytest.raises(BadInput, match="are empty"):
        cremad.raw_clips(tmp_path)
    (tmp_path / "AudioWAV" / "holiday.wav").touch()
    with pytest.raises(BadInput, match="'holiday' is not named like a CREMA-D clip"):
        cremad.raw_clips(tmp_path)


def test_splits():
    clips = [
        f"{a}_{s}_{c}_XX" for a in range(1001, 1011) for s in demo.SENTENCES for c in cremad.CODES
    ]
    for make in (cremad.random_split, cremad.speaker_split):
        split = make(clips, 3)
        assert split == make(clips[::-1], 3) != make(clips, 4)
        train, test = (set(split[name]) for name in ("train", "test"))
        assert not train & test and len(train | test) == len(clips)
    actors = [{clip.split("_")[0] for clip in split[name]} for name in ("train", "test")]
    assert not actors[0] & actors[1] and len(actors[1]) == 1
    test = list(cremad.random_split(clips, 3)["test"].values())
    assert [test.count(code) for code in cremad.CODES] == [12] * 6


def published_like(folder, train_counts, test_counts):
    """Split files with the given clips per class."""
    for name, counts, first in (("train", train_counts, 1001), ("test", test_counts, 5001)):
        lines = [
            f"{first + i}_DFA_{code}_XX,{code}"
            for code, n in zip(cremad.CODES, counts)
            for i in range(n)
        ]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


def test_published_split_is_checked(tmp_path, monkeypatch):
    counts = cremad.SPLIT_COUNTS
    assert [sum(c) for c in counts.values()] == [6698, 744]
    assert all(len(digest) == 64 for digest in cremad.SPLIT_SHA256.values())
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {})
    published_like(tmp_path, counts["train"], counts["test"])
    split = cremad.published_split(["1001_DFA_ANG_XX"], tmp_path, tmp_path)
    assert [len(labels) for labels in split.values()] == [6698, 744]
    with pytest.raises(BadInput, match="1 clips are in neither train.csv nor test.csv, such as x"):
        cremad.published_split(["x"], tmp_path, tmp_path)
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {"test": "0" * 64})
    with pytest.raises(BadInput, match="test.csv: SHA-256 of its content is"):
        cremad.published_split([], tmp_path, tmp_path)
    published_like(tmp_path, counts["train"], [n + 1 for n in counts["test"]])
    with pytest.raises(BadInput, match="test.csv: clips per class are .* the published split has"):
        cremad.published_split([], tmp_path, tmp_path)
    (tmp_path / "test.csv").unlink()
    with pytest.raises(BadInput, match="has no test.csv"):
        cremad.published_split([], tmp_path, tmp_path)


def test_bad_split_files(tmp_path):
    for text, message in [
        ("a,ANG\na,ANG\n", "line 2: id 'a' stands in the file twice"),
        ("a,ANG\nb\n", "line 2: expected `id,label`"),
        ("a,JOY\n", "line 1: label 'JOY' is none of ANG, "),
        ("../a,ANG\n", "line 1: id '../a' is no plain file name"),
        ("", "holds no sample"),
    ]:
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(BadInput, match=message):
            read_split(tmp_path / "x.csv", cremad.CODES)


# Sound and video


def tone(seconds=1.0, rate=16000):
    return np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_filter_bank_shape_padding_and_offset():
    bank = audio.filter_bank(tone(), 16000)
    assert bank.shape == (1024, 128)
    silence = 4.503877 / (2 * 5.141276)
    assert torch.allclose(bank[98:], torch.tensor(silence))  # padded with zeros before normalising
    assert not torch.allclose(bank[97], torch.tensor(silence))
    torch.testing.assert_close(audio.filter_bank(tone() + 0.1, 16000), bank, atol=2e-2, rtol=0)
    assert audio.filter_bank(tone(20), 16000).shape == (1024, 128)
    loudest = bank[10:90].mean(0).argmax().item()
    mel = 1127 * np.log(1 + np.array([20, 440, 8000]) / 700)
    assert (
        abs(loudest - 128 * (mel[1] - mel[0]) / (mel[2] - mel[0])) < 3
    )  # 440 Hz stands where it should


def test_ogm_spectrogram():
    picture = audio.ogm_spectrogram(tone(), 16000)
    assert picture.shape == (257, 188) and torch.isfinite(picture).all()
    assert abs(picture[:, 50].argmax().item() - 440 / (22050 / 512)) <= 1


@pytest.mark.parametrize("channels, rate", [(1, 8000), (2, 44100)])
def test_waveforms_become_mono_at_their_own_rate(tmp_path, channels, rate):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(0.5, rate)] * channels, 1), rate)
    samples, found = audio.read_waveform(tmp_path / "a.wav")
    assert found == rate and samples.shape == (rate // 2,)


@pytest.mark.parametrize("available", range(1, 13))
@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
def test_frames_are_picked_inside_the_clip(available, wanted):
    segment = available // wanted
    for train in (False, True):
        for _ in range(5):
            picked = frames.pick(available, wanted, train)
            assert len(picked) == wanted and picked == sorted(picked)
            assert all(0 <= i < available for i in picked)
            if segment:
                assert [i // segment for i in picked] == list(range(wanted))
    if segment >= 2:  # the published index counts from 1
        expected = [i * segment + segment // 2 - 1 for i in range(wanted)]
        assert frames.pick(available, wanted, False) == expected


def test_real_video_is_read(real_digits):
    """Talking faces in MPEG, 25 frames per second, about 3 s."""
    for path in sorted((real_digits / "grid").glob("*.mpg")):
        assert len(video.read_frames(path, 3)) == 9
        assert len(video.read_frames(path, 1)) == 3
        assert len(video.read_frames(path, 1000)) == 75
        assert video.read_frames(path, 3)[0].shape == (288, 360, 3)


# Digits


def test_avmnist_is_disjoint_and_true_to_its_sources(avmnist_root, real_digits):
    for part, pictures_of in (("train", "train"), ("test", "test")):
        _, digits = avmnist.mnist(pictures_of, real_digits, avmnist_root)
        origin = [row for row in csv.reader((avmnist_root / f"{part}_origin.csv").open())]
        labels = dict(csv.reader((avmnist_root / f"{part}.csv").open()))
        for sample, index, name in origin:
            assert labels[sample] == str(digits[int(index)]) == name[0]
            assert (name.split("_")[1] in avmnist.HELD_OUT_SPEAKERS) == (part == "test")
    with Image.open(next((avmnist_root / "visual").iterdir())) as picture:
        assert picture.size == (28, 28) and picture.mode == "L"


def test_index_split_is_that_of_the_data_set(real_digits, tmp_path):
    names = list(avmnist.recordings(real_digits, tmp_path))
    test = [n for n in names if avmnist.is_test_recording(n, "index")]
    assert (len(names), len(test)) == (3000, 300)
    test = [n for n in names if avmnist.is_test_recording(n, "speaker")]
    assert len(test) == 1000


def test_weakening_removes_the_leading_components(real_digits, tmp_path):
    pictures, digits = avmnist.mnist("test", real_digits, tmp_path)
    assert np.bincount(digits).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    for energy in (0.75, 0.92):
        weak = avmnist.Weaken(pictures, energy)(pictures)
        left = (weak / 127.5 - 1).reshape(len(weak), -1).var(0).sum()
        share = left / (pictures / 255.0).reshape(len(pictures), -1).var(0).sum()
        assert 1 - energy - 0.03 < share <= 1 - energy + 0.005
    assert np.array_equal(avmnist.Weaken(pictures, 0)(pictures), pictures)


def test_recordings_take_turns():
    names = [f"{d}_theo_{i}" for d in range(10) for i in range(3)]
    digits = np.repeat(np.arange(10), 6)
    pairs = avmnist.pair(digits, names, 60, np.random.default_rng(0))
    assert len({index for index, _ in pairs}) == 60
    assert all(name[0] == str(digits[index]) for index, name in pairs)
    counts = {name: sum(n == name for _, n in pairs) for name in names}
    assert set(counts.values()) == {2}


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--energy_removed=1.0", "--energy_removed 1.0: must be at least 0 and below 1"),
        ("--train_size=70000", "--train_size 70000: must be between 10 and 60000"),
        ("--source=nowhere", "--source nowhere: no such file or folder"),
    ],
)
def test_avmnist_bad_input(tmp_path, flag, message):
    with pytest.raises(BadInput, match=message):
        avmnist.main(["--output", str(tmp_path / "out"), flag])
    assert not (tmp_path / "out").exists()


def test_damaged_archives_are_refused(tmp_path, real_digits):
    source = tmp_path / "source"
    source.mkdir()
    command = ["--source", str(source), "--output", str(tmp_path / "out")]
    with pytest.raises(BadInput, match="has no recordings.tar.gz"):
        avmnist.main(command)
    archive = real_digits / "fsdd" / "recordings.tar.gz"
    (source / "recordings.tar.gz").write_bytes(archive.read_bytes()[:100000])
    with pytest.raises(BadInput, match="recordings.tar.gz: (unreadable|SHA-256)"):
        avmnist.main(command)
    name = "t10k-labels-idx1-ubyte"
    (source / f"{name}.gz").write_bytes(gzip.compress(b"other content"))
    (source / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(BadInput, match="unreadable"):
        avmnist.mnist("test", source, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def server(tmp_path):
    """The address of a server on this machine that serves tmp_path/served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()


def test_downloads(server, tmp_path):
    (tmp_path / "served" / "a.bin").write_bytes(b"content")
    missing, there = f"{server}missing", f"{server}a.bin"
    path = fetch((missing, there), tmp_path / "downloads" / "a.bin")
    assert path.read_bytes() == b"content"
    (tmp_path / "served" / "a.bin").unlink()
    assert fetch((there,), path) == path  # not asked for again
    with pytest.raises(BadInput, match="cannot download b.bin: .*missing .*404"):
        fetch((missing,), tmp_path / "downloads" / "b.bin")
    there = {p.name for p in (tmp_path / "downloads").iterdir()}
    assert {name for name in there if not name.endswith(".lock")} == {"a.bin"}
    with pytest.raises(BadInput, match="a.bin: SHA-256 of its content is ed70"):
        check_sha256("a.bin", b"content", "0" * 64)


def test_published_split_is_downloaded_from_either_home(server, tmp_path, monkeypatch):
    first, second = tmp_path / "served" / "CREMAD", tmp_path / "served"
    first.mkdir()
    published_like(second, *cremad.SPLIT_COUNTS.values())
    (second / "test.csv").rename(first / "test.csv")
    monkeypatch.setattr(cremad, "SPLIT_HOMES", (f"{server}CREMAD/", server))
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {})
    split = cremad.published_split([], None, tmp_path / "out")
    assert [len(labels) for labels in split.values()] == [6698, 744]


def test_avmnist_downloads_from_its_homes(server, tmp_path, real_digits, monkeypatch):
    for name in avmnist.MNIST_SHA256:
        shutil.copy(real_digits / "mnist" / f"{name}.gz", tmp_path / "served")
    shutil.copy(real_digits / "fsdd" / "recordings.tar.gz", tmp_path / "served")
    monkeypatch.setattr(avmnist, "MNIST_HOMES", (f"{server}gone/", server))
    monkeypatch.setattr(avmnist, "FSDD_HOMES", (f"{server}recordings.tar.gz",))
    root = tmp_path / "data" / "avmnist"
    avmnist.main(["--output", str(root), "--train_size", "20", "--test_size", "10"])
    assert len(read_split(root / "train.csv", avmnist.DIGITS)) == 20


def test_the_script_names_the_choices_and_passes_flags_on(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def script(*argv):
        command = ["sh", "script/prepare.sh", *argv]
        env = os.environ | {"PATH": path}
        return subprocess.run(command, cwd=CODE, env=env, capture_output=True, text=True)

    for argv in (["nothing"], []):
        done = script(*argv)
        assert done.returncode != 0
        assert "choose from avmnist cgmnist cremad demo" in done.stderr
    done = script("cgmnist", "--check", "--output", str(tmp_path))
    assert done.returncode == 2 and "has no manifest.sha256" in done.stderr
