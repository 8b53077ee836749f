"""Pictures, arrays, tensors and meshes cut short or damaged are read as another reader reads them,
or refused by their name."""

import re
import zipfile

import numpy as np
import pytest
import torch
from damage import QUICK, cut, damaged, outcome
from PIL import Image

from dataset.media.render import read_mesh
from dataset.modalities import array, image, spectrogram
from training.record import peak_memory_mb


def still_lifes(folder):
    """{file: (how we read it, how another reader does)}."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    colour, files = Image.fromarray(pixels), {}

    def ours(path):
        return np.asarray(image.opened(path).convert("RGB"))

    def by_pil(path):
        return np.asarray(Image.open(path).convert("RGB"))

    for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        for mode in ("RGB", "L", "CMYK" if form in ("JPEG", "TIFF") else "P"):
            picture, path = colour.convert(mode), folder / f"{form}-{mode}.png"
            if form != "JPEG" or mode != "P":
                picture.save(path, form)
                files[path] = (ours, by_pil)
    for dtype in ("<f4", ">f8", "f2", "i2", "u1", ">u4", "?"):
        for order in "CF":
            path = folder / f"{order}{np.dtype(dtype).str[1:]}{dtype[0] == '>'}.npy"
            values = (rng.random((2, 9, 7)) * 200).astype(dtype)
            np.save(path, np.asarray(values, order=order))
            files[path] = (array_of, by_numpy)
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8):
        path = folder / f"{dtype}.pt"
        torch.save((200 * torch.rand(9, 7)).to(dtype), path)
        files[path] = (tensor_of, by_torch)
    torch.save(torch.rand(9, 7), folder / "old.pt", _use_new_zipfile_serialization=False)
    files[folder / "old.pt"] = (tensor_of, by_torch)
    for name, end, comment in (("plain", "\n", ""), ("noted", "\r\n", "# 1, # 2")):
        for polygons in ([3, 3, 3], [4, 3, 5]):
            path = folder / f"{name}-{polygons[0]}.off"
            path.write_text(off(polygons, end, comment), newline="")
            files[path] = (faces_of, by_words)
    return files


def array_of(path):
    return array.Modality(path.parent, False).pack(path.stem).numpy()


def by_numpy(path):
    values = np.float32(np.load(path))
    return values.reshape(-1, *values.shape[-2:])


def tensor_of(path):
    return spectrogram.Modality(path.parent, False).pack(path.stem)[0].numpy()


def by_torch(path):
    if zipfile.is_zipfile(path):
        assert zipfile.ZipFile(path).testzip() is None
    return torch.load(path, map_location="cpu", weights_only=True).float().numpy()


def off(polygons, end, comment):
    """A mesh with comments everywhere, and its counts right behind OFF."""
    lines = [f"OFF8 {len(polygons)} 0 {comment}", "", comment]
    lines += [f"{n % 2} {n // 2 % 2} {n // 4} {comment}" for n in range(8)]
    lines += [comment, *(f"{n} {' '.join(map(str, range(n)))}  {comment}" for n in polygons)]
    return end.join(line.rstrip() for line in lines) + end


def faces_of(path):
    return np.array(read_mesh(path).faces)


def by_words(path):
    """The triangles of an OFF file, whatever its lines are."""
    text = path.read_bytes().decode("utf-8", "replace")
    header, _, text = re.sub(r"#[^\r\n]*", "", text).partition("\n")
    vertices, faces = (int(word) for word in header[3:].split()[:2])
    words, position, triangles = text.split(), 3 * vertices, []
    for _ in range(faces):
        count, *corners = (int(word) for word in words[position:][: int(words[position]) + 1])
        triangles += [[corners[0], *corners[i : i + 2]] for i in range(1, count - 1)]
        position += 1 + count
    return np.array(triangles)


def areas_equal(ours, theirs):
    """Triangles in any order and from any corner."""
    return sorted(map(sorted, ours.tolist())) == sorted(map(sorted, theirs.tolist()))


def try_still_lifes(tmp_path, seeds):
    files = still_lifes(tmp_path)
    for path, (ours, theirs) in files.items():
        same = areas_equal if path.suffix == ".off" else np.array_equal
        assert same(ours(path), theirs(path)), path.name
        whole, content = ours(path), path.read_bytes()
        for seed in seeds:
            path.write_bytes(cut(content, seed))
            short = outcome(ours, path)
            assert short is None or same(short, whole), (path.name, seed)
            path.write_bytes(damaged(content, seed))
            changed = outcome(ours, path)
            if changed is not None and not path.name.startswith("noted"):  # `#` may be gone
                try:
                    expected = theirs(path)
                except UnicodeDecodeError:  # torch.load takes gaps in a file from any memory
                    expected = whole
                assert same(changed, expected), (path.name, seed)


def test_stills_cut_short_or_damaged_are_named_or_read_right(tmp_path):
    try_still_lifes(tmp_path, QUICK[:3])


@pytest.mark.slow
def test_many_stills_cut_short_or_damaged_are_named_or_read_right(tmp_path, fuzz):
    before = peak_memory_mb()
    try_still_lifes(tmp_path, fuzz)
    assert peak_memory_mb() <= max(2000, before)  # which other tests may have raised
