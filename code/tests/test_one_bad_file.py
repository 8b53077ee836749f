"""One bad file never ends all: it is named and left out, whatever is wrong with it, and costs no
more than its limits."""

import gzip
import http.server
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import wave
import zipfile
import zlib
from functools import partial
from pathlib import Path

import av
import hostile
import numpy as np
import pytest
import soundfile
import torch
from commands import CODE
from damage import fails
from media import problems_of, write_media
from PIL import Image

import predict
from dataset import _limits as limits
from dataset._loader import build_loaders
from dataset.folder import Dataset
from dataset.media.audio import read_sound_track, read_waveform
from dataset.media.render import read_mesh
from dataset.media.video import read_frames
from dataset.modalities import array, image, item_of, spectrogram
from dataset.prepare import _preparation as preparation
from dataset.prepare import cremad, derive, modelnet40
from dataset.prepare._archive import unpack
from dataset.prepare._download import fetch
from training import options
from utils.errors import BadInput

TONE = 0.3 * np.sin(np.arange(8000) * 0.1)


# Whatever a decoder does at a file


@pytest.mark.parametrize(
    "how, processes, message",
    [
        (MemoryError(), 1, "cannot be used (MemoryError)"),
        ("encoding", 2, "cannot be used ('utf-8' codec can't"),
        (KeyError("a\nb"), 1, "cannot be used ('a\\nb')"),
        (BadInput("silent"), 1, "silent"),
        (PermissionError(13, "Permission denied", "bad.mp4"), 1, "unreadable (Permission denied)"),
        ("recursion", 1, "cannot be used (maximum recursion depth exceeded"),
        ("exit", 1, "ended its process (exit status 3)"),
        (signal.SIGSEGV, 1, "ended its process (SIGSEGV)"),
        (signal.SIGKILL, 2, "ended its process (SIGKILL, perhaps for its memory)"),
    ],
)
def test_whatever_a_decoder_does_names_its_file_and_costs_no_other(
    how, message, processes, tmp_path
):
    files = [tmp_path / name for name in ("a.mp4", "bad.mp4", "c.mp4", "d.mp4")]
    jobs = {file.stem: ([file], how) for file in files}
    problems = preparation.convert(fails, jobs, processes, "x")
    assert list(problems) == ["bad"] and str(problems["bad"]).startswith(f"{files[1]}: {message}")
    assert sorted(tmp_path.iterdir()) == [files[0], files[2], files[3]]


def test_a_decoder_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.prepare._workers.MOST_SECONDS", 5)
    jobs = {name: ([tmp_path / name], "hang") for name in ("bad.mp4", "c.mp4")}
    problems = preparation.convert(fails, jobs, 1, "x")
    assert str(problems["bad.mp4"]).endswith("bad.mp4: takes more than 5 s")
    assert list(tmp_path.iterdir()) == [tmp_path / "c.mp4"]


# Files that ended preparations and trainings


def wav(path, rate_hz=16000, samples=TONE):
    soundfile.write(path, samples, rate_hz, "FLOAT", format="WAV")


def low_wav(rate_hz, path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes((TONE * 2**15).astype("<i2").tobytes() * 2)


def with_nan(path):
    wav(path, samples=np.where(np.arange(8000) == 70, np.nan, TONE))


def bomb(path):
    """The head of a picture of 60,000 x 60,000."""
    Image.new("RGB", (6, 6)).save(path, "PNG")
    content = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:])


def unknown_codec(path):
    content = write_media(path.with_suffix(".mkv"), "libx264", "flac", seconds=1).read_bytes()
    for codec in (b"V_MPEG4/ISO/AVC", b"A_FLAC"):
        content = content.replace(codec, codec[:2] + b"X" * (len(codec) - 2))
    path.write_bytes(content)


def large_picture(path):
    Image.new("RGB", (300, 300), "red").save(path, "PNG")


def many_frames(path):
    write_media(path, "libx264", None, seconds=4)


def pt(value, path):
    torch.save(value, path)


def packed_pt(path):
    """20 MB in some KB."""
    torch.save(torch.zeros(2, 3), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(20_000_000) if name.endswith("data/0") else content)


def off(vertices, faces, path):
    path.write_text(f"OFF\n{vertices} {faces} 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")


def link(path):
    path.symlink_to(path.with_name("nowhere"))


def loop(path):
    path.symlink_to(path)


def tensor_of(path):
    return item_of(spectrogram.Modality(path.parent, False), path.stem)


def array_of(path):
    return item_of(array.Modality(path.parent, False), path.stem)


def picture_of(path):
    return item_of(image.Modality(path.parent, False, image_size=8), path.stem)


SMALL = {"pixels": 80_000, "frames": 30, "samples": 20_000, "numbers": 1000, "bytes": 10_000_000}
SMALL |= {"vertices and faces": 100, "seconds of sound": 4}
frames_of = partial(read_frames, frames_per_second=10)
READERS = (frames_of, read_sound_track, read_waveform, read_mesh, tensor_of, array_of, picture_of)


@pytest.mark.parametrize(
    "make, read, message",
    [
        (partial(low_wav, 1), read_waveform, "too large, 16,000 seconds of sound; at most 4 are"),
        (partial(low_wav, 80), read_sound_track, "sampled at 80 Hz, sound needs 1000 to 1000000"),
        (partial(wav, rate_hz=999), read_waveform, "too large, 8 seconds of sound; at most 4 are"),
        (partial(wav, rate_hz=2**31 - 1), read_waveform, "sampled at 2147483647 Hz, sound needs"),
        (partial(wav, samples=np.tile(TONE, 3)), read_waveform, "too large, 24,000 samples; at"),
        (partial(wav, samples=np.tile(TONE, 3)), read_sound_track, "too large, 20,480 samples; at"),
        (with_nan, read_waveform, "samples reach nan, where full scale is 1"),
        (with_nan, read_sound_track, "samples reach nan, where full scale is 1"),
        (unknown_codec, frames_of, "unreadable video .*unknown codec"),
        (unknown_codec, read_sound_track, "unreadable video .*unknown codec"),
        (many_frames, frames_of, "too large, 31 frames; at most 30 are read"),
        (bomb, picture_of, "unreadable .*3600000000 pixels"),
        (large_picture, picture_of, "too large, 90,000 pixels; at most 80,000 are read"),
        (packed_pt, tensor_of, "too large, 20,000,[0-9]+ bytes; at most 10,000,000 are"),
        (partial(pt, torch.zeros(1).expand(10**6, 10**6)), tensor_of, "too large, 1,000,000,000,0"),
        (partial(pt, torch.empty(3, 4, device="meta")), tensor_of, "unreadable"),
        (partial(off, 10**9, 1), read_mesh, "too large, 1,000,000,001 vertices and faces"),
        (partial(off, 3, 10**9), read_mesh, "too large, 1,000,000,003 vertices and faces"),
        *((link, read, "unreadable.*No such file or directory") for read in READERS),
        *((loop, read, "unreadable.*Too many levels of symbolic links") for read in READERS),
        *((Path.mkdir, read, "unreadable.*(Is a directory|No such file)") for read in READERS),
    ],
)
def test_a_bad_or_costly_file_is_named_with_its_fault(make, read, message, tmp_path, monkeypatch):
    for what, most in SMALL.items():
        monkeypatch.setitem(limits.LIMITS, what, most)
    suffix = {tensor_of: ".pt", array_of: ".npy", picture_of: ".png"}.get(read, ".mp4")
    path = tmp_path / f"a{suffix}"
    make(path)
    with pytest.raises(BadInput, match=f"{path}: {message}"):
        read(path)


def test_a_large_array_is_named(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.ones((40, 40)))
    assert array_of(tmp_path / "a.npy").shape == (1, 40, 40)
    monkeypatch.setitem(limits.LIMITS, "numbers", 1000)
    with pytest.raises(BadInput, match="a.npy: too large, 1,600 numbers; at most 1,000 are read"):
        array_of(tmp_path / "a.npy")


def test_sound_is_not_resampled_to_more_than_is_read(tmp_path, monkeypatch):
    wav(tmp_path / "a.wav", 8000)
    monkeypatch.setitem(limits.LIMITS, "samples", 20_000)
    settings = {"audio": "spectrogram", "frames_per_second": 3, "keep_mismatched": True}
    video = write_media(tmp_path / "a.mp4", audio=None, seconds=1)
    with pytest.raises(BadInput, match="too large, 22,050 samples; at most 20,000 are read"):
        cremad.from_raw([video, tmp_path / "a.wav"], "x", tmp_path / "out", settings)


# Files that are good


def test_a_stream_whose_channels_change_on_the_way_is_read(tmp_path):
    """MPEG: what two encoders wrote, one behind the other."""
    parts = []
    for layout, channels in (("mono", 1), ("stereo", 2), ("mono", 1)):
        with av.open(str(tmp_path / "part.ts"), "w") as container:
            stream = container.add_stream("mp2", rate=16000, layout=layout)
            samples = np.repeat((TONE * 2**15).astype(np.int16), channels)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            frame.rate, frame.pts = 16000, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
        parts.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    with av.open(str(tmp_path / "a.ts")) as container:
        frames = list(container.decode(audio=0))
    assert [frame.layout.nb_channels for frame in frames][:: len(frames) - 1] == [1, 1]
    assert {frame.layout.nb_channels for frame in frames} == {1, 2}
    expected = np.concatenate([frame.to_ndarray().mean(0) for frame in frames])
    samples, rate_hz = read_sound_track(tmp_path / "a.ts")
    assert rate_hz == 16000 and len(samples) == len(expected)
    assert np.abs(samples - expected).max() < 1e-4  # of 16 bits


def test_titles_in_other_alphabets_change_nothing(tmp_path):
    path = write_media(tmp_path / "a.mp4", seconds=1, moves=1)
    before = frames_of(path), read_sound_track(path)[0]
    content = path.read_bytes()
    assert content.count(b"Lavf") == 1
    path.write_bytes(content.replace(b"Lavf", b"\xff\xfe\x80\xe9"))
    assert np.array_equal(frames_of(path), before[0])
    assert np.array_equal(read_sound_track(path)[0], before[1])


def test_tensors_of_a_gpu_and_parameters_are_read(tmp_path):
    values = torch.randn(5, 7)
    torch.save(values, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, content in members.items():
            assert not name.endswith(".pkl") or content.count(b"X\x03\0\0\0cpu") == 1
            archive.writestr(name, content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"))
    torch.save(torch.nn.Parameter(values), tmp_path / "b.pt")
    for name in ("a", "b"):
        read = tensor_of(tmp_path / f"{name}.pt")
        assert torch.equal(read[0], values) and not read.requires_grad


def test_grey_and_coloured_pictures_of_one_folder_are_coloured(tmp_path):
    grey, red = Image.new("L", (8, 8), 90), Image.new("RGB", (8, 8), (200, 0, 0))
    grey.save(tmp_path / "a.png")
    assert picture_of(tmp_path / "a.png").shape == (1, 8, 8)
    red.save(tmp_path / "b.png")
    for name, picture in (("a", grey.convert("RGB")), ("b", red)):
        read = picture_of(tmp_path / f"{name}.png")
        assert np.array_equal(read.permute(1, 2, 0).numpy(), np.asarray(picture))


# Training


FLAGS = {
    "depth": [],
    "sound": ["--audio_frames", "40", "--mel_bins", "16"],
    "clip": ["--image_size", "16", "--frames_per_clip", "3"],  # all of a clip
    "photo": ["--image_size", "16"],
}


def load(root, modality, cache):
    """All batches of a modality."""
    argv = ["--dataset", "folder", "--data_root", str(root), "--num_workers", "0", "--batch_size"]
    argv += ["12", "--cache", cache, "--modalities", modality, *FLAGS[modality]]
    loaders = build_loaders(Dataset(root), vars(options.parse(argv)))
    return [batch for loader in loaders.values() for batch in loader]


def spoil(root):
    """{file: what is wrong with it}, one in each modality."""
    np.save(root / "depth" / "train3.npy", np.zeros((2, 24, 25)))
    wav(root / "sound" / "train3.wav", samples=np.zeros(8000))
    (root / "clip" / "train3" / "9.png").write_bytes(b"")
    bomb(root / "photo" / "train3.jpg")
    return {
        "depth/train3.npy": "of shape .2, 24, 25., others of .2, 24, 24.; all need one, or",
        "sound/train3.wav": "silent",
        "clip/train3/9.png": "unreadable",
        "photo/train3.jpg": "unreadable",
    }


@pytest.mark.parametrize("cache", ["on", "off"])
def test_training_names_the_file_that_it_cannot_read(cache, own_data):
    assert all(len(load(own_data, modality, cache)) == 3 for modality in FLAGS)
    for file, message in spoil(own_data).items():
        with pytest.raises(BadInput, match=f"{own_data / file}: {message}"):
            load(own_data, file.split("/")[0], cache)


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x"), RecursionError("x")])
def test_whatever_a_reader_raises_names_its_file(error, own_data, monkeypatch):
    def raises(self, sample_id):
        if sample_id == "test2":
            raise error
        return torch.zeros(2, 24, 24)

    monkeypatch.setattr(array.Modality, "pack", raises)
    for cache in ("on", "off"):
        with pytest.raises(BadInput, match="depth/test2.npy: unreadable"):
            load(own_data, "depth", cache)


# Preparations


def test_a_preparation_and_derive_leave_bad_files_out_and_go_on(raw_modelnet, own_data, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw_modelnet, source)
    off(3, 10**9, source / "lamp" / "train" / "lamp_0001.off")
    (source / "lamp" / "train" / "lamp_0002.off").write_bytes(b"OFF\n\xff\xff")
    argv = ["--source", str(source), "--output", str(tmp_path / "out"), "--jobs", "1"]
    modelnet40.main([*argv, "--size", "8"])
    problems = problems_of(tmp_path / "out")
    assert list(problems) == ["lamp_0001", "lamp_0002"]
    assert all(f"{name}.off: " in problem for name, problem in problems.items())
    assert len(list((tmp_path / "out" / "front").iterdir())) == 10
    bomb(own_data / "photo" / "test1.jpg")
    (own_data / "photo" / "test2.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match="grey: without 2 of 12 samples, .*test1.jpg.*; .*test2.jpg"):
        derive.main(["grey", "--data_root", str(own_data), "--source", "photo", "--jobs", "1"])
    assert len(list((own_data / "grey").iterdir())) == 10


def test_objects_of_one_name_are_told_apart_and_names_alike_are_said(
    raw_modelnet, tmp_path, capsys
):
    source = tmp_path / "raw"
    shutil.copytree(raw_modelnet, source)
    for place in ("bottle/train", "lamp/train", "lamp/test"):
        min((source / place).iterdir()).rename(source / place / "same.off")
    (source / "bottle" / "train" / "bottle_0002.off").rename(source / "bottle/train/SAME.off")
    argv = ["--source", str(source), "--output", str(tmp_path / "out"), "--jobs", "1"]
    modelnet40.main([*argv, "--size", "8"])
    there = {path.stem for path in (tmp_path / "out" / "front").iterdir()}
    assert len(there) == 12 and not problems_of(tmp_path / "out")
    assert there > {"SAME", "bottle_train_same", "lamp_train_same", "lamp_test_same"}
    assert "NOTE: 1 names are of several objects, such as same" in capsys.readouterr().out
    preparation.tell_alike(["a", "A", "b", "a.b"])
    assert "NOTE: 1 ids differ from another in capital letters only, a and A:" in (
        capsys.readouterr().out
    )


# Archives


def packed(kind, members, level=0):
    target = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED if level else 0) as file:
            for name, data in members.items():
                file.writestr(name, data)
        return target.getvalue()
    with tarfile.open(fileobj=target, mode="w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return gzip.compress(target.getvalue(), level) if kind == "tar.gz" else target.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_changed_byte_in_an_archive_is_never_unpacked(kind, tmp_path):
    data = random.Random(0).randbytes(3000)
    content, path = packed(kind, {"a": data, "b": data}), tmp_path / f"x.{kind}"
    path.write_bytes(content)
    assert (unpack(path, tmp_path / "whole") / "b").read_bytes() == data
    first = content.index(data[:50])
    for position in (first, first + 100, content.rindex(data[-50:]), len(content) - 5):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(BadInput, match=f"{path}: "):
            if (unpack(path, tmp_path / "out") / "a").read_bytes() == data:  # its list or comment
                raise BadInput(f"{path}: ")
        assert kind == "zip" or not (tmp_path / "out").exists()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_archives_that_hold_too_much_or_end_too_early_are_named(tmp_path, monkeypatch):
    zeros, data = bytes(20_000_000), random.Random(0).randbytes(3000)
    for kind in ("zip", "tar.gz"):
        path = tmp_path / f"bomb.{kind}"
        path.write_bytes(packed(kind, {"a": zeros}, level=6))
        with pytest.raises(
            BadInput, match=f"{path}: too large, [0-9,]+ times the bytes of the arc"
        ):
            unpack(path, tmp_path / "out")
    content = packed("tar", {"a": data, "b": data})
    for name, changed in {
        "no end": content[: content.rindex(data) + 3072],
        "no member": content[:3600] + b"x" + content[3601:],  # in the head of b
    }.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(changed)
        with pytest.raises(BadInput, match=f"{path}: (truncated|damaged)"):
            unpack(path, tmp_path / "out")
    path = tmp_path / "data[1].tar"
    path.write_bytes(content)
    process = subprocess.Popen(["true"])
    process.wait()
    (tmp_path / f".data[1].{process.pid}.tmp").mkdir()  # as a killed process leaves it
    unpack(path, tmp_path / "data[1]")
    assert not list(tmp_path.glob(".*.tmp"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(BadInput, match="data.1..tar: holds 0.0 GB, 0.0 GB are free"):
        unpack(path, tmp_path / "other")
    assert not (tmp_path / "out").exists() and not (tmp_path / "other").exists()


# Downloads


class Home(http.server.BaseHTTPRequestHandler):
    """Every path is a fault of its own; /good is none."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        if self.path == "/status":
            return self.send_error(503)
        if self.path == "/nothing":
            return None
        if self.path == "/garbage":
            return self.wfile.write(b"\xff\xfe garbage\r\n\r\n")
        if self.path == "/slow":
            time.sleep(3)
            return None
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/redirect")
            return self.end_headers()
        content = b"good" if self.path in ("/good", "/short") else b"<html>log in</html>"
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"40\r\ngood")
        length = {"/short": 100, "/length": "many"}.get(self.path, len(content))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        return self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def home():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Home)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def good(path):
    if path.read_bytes() != b"good":
        raise BadInput(f"{path}: other content")
    return "good"


DEAD = "status nothing garbage slow redirect short length chunked other".split()


@pytest.mark.parametrize(
    "dead", [*DEAD, "http://127.0.0.1:9/x", "http://nowhere.invalid/x", "file:///nowhere", "x"]
)
def test_a_dead_first_address_of_any_kind_leads_to_the_second(dead, home, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.prepare._download.TIMEOUT_SECONDS", 1)
    first = f"{home}/{dead}" if dead in DEAD else dead
    with pytest.raises(BadInput, match="cannot download a.zip: "):
        fetch([first], tmp_path / "a.zip", good)
    assert fetch([first, f"{home}/good"], tmp_path / "a.zip", good) == "good"
    assert (tmp_path / "a.zip").read_bytes() == b"good"
    (tmp_path / "a.zip").write_bytes(b"bad")
    with pytest.raises(BadInput, match="other content; delete .*a.zip and run it again"):
        fetch([first], tmp_path / "a.zip", good)


# Predictions


@pytest.fixture(scope="module")
def uniform(trained):
    return str(trained("mmpareto"))


def answers_of(argv, capsys):
    """(what was printed, lines of errors) of predict.py."""
    capsys.readouterr()
    try:
        predict.main(argv)
    except SystemExit as stop:
        assert stop.code == 1
    printed = capsys.readouterr()
    return printed.out, [x for x in printed.err.splitlines() if x.startswith("error: ")]


def test_predictions_share_the_rules(uniform, tmp_path, capsys):
    """One bad file costs its own answer; a file that stands twice is answered twice; what cannot
    be written costs no answer that was printed."""
    file = str(write_media(tmp_path / "a.mp4", seconds=2))
    low_wav(1, tmp_path / "low.wav")
    bad = [f"{file},{tmp_path}/low.wav", f"{tmp_path}/none.mp4", "x" * 5000]
    argv = [uniform, file, *bad, file, "--json", str(tmp_path / "out.json")]
    printed, errors = answers_of(argv, capsys)
    assert printed.count("answer") == 2 and len(errors) == 3
    assert "low.wav: too large, 16,000 seconds of sound" in errors[0]
    assert "none.mp4: missing" in errors[1] and "File name too long" in errors[2]
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(written) == [file, f"{file} (2)"] and written[file] == written[f"{file} (2)"]
    argv = [uniform, file, "--json", str(tmp_path / "a.mp4" / "out.json")]
    printed, errors = answers_of([*argv, "--picture", str(tmp_path / "x.nothing")], capsys)
    assert printed.count("answer") == 1 and len(errors) == 2
    assert "out.json: cannot be written (" in errors[0] and "x.nothing: cannot be" in errors[1]


def test_logits_that_are_not_finite_are_no_answer(uniform, tmp_path, capsys, monkeypatch):
    file = str(write_media(tmp_path / "a.mp4", seconds=2))
    monkeypatch.setattr(predict, "answers", lambda logits: torch.full((len(logits),), -1))
    printed, errors = answers_of([uniform, file], capsys)
    assert not printed and errors == [
        f"error: {file}: the model's logits are not finite, so it has no answer"
    ]


# At random


def test_files_drawn_at_random_are_exact_or_named(tmp_path):
    for seed in range(40):
        hostile.check(seed, tmp_path)


@pytest.mark.slow
def test_many_files_drawn_at_random_are_exact_or_named(fuzz, tmp_path):
    """In a process of its own, whose memory nothing else takes."""
    count = 10 * len(fuzz)
    command = [sys.executable, "tests/hostile.py", "40", str(count), str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(CODE)}
    done = subprocess.run(command, cwd=CODE, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["peak_mb"] < 2000 and said["slowest"] < 20, said
    kinds = [*hostile.KINDS, "archive"]
    for kind in kinds:
        for read in (True, False):
            assert said["outcomes"][str((kind, read))] > count / 10 / len(kinds), said
