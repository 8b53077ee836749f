"""The packed cache, and augmentation from it: same samples, same distribution, never half there."""

import os
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
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

IDS = [f"clip{i:02d}" for i in range(12)]
MEAN, DEVIATION = (  # of ImageNet's pictures in [0, 1]
    torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)


@pytest.fixture
def root(tmp_path):
    """Twelve clips of four frames, 64 wide and 48 high."""
    rng = np.random.default_rng(0)
    for name in IDS:
        folder = tmp_path / "data" / "visual" / name
        folder.mkdir(parents=True)
        for number in range(1, 5):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            coarse.resize((64, 48)).save(folder / f"frame_{number:05d}.jpg")
    return tmp_path / "data"


def reader(root, cache_dir=None, train=True, augment="loader", **changes):
    """The visual reader of a prepared set, with a cache if `cache_dir` is given."""
    flags = dict(image_size=32, frames_per_clip=2, cache_pixels=0, augment=augment)
    modality = frames.Modality(root / "visual", train, **flags | changes)
    if cache_dir:
        modality.packed = open_cache(modality, modality.ids(), cache_dir, workers=0)
    return modality


def batch_of(modality, epoch=0):
    data = SampleDataset([Sample(i, 0) for i in IDS], {"visual": modality}, seed=0)
    inputs, _ = collate([data[epoch, i] for i in range(len(IDS))])
    return modality.on_device(inputs["visual"])


def grey_levels(a, b):
    """Largest difference, in grey levels of 255."""
    return float(((a - b) * DEVIATION).abs().max()) * 255


@pytest.mark.parametrize("train", [False, True])
def test_cached_and_device_samples_are_those_of_the_files(train, root, tmp_path):
    """The same frames, crops and flips for the same seed; the pixels a grey level apart."""
    for epoch in (0, 1):
        plain = batch_of(reader(root, train=train), epoch)
        cached = batch_of(reader(root, tmp_path, train), epoch)
        device = batch_of(reader(root, tmp_path, train, "device"), epoch)
        assert plain.shape == (12, 2, 3, 32, 32)
        assert grey_levels(plain, cached) <= 1.01
        assert grey_levels(cached, device) <= 1.01
    assert train == (not torch.equal(plain, batch_of(reader(root, train=train), epoch=0)))


@pytest.mark.parametrize("augment", ["loader", "device"])
def test_testing_shows_the_whole_frame_upright_and_normalised(augment, root, tmp_path):
    batch = batch_of(reader(root, tmp_path, False, augment, image_size=48))
    for name, clip in zip(IDS, batch):
        for number, shown in zip((1, 3), clip):  # the published frame of each half
            with Image.open(root / "visual" / name / f"frame_{number:05d}.jpg") as picture:
                whole = np.array(picture.resize((48, 48), Image.Resampling.BILINEAR))
            expected = (torch.from_numpy(whole).permute(2, 0, 1) / 255 - MEAN) / DEVIATION
            assert grey_levels(shown, expected) <= 1.01


def test_spectrograms_come_out_to_the_last_digit(tmp_path):
    (tmp_path / "audio").mkdir()
    for name in IDS:
        torch.save(torch.randn(9, 7), tmp_path / "audio" / f"{name}.pt")
    modality = spectrogram.Modality(tmp_path / "audio", True)
    plain = [modality.read(i) for i in IDS]
    modality.packed = open_cache(modality, IDS, tmp_path, workers=2)
    assert all(torch.equal(a, modality.read(i)) for a, i in zip(plain, IDS))


def test_training_frames_are_cropped_mirrored_and_normalised_as_published(root):
    published = v2.Compose(
        [
            v2.RandomResizedCrop(32),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN.flatten().tolist(), DEVIATION.flatten().tolist()),
        ]
    )
    modality = reader(root)
    for name in IDS:
        torch.manual_seed(0)
        numbers = [i + 1 for i in frames.pick(4, 2, True)]
        files = [root / "visual" / name / f"frame_{number:05d}.jpg" for number in numbers]
        expected = torch.stack([published(Image.open(file)) for file in files])
        torch.manual_seed(0)
        torch.testing.assert_close(modality.on_device(modality.read(name)), expected)


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


def test_the_cache_is_built_once_for_each_set_of_options(root, tmp_path, capsys):
    cache = tmp_path / "c"
    reader(root, cache)
    assert capsys.readouterr().out.startswith("cache: visual, 12 samples, ")
    reader(root, cache)
    assert capsys.readouterr().out == ""
    assert reader(root, cache).packed(IDS[0]).shape == (4, 48, 64, 3)
    assert reader(root, cache, cache_pixels=24).packed(IDS[0]).shape == (4, 24, 32, 3)
    assert len(caches(cache)) == 2


def test_a_file_that_changed_is_packed_anew(root, tmp_path):
    """Even one of the same name and size."""
    cache = tmp_path / "c"
    reader(root, cache)
    (stale,) = caches(cache)
    file = root / "visual" / IDS[0] / "frame_00001.jpg"
    before = file.stat()
    Image.new("RGB", (64, 48), (9, 200, 9)).save(file)
    file.write_bytes(file.read_bytes().ljust(before.st_size, b"\0"))
    assert file.stat().st_size == before.st_size
    mean_colour = reader(root, cache).packed(IDS[0])[0].float().mean((0, 1))
    torch.testing.assert_close(mean_colour, torch.tensor([9.0, 200, 9]), atol=4, rtol=0)
    assert len(caches(cache)) == 1 and stale not in caches(cache)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def extend(path):
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize(
    "name, damage, why",
    [
        ("index.json", truncate, "index.json is missing or is not what was written"),
        ("index.json", flip, "index.json is missing or is not what was written"),
        ("index.json", os.unlink, "index.json is missing or is not what was written"),
        ("index.json", lambda path: path.write_text("[]"), "is not what was written"),
        ("index.json", lambda path: path.write_bytes(b"0\n\xff"), "is not what was written"),
        ("data.bin", truncate, "were written"),
        ("data.bin", extend, "were written"),
        ("data.bin", os.unlink, "data.bin: No such file"),
    ],
)
def test_a_damaged_cache_is_built_anew_and_says_why(name, damage, why, root, tmp_path, capsys):
    expected = reader(root, tmp_path / "c").packed(IDS[0]).clone()
    (folder,) = caches(tmp_path / "c")
    capsys.readouterr()
    damage(tmp_path / "c" / folder / name)
    assert torch.equal(reader(root, tmp_path / "c").packed(IDS[0]), expected)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("cache: visual is built anew: damaged, ") and why in first
    assert second.startswith("cache: visual, 12 samples")


def test_a_bit_that_changed_in_a_cache_is_found_when_it_is_read(root, tmp_path, capsys):
    """The sample comes from its file then, once said; the next run builds the cache anew."""
    built = reader(root, tmp_path / "c")
    expected = {i: built.packed(i).clone() for i in IDS}
    (folder,) = caches(tmp_path / "c")
    flip(tmp_path / "c" / folder / "data.bin")
    capsys.readouterr()
    damaged = reader(root, tmp_path / "c")
    for _ in range(2):
        assert all(torch.equal(damaged.packed(i), expected[i]) for i in IDS)
    (line,) = capsys.readouterr().out.splitlines()
    assert "is damaged; of such samples the files are read instead" in line
    reader(root, tmp_path / "c")
    assert "cache: visual is built anew: damaged" in capsys.readouterr().out


def test_why_a_cache_is_built_anew(root, tmp_path, capsys):
    def opened(ids=IDS, **changes):
        open_cache(reader(root, **changes), ids, tmp_path / "c", 0)
        return capsys.readouterr().out.split("\n")[0]

    assert opened().startswith("cache: visual, 12 samples")
    assert opened(IDS[:5]).endswith("other samples are asked for, 5 in place of 12")
    first, second = (root / "visual" / IDS[n] / "frame_00001.jpg" for n in (0, 1))
    first.with_name("frame_00009.jpg").write_bytes(first.read_bytes())
    second.unlink()
    os.utime(first, (1, 1))
    why = "1 added, such as clip00/frame_00009.jpg; 1 removed, such as clip01/frame_00001.jpg; "
    assert opened().endswith(why + "1 changed, such as clip00/frame_00001.jpg")
    assert opened(cache_pixels=24).startswith("cache: visual, 12 samples")  # beside the other


def test_a_cache_is_not_taken_for_that_of_a_modality_whose_name_ends_alike(root, tmp_path):
    shutil.copytree(root / "visual", root / "front-visual")
    for name in ("front-visual", "visual", "front-visual"):
        modality = frames.Modality(root / name, True)
        open_cache(modality, modality.ids(), tmp_path / "c", 0)
    assert len(caches(tmp_path / "c")) == 2


def test_a_full_disk_is_named_and_leaves_nothing(root, tmp_path):
    """The file size limit of the process stands for the disk's end."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(BadInput, match="--cache_dir .*c: cannot hold the cache .*--cache off"):
            reader(root, tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caches(tmp_path / "c") == []


def test_a_build_that_is_killed_is_never_used(root, tmp_path, monkeypatch):
    """Killed before the last step, the rename; nothing is tidied up."""
    cache = tmp_path / "c"
    with monkeypatch.context() as killed:
        killed.setattr(os, "rename", lambda *paths: exit("killed"))
        killed.setattr(shutil, "rmtree", lambda *args, **flags: None)
        with pytest.raises(SystemExit, match="killed"):
            reader(root, cache)
    (leftover,) = caches(cache)
    assert leftover.endswith(f".{os.getpid()}.tmp") and (cache / leftover / "index.json").is_file()
    (cache / leftover).rename(cache / leftover.replace(f".{os.getpid()}.", ".1."))
    assert reader(root, cache).packed(IDS[0]).shape == (4, 48, 64, 3)
    (built,) = caches(cache)  # what the killed one left is gone too
    assert not built.endswith(".tmp")


def test_two_runs_at_once_build_it_once(root, tmp_path, capsys):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: reader(root, tmp_path / "c"), range(2))
    assert torch.equal(first.packed(IDS[0]), second.packed(IDS[0]))
    assert capsys.readouterr().out.count("cache: visual") == 1
