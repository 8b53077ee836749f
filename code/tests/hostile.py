"""Files as nobody should have written them, each drawn at random, and what they hold all the same
by an independent reader."""

import gzip
import io
import json
import random
import struct
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io.wavfile
import soundfile
import torch
from damage import cut, damaged, outcome
from media import write_media
from PIL import Image

from dataset.media.audio import filter_bank, ogm_spectrogram, read_sound_track, read_waveform
from dataset.media.render import read_mesh, render
from dataset.media.video import picture_seconds, read_frames
from dataset.modalities import array, image, item_of, spectrogram
from dataset.prepare._archive import unpack
from training.record import peak_memory_mb


def maybe_spoilt(draw, content):
    """Three times in four as it is, else cut or with changed bytes."""
    spoil = draw.choice([None] * 6 + [cut, damaged])
    return spoil(content, draw.random()) if spoil else content


# Sound


def wav(path, draw):
    """Any rate, number of channels and size that a header can promise, with numbers of any kind."""
    channels, form = draw.choice([1, 1, 2, 5]), draw.choice(["<i2", "<i4", "<f4", "<f8", "u1"])
    count = draw.choice([0, 50, 4000, 4000, 4000, 4000, 40_000])
    signal = np.sin(np.arange(count * channels) * draw.choice([0, 0.01, 0.2, 0.7]))
    if form[-2] == "f":
        samples = signal * draw.choice([0.5, 0.5, 0.5, 2, 32768, 1e30])
        if len(samples) and draw.random() < 0.3:
            samples[draw.randrange(len(samples))] = draw.choice([np.nan, np.inf, -np.inf, 1e38])
    else:
        samples = signal * (100 if form == "u1" else 10_000) + (128 if form == "u1" else 0)
    rate = draw.choice([8000, 16000, 44100] * 5 + [0, 1, 79, 80, 999, 1000, 192_000, 10**6, 2**31])
    width = int(form[-1])
    head = (3 if form[-2] == "f" else 1, channels, rate, rate * width * channels % 2**32)
    data = samples.astype(form).tobytes()
    promised = draw.choice([len(data)] * 12 + [0, 2**32 - 1, len(data) + 1000, len(data) // 2])
    chunks = b"fmt \x10\0\0\0" + struct.pack("<HHIIHH", *head, width * channels, 8 * width)
    chunks += b"data" + struct.pack("<I", promised) + data
    content = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    path.write_bytes(maybe_spoilt(draw, content))


def sound_of(path):
    """Sound and both of its pictures, which must be finite."""
    samples, rate_hz = read_waveform(path)
    for picture in (filter_bank(samples, rate_hz, 8, 20), ogm_spectrogram(samples, rate_hz)):
        assert picture.isfinite().all(), path
    return samples, rate_hz


def by_scipy(path):
    rate_hz, samples = scipy.io.wavfile.read(path)
    zero, scale = {"u": (128, 128), "i": (0, 2 ** (8 * samples.dtype.itemsize - 1)), "f": (0, 1)}[
        samples.dtype.kind
    ]
    samples = (samples.astype(float) - zero) / scale
    return (samples.mean(1) if samples.ndim == 2 else samples), rate_hz


def equal_sound(ours, theirs):
    """scipy gives all bytes behind a size that is a lie."""
    (ours, rate_hz), (theirs, their_rate_hz) = ours, theirs
    count = min(len(ours), len(theirs))
    return rate_hz == their_rate_hz and np.allclose(ours[:count], theirs[:count], atol=2e-4)


def packed_sound(path, draw):
    form, rates = draw.choice(
        [("FLAC", (1, 80, 8000, 16_000, 44_100, 655_350)), ("OGG", (8000, 48_000))]
    )
    samples = draw.choice([0, 0.3, 0.3]) * np.sin(np.arange(draw.choice([10] + [30_000] * 5)) * 0.1)
    target = io.BytesIO()
    soundfile.write(target, samples, draw.choice(rates), format=form)
    path.write_bytes(maybe_spoilt(draw, target.getvalue()))


def by_soundfile(path):
    return soundfile.read(path)


# Pictures


def png(path, draw):
    """Any size in the head, any kind of pixels, chunks of any kind."""
    size = draw.choice([(6, 5)] * 12 + [(0, 5), (60_000, 60_000), (9_000, 9_000)])
    depth, kind = draw.choice([(8, 2)] * 4 + [(8, 0), (16, 0), (16, 2), (8, 6), (1, 0), (3, 2)])
    width, height = size
    real = height if width < 1000 else 2
    row = max(1, width * depth * {0: 1, 2: 3, 6: 4}[kind] // 8)
    levels = draw.choice([(0, 255), (0, 1), (7, 7), (200, 255)])
    lines = (
        b"\0" + bytes(draw.randint(*levels) for _ in range(min(row, 999))) for _ in range(real)
    )
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    if draw.random() < 0.2:
        text = zlib.compress(bytes(draw.choice([10, 200_000_000])))
        chunks.append(draw.choice([(b"zTXt", b"a\0\0" + text), (b"iCCP", b"a\0\0" + text)]))
    chunks += [(b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data
        content += struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(maybe_spoilt(draw, content))


def photo(path, draw):
    pixels = np.random.default_rng(draw.randrange(9)).integers(0, 256, (9, 12, 3), np.uint8)
    picture, target = Image.fromarray(pixels), io.BytesIO()
    form, mode = draw.choice(
        [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("WEBP", "RGB")]
        + [("BMP", "RGB"), ("TIFF", "F"), ("TIFF", "RGB"), ("GIF", "P"), ("PNG", "LA")]
    )
    picture.convert("L" if mode in ("LA", "F") else mode).convert(mode).save(target, form)
    path.write_bytes(maybe_spoilt(draw, target.getvalue()))


def picture_of(path):
    return np.asarray(image.opened_alone(path).convert("RGB"))


def by_pil(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


# Arrays and tensors


def npy(path, draw):
    dtype = draw.choice(["f4", "f8", ">f4", "i8", "u1", "?", "f2"] * 3 + ["c8", "O", "U3", "M8[s]"])
    shape = draw.choice([(3, 4), (2, 3, 4)] * 4 + [(4,), (), (0, 3), (1, 2, 3, 4)])
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    target = io.BytesIO()
    np.save(target, values.astype(dtype), allow_pickle=True)
    content = target.getvalue()
    if draw.random() < 0.3 and shape == (3, 4):
        lie = draw.choice([b"(9, 4)", b"(3,-4)", b"(3, 3)", b"(99999999, 99999999), "])
        content = content.replace(b"(3, 4)", lie, 1)
    path.write_bytes(maybe_spoilt(draw, content))


def array_of(path):
    return item_of(array.Modality(path.parent, False), path.stem).numpy()


def by_numpy(path):
    values = np.float32(np.load(path))
    return values[None] if values.ndim == 2 else values  # a vector and (C, H, W) as they are


def pt(path, draw):
    """Tensors of any kind, and of another device."""
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(draw.randrange(9)))
    value = draw.choice(
        [
            *[values] * 12,
            torch.nn.Parameter(values),
            values.T,
            values.double() * draw.choice([1, 1e300, float("nan")]),
            values.to(torch.complex64),
            values.to_sparse(),
            torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
            torch.zeros(1).expand(10**6, 10**5),
            torch.empty(3, 4, device="meta"),
            values[:0],
            values[None, None],
            {"a": values},
            [values],
            "values",
        ]
    )
    torch.save(value, path, _use_new_zipfile_serialization=draw.random() < 0.8)
    if zipfile.is_zipfile(path) and draw.random() < 0.5:
        repack(path, draw)
    path.write_bytes(maybe_spoilt(draw, path.read_bytes()))


def repack(path, draw):
    """As saved on a GPU, or with its storage packed, also a large one."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    how = draw.choice(["cuda", "deflated"] * 5 + ["bomb"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if how != "cuda" else 0) as archive:
        for name, content in members.items():
            if how == "cuda" and name.endswith(".pkl"):
                content = content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            if how == "bomb" and name.endswith("data/0"):
                content = bytes(600_000_000)
            archive.writestr(name, content)


def tensor_of(path):
    return item_of(spectrogram.Modality(path.parent, False), path.stem)[0].numpy()


def by_torch(path):
    return torch.load(path, map_location="cpu", weights_only=True).float().detach().numpy()


# Meshes


def off(path, draw):
    vertices, faces = draw.choice([(4, 2)] * 12 + [(0, 0), (-1, 2), (10**9, 10**9), (4, 10**8)])
    corner = draw.choice(["0"] * 9 + ["1e3", "nan", "inf", "1e39", "x"])
    lines = [draw.choice(["OFF"] * 9 + ["OFF4 2 0", "COFF", "off", "PLY", ""])]
    lines += [f"{vertices} {faces} 0", f"{corner} 0 0", "1 0 0", "0 1 0", "0 0 1"]
    lines += draw.choice([["3 0 1 2", "3 1 2 3"]] * 9 + [["3 0 1 9", "3 1 2 -1"], ["2 0 1", "0"]])
    lines += draw.choice([[], ["# end"], ["9" * 5000]])
    path.write_bytes(maybe_spoilt(draw, "\n".join(lines).encode()))


def mesh_of(path):
    mesh = read_mesh(path)
    assert render(mesh, 0, 8).dtype == np.uint8
    return np.array(mesh.faces)


# Videos


CODECS = [("mp4", "libx264", "aac"), ("avi", "mpeg4", "mp3"), ("flv", "flv", "mp3")]
CODECS += [("webm", "libvpx", "libopus"), ("mkv", "libx264", "flac"), ("ts", "mpeg4", "mp2")]
WHOLE: dict[str, bytes] = {}  # {suffix: a clip}


def video(path, draw):
    suffix, *codecs = draw.choice(CODECS)
    if suffix not in WHOLE:
        written = write_media(path.with_suffix(f".{suffix}"), *codecs, seconds=1.2, moves=1)
        WHOLE[suffix] = written.read_bytes()
        written.unlink()
    content = WHOLE[suffix]
    for _ in range(draw.choice([0, 1, 1, 3])):
        content = damaged(content, draw.random())
    if draw.random() < 0.2:
        content = content.replace(b"Lavf", b"\xff\xfe\x80\0")
    path.write_bytes(maybe_spoilt(draw, content))


def clip_of(path):
    frames = read_frames(path, 10)
    assert picture_seconds(path) >= 0 and len({frame.shape for frame in frames}) == 1
    samples, rate_hz = read_sound_track(path)
    assert filter_bank(samples, rate_hz, 8, 20).isfinite().all()
    return frames


# Archives


def archive(path, draw):
    """A zip or tar file of two texts, or what should not be in one."""
    names = ["a.txt", "b/c.txt"] + [draw.choice(["../d", "/tmp/e", "x\\..\\..\\y"])] * (
        draw.random() < 0.2
    )
    content = {name: draw.randbytes(3000) for name in names}
    if draw.random() < 0.2:
        content["zeros"] = bytes(30_000_000)
    target, kind = io.BytesIO(), draw.choice(["zip", "tar", "gz"])
    if kind == "zip":
        with zipfile.ZipFile(target, "w", draw.choice([0, zipfile.ZIP_DEFLATED])) as file:
            for name, data in content.items():
                file.writestr(name, data)
    else:
        with tarfile.open(fileobj=target, mode="w") as file:
            for name, data in content.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
            if draw.random() < 0.1:
                member = tarfile.TarInfo("link")
                member.type = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
                member.linkname = draw.choice(["../../../etc/passwd", "a.txt"])
                file.addfile(member)
    data = target.getvalue()
    if kind == "gz":
        data = gzip.compress(data, draw.choice([0, 6]))
    path.write_bytes(maybe_spoilt(draw, data))
    return content if kind != "tar" else {}  # which has no checksums


# {kind: (suffix, what writes it, how we read it, how another does or None, whether they are equal)}
KINDS = {
    "wav": (".wav", wav, sound_of, by_scipy, equal_sound),
    "sound": (".wav", packed_sound, sound_of, by_soundfile, equal_sound),
    "png": (".png", png, picture_of, by_pil, np.array_equal),
    "photo": (".png", photo, picture_of, by_pil, np.array_equal),
    "npy": (".npy", npy, array_of, by_numpy, np.array_equal),
    "pt": (".pt", pt, tensor_of, by_torch, np.array_equal),
    "off": (".off", off, mesh_of, None, None),
    "video": (".mp4", video, clip_of, None, None),
}


def check(seed, folder):
    """A file drawn with this seed is exact or named; returns its kind, and whether it was read."""
    draw = random.Random(seed)
    kind = draw.choice([*KINDS, "archive"])
    if kind == "archive":
        path = folder / f"x{seed}.{draw.choice(['zip', 'tar', 'tgz'])}"
        content = archive(path, draw)
        unpacked = outcome(partial(unpack, folder=folder / f"{seed}"), path)
        if unpacked and content:
            for name, data in content.items():
                assert (unpacked / name.lstrip("/")).read_bytes() == data, path
        return kind, unpacked is not None
    suffix, make, read, theirs, are_equal = KINDS[kind]
    (folder / f"{seed}").mkdir()
    path = folder / f"{seed}" / f"x{seed}{suffix}"
    make(path, draw)
    ours = outcome(read, path)
    if ours is not None and theirs:
        assert are_equal(ours, theirs(path)), path
    path.unlink()
    return kind, ours is not None


def main(first, count, folder):
    """What .../hostile.py 0 1000 FOLDER prints: read and refused of each kind, seconds of the
    slowest, most memory in MB."""
    warnings.simplefilter("ignore")
    outcomes, slowest = Counter(), 0.0
    for seed in range(int(first), int(first) + int(count)):
        start = time.process_time()
        outcomes[str(check(seed, Path(folder)))] += 1
        slowest = max(slowest, time.process_time() - start)
    seen = {"outcomes": outcomes, "slowest": slowest, "peak_mb": peak_memory_mb()}
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
