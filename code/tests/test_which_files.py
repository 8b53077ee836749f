"""Which files a data set is made of, and in which order: the same in every process."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import CODE
from media import problems_of
from PIL import Image

from dataset._loader import build_loaders, check_classes
from dataset._samples import natural, read_csv, read_split
from dataset.folder import Dataset
from dataset.modalities import image
from dataset.prepare import _preparation as preparation
from dataset.prepare import cremad, modelnet40
from training import options
from utils import registry
from utils.errors import BadInput

PARTS = ("train", "test")
ORDERS = """
import json, sys
from pathlib import Path
from dataset.folder import Dataset
from dataset.modalities.frames import Modality
root = Path(sys.argv[1])
dataset = Dataset(root)
frames = Modality(root / "clip", False)
print(json.dumps([
    dataset.classes,
    dataset.samples("train"),
    [path.name for path in frames._files("train0")],
    list(dataset.modalities),
]))
"""


def test_no_order_depends_on_the_hashes_of_names(own_data):
    labels = ["s1", "s01", "s001", "s10", "S1", "s1 "]
    rows = [f"train{i},{labels[i % 6]}" for i in range(8)]
    (own_data / "train.csv").write_text("\n".join(rows))
    (own_data / "test.csv").write_text("test0,s01\n")
    frame = (own_data / "clip" / "train0" / "8.png").read_bytes()
    for name in ("08.png", "008.png", "8.PNG"):
        (own_data / "clip" / "train0" / name).write_bytes(frame)
    printed = set()
    for seed in range(3):
        command = [sys.executable, "-c", ORDERS, str(own_data)]
        env = os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(CODE)}
        printed.add(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    (orders,) = printed
    classes, _, frames, _ = json.loads(orders)
    assert classes == ["S1", "s001", "s01", "s1", "s10"]
    assert frames == ["8.PNG", "008.png", "08.png", "8.png", "9.png", "10.png"]


def test_names_of_one_number_have_an_order_of_their_own():
    names = ["s01", "s1", "s" + "9" * 5000, "s2", "s٣", "²", ""]
    assert sorted(names, key=natural) == sorted(names[::-1], key=natural)


def test_any_class_name_that_is_prepared_is_read(tmp_path):
    classes = ["a, b", 'c "d"', "e;f", "'g'", "é", "#h", "i"]
    split = {part: {f"{part} {i}, x": name for i, name in enumerate(classes)} for part in PARTS}
    preparation.finish(tmp_path, classes, split)
    preparation.check(tmp_path)
    for part in PARTS:
        samples = read_split(tmp_path / f"{part}.csv", classes)
        assert [(s.id, classes[s.target]) for s in samples] == list(split[part].items())
    assert [row[0] for row in read_csv(tmp_path / "stat.csv")] == classes


def test_a_class_without_training_samples_is_an_error(own_data, raw_modelnet, tmp_path):
    (own_data / "stat.csv").write_text("cat\ncow\ndog\n")
    dataset = Dataset(own_data)
    dataset.classes.append("cow")
    with pytest.raises(BadInput, match="no training sample of 1 of 3 classes, 'cow'; add"):
        check_classes(dataset, dataset.samples("train"))
    source = tmp_path / "raw"
    shutil.copytree(raw_modelnet, source)
    for file in (source / "lamp" / "train").iterdir():
        file.write_text("OFF")
    argv = ["--source", str(source), "--output", str(tmp_path / "out"), "--jobs", "1"]
    with pytest.raises(BadInput, match="no usable training sample of 1 classes, lamp"):
        modelnet40.main([*argv, "--size", "16"])
    shutil.rmtree(source / "bottle" / "test")
    shutil.rmtree(source / "lamp" / "test")
    with pytest.raises(BadInput, match="the source has no sample for test.csv"):
        modelnet40.main([*argv, "--size", "16"])


JUNK = ["._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "x.png~", "a.lock", "b.png.part"]
LABELS = ["lamp", "a, b", 'c "d"', "é", "s1", "s01"]


def made_tree(draw: random.Random, root, elsewhere) -> tuple[dict[str, str], set[str]]:
    """Views of objects as people keep them. Returns ({good object: its class}, names of others)."""
    good, bad = {}, set()
    for number, label in enumerate(draw.sample(LABELS, draw.randint(2, 4))):
        home = draw.choice((root, elsewhere)) / label
        for part in PARTS:
            folder = home / part
            folder.mkdir(parents=True)
            for i in range(draw.randint(1, 3)):
                name, fault = f"{number}{part[:2]}_{i}", draw.random()
                depth = np.uint8
                if fault < 0.1 and i:
                    bad.add(name)
                    depth = np.uint16
                elif fault < 0.2:
                    name = draw.choice((f"{name}, 1", f'"{name}"', f"{name}.5", f"Ö{name} b"))
                elif fault < 0.3 and i:
                    name = draw.choice(
                        (f"{name} ", f"{name}\n2", os.fsdecode(f"{name}".encode() + b"\xff"))
                    )
                    bad.add(name)
                if name not in bad:
                    good[name] = label
                levels = np.full((6, 6), 50 + i, depth)
                for view in (1, 7):
                    suffix = draw.choice(("png", "PNG"))
                    path = folder / f"{name}.obj.shaded_v{view:03d}.{suffix}"
                    Image.fromarray(levels).save(path, format="PNG")
        for name in draw.sample(JUNK, 3):
            (folder / name).write_bytes(b"junk")
        (home / "__MACOSX").mkdir()
        if draw.random() < 0.5:
            (folder / "loop").symlink_to(root)
            (folder / "again").symlink_to(folder, target_is_directory=True)
            (folder / "gone.png").symlink_to("nowhere")
            os.mkfifo(folder / "pipe.off")
        if home.parent != root:
            (root / label).symlink_to(home, target_is_directory=True)
    return good, bad


def check_made_tree(seed: int, tmp_path, printed) -> None:
    """Every object is prepared, with its class, and read by training; or it is named."""
    root, elsewhere, out = (tmp_path / f"{seed}" / name for name in ("raw", "else", "out"))
    root.mkdir(parents=True)
    good, bad = made_tree(random.Random(seed), root, elsewhere)
    argv = ["--source", str(root), "--output", str(out), "--jobs", "1"]
    modelnet40.main(argv)
    said = printed().out
    dataset = registry.load_class("dataset", "modelnet40", "")(out)
    problems = problems_of(out)
    listed = {s.id: dataset.classes[s.target] for part in PARTS for s in dataset.samples(part)}
    assert {name: label for name, label in listed.items() if name not in problems} == good
    for name in bad:
        shown = name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
        assert name in problems or shown in said, (seed, name)
    for view in ("front", "rear"):
        reader = image.Modality(out / view, False, image_size=6)
        assert reader.ids() == set(good)
        for name in good:
            level = 50 + int(name.strip('"').split("_")[1][0])
            assert reader.pack(name).unique().tolist() == [level]
    assert dataset.classes == sorted(set(good.values()))
    with pytest.raises(BadInput, match="9843 train samples"):
        preparation.check(out)  # complete but for the size of the public set
    assert "files are as they were prepared" in printed().out


def test_files_of_any_name_are_prepared_exactly_or_named(fuzz, tmp_path, capsys):
    for seed in list(fuzz)[:20]:
        check_made_tree(seed, tmp_path, capsys.readouterr)


@pytest.mark.slow
def test_many_files_of_any_name_are_prepared_exactly_or_named(fuzz, tmp_path, capsys):
    for seed in list(fuzz)[20:]:
        check_made_tree(seed, tmp_path, capsys.readouterr)


def test_leftovers_and_links_change_nothing_that_is_trained_on(own_data, tmp_path, capsys):
    argv = ["--dataset", "folder", "--data_root", str(own_data), "--num_workers", "0"]
    argv += ["--batch_size", "12", "--image_size", "16", "--audio_frames", "40", "--mel_bins", "16"]

    def batch():
        loaders = build_loaders(Dataset(own_data), vars(options.parse(argv)))
        return next(iter(loaders["train_plain"]))

    before = batch()
    assert capsys.readouterr().out.count("cache: ") == 4
    (own_data / "clip").rename(tmp_path / "elsewhere")
    (own_data / "clip").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (own_data / "__MACOSX").mkdir()
    for folder in ("photo", "sound", "depth", "clip", "clip/train0"):
        for name in (*JUNK, "._train0.png"):
            (own_data / folder / name).write_bytes(b"junk")
    after = batch()
    printed = capsys.readouterr().out
    assert "NOTE: 8 left out of" in printed and "._train0.png: belongs to no data set" in printed
    assert "cache: " not in printed  # it holds what is there
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    np.save(own_data / "depth" / "train0.npy", np.ones((2, 24, 24)))
    assert (
        batch()[0]["depth"][0].unique().tolist() == [1]
        and "cache: depth" in capsys.readouterr().out
    )


def test_strange_names_in_a_clone_of_crema_d_are_left_out_and_named(tmp_path, capsys, monkeypatch):
    sounds, videos = tmp_path / "AudioWAV", tmp_path / "flash"
    for folder in (sounds, videos):
        folder.mkdir()
    (tmp_path / "VideoFlash").symlink_to(videos, target_is_directory=True)
    clips = ["1001_DFA_ANG_XX", "1002_DFA_SAD_XX"]
    for name in ("1001_DFA_ANG_XX.wav", "1002_DFA_SAD_XX.WAV", "1040_ITH_SAD_X.wav", "notes.wav"):
        (sounds / name).write_bytes(b"sound")
    for name in ("1001_DFA_ANG_XX.flv", "1001_DFA_ANG_XX.mp4", "1002_DFA_SAD_XX.FLV", "._x.flv"):
        (videos / name).write_bytes(b"picture")
    (videos / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = cremad.raw_clips(tmp_path)
    assert [file.name for clip in clips for file in found[clip]] == [
        "1001_DFA_ANG_XX.flv",
        "1001_DFA_ANG_XX.wav",
        "1002_DFA_SAD_XX.FLV",
        "1002_DFA_SAD_XX.WAV",
    ]
    for part, clip in zip(PARTS, clips):
        (tmp_path / f"{part}.csv").write_text(f"{clip},{clip[9:12]}\n")
    monkeypatch.setattr(cremad, "SPLIT_SHA256", {})
    counts = {"train": [1, 0, 0, 0, 0, 0], "test": [0, 0, 0, 0, 0, 1]}
    monkeypatch.setattr(cremad, "SPLIT_COUNTS", counts)
    split = cremad.published_split(found, tmp_path, tmp_path)
    assert [list(split[part]) for part in PARTS] == [[clip] for clip in clips]
    printed = capsys.readouterr().out
    for name in ("notes.wav: not named", "._x.flv: ", "loop: a link", "such as 1040_ITH_SAD_X"):
        assert name in printed
    assert "1001_DFA_ANG_XX.mp4: " in printed and "is of the same sample" in printed
