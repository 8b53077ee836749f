"""The packed cache, and augmentation from it: same samples, same distribution, never half there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from dataset._cache import open_cache
from dataset._loader import SampleDataset, collate
from dataset._samples import Sample
from dataset.modalities import frames, spectrogram
from dataset.modalities.frames import crop_resize_flip
from utils.errors import BadInput

CODE = Path(__file__).resolve().parents[1]


def reader(root, cache_dir=None, train=True, augment="loader", **changes):
    """The visual reader of a prepared set, with a cache if `cache_dir` is given."""
    flags = dict(image_size=32, frames_per_clip=2, cache_pixels=0, augment=augment)
    made = frames.Modality(root / "visual", train, **flags | changes)
    if cache_dir:
        made.packed = open_cache(made, made.ids(), cache_dir, workers=0)
    return made


def batch_of(made, ids, epoch=0):
    data = SampleDataset([Sample(i, 0) for i in ids], {"visual": made}, seed=0)
    inputs, _ = collate([data[epoch, i] for i in range(len(ids))])
    return made.on_device(inputs["visual"])


def grey_levels(a, b):
    """Largest difference, in grey levels of 255."""
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)  # of the normalisation
    return float(((a - b) * deviation).abs().max()) * 255


@pytest.mark.parametrize("train", [False, True])
def test_cached_and_device_samples_are_those_of_the_files(train, demo_root, tmp_path):
    """The same frames, crops and flips for the same seed; the pixels a grey level apart."""
    ids = sorted(reader(demo_root).ids())[:12]
    for epoch in (0, 1):
        plain = batch_of(reader(demo_root, train=train), ids, epoch)
        cached = batch_of(reader(demo_root, tmp_path, train), ids, epoch)
        device = batch_of(reader(demo_root, tmp_path, train, "device"), ids, epoch)
        assert plain.shape == (12, 2, 3, 32, 32)
        assert grey_levels(plain, cached) <= 1.01
        assert grey_levels(cached, device) <= 1.01
    assert train == (not torch.equal(plain, batch_of(reader(demo_root, train=train), ids, 0)))


def test_spectrograms_come_out_to_the_last_digit(demo_root, tmp_path):
    made = spectrogram.Modality(demo_root / "audio", True)
    ids = sorted(made.ids())
    plain = [made.read(i) for i in ids]
    made.packed = open_cache(made, ids, tmp_path, workers=2)
    assert all(torch.equal(a, made.read(i)) for a, i in zip(plain, ids))


def test_boxes_are_distributed_like_random_resized_crop(demo_root, tmp_path):
    """Kolmogorov-Smirnov on area share, aspect ratio and place, and the share of flips."""
    made, n = reader(demo_root, tmp_path, augment="device"), 4000
    torch.manual_seed(0)
    ours = torch.tensor([made._box(48, 64) for _ in range(n)], dtype=torch.float64)
    crop = v2.RandomResizedCrop(32)
    picture = torch.zeros(3, 48, 64)
    drawn = [crop.make_params([picture]) for _ in range(n)]
    theirs = torch.tensor(
        [[d["top"], d["left"], d["height"], d["width"]] for d in drawn], dtype=torch.float64
    )

    def figures(boxes):
        top, left, height, width = boxes[:, :4].unbind(1)
        return height * width, width / height, top + height / 2, left + width / 2

    for a, b in zip(figures(ours), figures(theirs)):
        points = torch.cat([a, b])
        share_a, share_b = ((x.sort()[0][None] <= points[:, None]).double().mean(1) for x in (a, b))
        assert (share_a - share_b).abs().max() < 1.95 * (2 / n) ** 0.5  # p = 0.001
    assert abs(ours[:, 4].mean() - 0.5) < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("size", [5, 16, 40])
def test_crop_resize_flip_equals_torchvision(size):
    """Up- and downscaling; an impulse, an edge and noise."""
    clips = torch.randint(256, (2, 2, 3, 24, 30), dtype=torch.uint8)
    clips[0, 0] = 0
    clips[0, 0, :, 11, 13] = 255
    clips[0, 1, :, :, 15:] = 255
    boxes = torch.tensor(
        [[[0, 0, 24, 30, 0], [3, 5, 10, 20, 1]], [[23, 29, 1, 1, 0], [2, 0, 22, 7, 1]]]
    )
    ours = crop_resize_flip(clips, boxes, size)
    for b in range(2):
        for t in range(2):
            top, left, height, width, mirrored = boxes[b, t].tolist()
            expected = v2.functional.resized_crop(
                clips[b, t].double(), top, left, height, width, [size, size], antialias=True
            )
            expected = expected.flip(-1) if mirrored else expected
            torch.testing.assert_close(ours[b, t].double(), expected, rtol=1e-4, atol=1e-3)


def caches(folder):
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


def test_built_once_and_again_when_stale(demo_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root, ignore=shutil.ignore_patterns("cache"))
    reader(root, tmp_path / "c")
    (first,) = caches(tmp_path / "c")
    assert capsys.readouterr().out.startswith("cache: visual, 72 samples, ")
    reader(root, tmp_path / "c")
    assert capsys.readouterr().out == ""
    reader(root, tmp_path / "c", cache_pixels=24)  # other options have their own
    assert len(caches(tmp_path / "c")) == 2
    made = reader(root)
    clip = sorted(made.ids())[0]
    Image.new("RGB", (64, 64), (9, 200, 9)).save(root / "visual" / clip / "frame_00001.jpg")
    again = reader(root, tmp_path / "c")
    assert first not in caches(tmp_path / "c") and len(caches(tmp_path / "c")) == 2
    assert (
        again.packed(clip)[0].float().mean((0, 1)) - torch.tensor([9.0, 200, 9])
    ).abs().max() < 4
    (tmp_path / "c" / caches(tmp_path / "c")[1] / "data.bin").write_bytes(b"damaged")
    for pixels in (0, 24):
        assert reader(root, tmp_path / "c", cache_pixels=pixels).packed(clip).dtype == torch.uint8


def test_cached_frames_can_be_smaller(demo_root, tmp_path):
    clip = sorted(reader(demo_root).ids())[0]
    assert min(reader(demo_root, tmp_path, cache_pixels=24).packed(clip).shape[1:3]) == 24
    assert reader(demo_root, tmp_path).packed(clip).shape[1:] == (64, 64, 3)


def test_a_full_disk_is_named_and_leaves_nothing(demo_root, tmp_path):
    """The file size limit of the process stands for the disk's end."""
    program = (
        "import resource, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path; from test_cache import reader\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))\n"
        f"reader(Path({str(demo_root)!r}), Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CODE, capture_output=True, text=True)
    assert f"--cache_dir {tmp_path}: cannot hold the cache" in done.stderr
    assert (
        "choose another folder with --cache_dir, or read the files with --cache off" in done.stderr
    )
    assert caches(tmp_path) == []


def test_too_little_space_is_known_before_it_is_filled(demo_root, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BadInput, match="needs about .* GB, 0.0 GB are free"):
        reader(demo_root, tmp_path)
    assert caches(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(demo_root, tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(BadInput, match="--cache_dir .*Permission denied"):
        reader(demo_root, tmp_path / "cache")


def test_a_build_that_is_killed_is_never_used(demo_root, tmp_path):
    program = (
        "import os, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path; import test_cache\n"
        "os.rename = lambda *paths: os._exit(9)\n"
        f"test_cache.reader(Path({str(demo_root)!r}), Path({str(tmp_path)!r}))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=CODE).returncode == 9
    assert all(name.endswith(".tmp") for name in caches(tmp_path))
    reader(demo_root, tmp_path)
    assert len(caches(tmp_path)) == 1  # what the killed one left is gone too


def test_two_runs_at_once_build_it_once(demo_root, tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path; from test_cache import reader\n"
        f"reader(Path({str(demo_root)!r}), Path({str(tmp_path)!r}))"
    )
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, cwd=CODE, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("cache: visual") for text in printed) == 1


def test_frames_of_different_sizes_are_refused(demo_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root, ignore=shutil.ignore_patterns("cache"))
    clip = sorted(reader(root).ids())[3]
    Image.new("RGB", (20, 20)).save(root / "visual" / clip / "frame_00002.jpg")
    with pytest.raises(BadInput, match=f"{clip}: frames of different sizes"):
        reader(root, tmp_path / "c")
    assert caches(tmp_path / "c") == []
