"""Which files a data set is made of, and in which order: the same in every process."""

import json
import os
import random
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from commands import CODE
from media import problems_of
from PIL import Image

from dataset._files import id_of
from dataset._loader import build_loaders, check_classes
from dataset._samples import natural, read_csv, read_split
from dataset.folder import Dataset
from dataset.modalities import image
from dataset.prepare import _preparation as preparation
from dataset.prepare import derive, modelnet40
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


@pytest.mark.parametrize(
    "name, fault",
    [
        *((word, "has a meaning") for word in ("multimodal", "shared", "none", "type", "values")),
        *((word, "has a meaning") for word in ("keys", "pop", "train", "forward", "__class__")),
        *((word, f"holds {word[1]!r}") for word in ("v.1", "a,b", "a=b", "a b", "a'b", 'a"b')),
        ("-a", "begins with '-'"),
        ("a ", "begins or ends with a blank"),
        ("a\nb", "line end"),
        (os.fsdecode(b"a\xffb"), "is no UTF-8"),
    ],
)
def test_a_modality_of_a_name_that_cannot_be_used_is_named_at_the_start(own_data, name, fault):
    (own_data / "photo").rename(own_data / name)
    argv = ["--dataset", "folder", "--data_root", str(own_data)]
    with pytest.raises(BadInput) as refused:
        options.parse(argv)
    assert f"modality {name!r}: " in str(refused.value) and fault in str(refused.value)
    assert "rename its folder" in str(refused.value) and "\n" not in str(refused.value)
    assert options.parse([*argv, "--modalities", "clip,depth"]).modalities == ["clip", "depth"]
    with pytest.raises((BadInput, SystemExit)):
        flags = ["--data_root", str(own_data), "--source", "clip", "--jobs", "1", "--name", name]
        derive.main(["edge", *flags])


@pytest.mark.parametrize("name", ["present", "test", "声音", "left-eye", "2", "Weights", "test_x"])
def test_other_names_of_modalities_are_free(own_data, name):
    (own_data / "photo").rename(own_data / name)
    argv = ["--dataset", "folder", "--data_root", str(own_data)]
    assert name in options.parse(argv).modalities


def test_derived_pictures_do_not_overwrite_each_other(own_data):
    flags = ["--data_root", str(own_data), "--jobs", "1"]
    names = ["rec.1", "rec.2", "Rec.1", "rec.1.png"]
    for name in names:
        shutil.copy(own_data / "photo" / "test0.jpg", own_data / "photo" / f"{name}.jpg")
        shutil.copytree(own_data / "clip" / "test0", own_data / "clip" / name)
    for kind, source in (("edge", "photo"), ("flow", "clip")):
        derive.main([kind, *flags, "--source", source])
        assert names_in(own_data / kind) == names_in(own_data / source) >= set(names)
    shutil.copy(own_data / "clip" / "rec.1" / "8.png", own_data / "clip" / "rec.1" / "8.jpg")
    with pytest.raises(BadInput, match="8.jpg and 8.png would be one picture"):
        derive.main(["grey", *flags, "--source", "clip"])
    shutil.copy(own_data / "photo" / "rec.1.jpg", own_data / "photo" / "rec.1.png")
    with pytest.raises(BadInput, match="rec.1.jpg and rec.1.png would be one picture"):
        derive.main(["grey", *flags, "--source", "photo", "--name", "g"])


def names_in(folder):
    return {id_of(entry) for entry in folder.iterdir()}


def test_what_was_written_is_counted(own_data):
    ids = names_in(own_data / "photo")
    preparation.check_written(own_data / "photo", ids)
    (own_data / "photo" / "test0.jpg").rename(own_data / "photo" / "Test0.jpg")
    with pytest.raises(BadInput, match="photo: 1 of 12 samples were not written, such as 'test0'"):
        preparation.check_written(own_data / "photo", ids)


def folder_argv(root):
    argv = ["--dataset", "folder", "--data_root", str(root), "--num_workers", "0"]
    return [*argv, "--image_size", "16", "--audio_frames", "40", "--mel_bins", "16"]


def built(root, *flags):
    chosen = options.parse([*folder_argv(root), "--batch_size", "1", *flags])
    return build_loaders(Dataset(root), vars(chosen))


@pytest.mark.parametrize(
    "header", ["filename,label", "ID, Class", "file_name,target", "clip,Labels"]
)
def test_lists_as_programs_write_them_are_read(own_data, header):
    labels = ('"cat, big"', '"a ""dog"""')
    rows = [header, *(f"train{i},{labels[i % 2]}" for i in range(8))]
    text = "\ufeff" + "\r\n".join(rows) + "\r\n\r\n"
    (own_data / "train.csv").write_bytes(text.encode())
    (own_data / "test.csv").write_text('test0,"cat, big"\n')
    dataset = Dataset(own_data)
    assert dataset.classes == ['a "dog"', "cat, big"]
    assert dataset.samples("train") == [(f"train{i}", 1 - i % 2) for i in range(8)]


@pytest.mark.parametrize(
    "content, message",
    [
        ("filename,label\ntrain0,c\xe4t\n".encode("latin-1"), "cannot be read as CSV in UTF-8"),
        ("train0,cat\ntrain1,dog\n".encode("utf-16"), "cannot be read as CSV in UTF-8"),
        (b"train0,cat\ntrain1,\n", "line 2: label '' is empty"),
        (b'train0,cat\ntrain1,"d\no\ng"\n', "line 2: label .* more than a line"),
        (b"train0,cat\ntrain1,dog\nname,label\n", "have no file, such as 'name'"),
        (b"train0,cat\n" + b"x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_lists_that_cannot_be_read_are_named(own_data, content, message):
    (own_data / "train.csv").write_bytes(content)
    (own_data / "test.csv").write_text("test0,cat\n")
    with pytest.raises(BadInput, match=message):
        built(own_data)


def test_any_class_name_that_is_prepared_is_read(tmp_path):
    classes = ["a, b", 'c "d"', "e;f", "'g'", "é", "#h", "i"]
    split = {part: {f"{part} {i}, x": name for i, name in enumerate(classes)} for part in PARTS}
    preparation.finish(tmp_path, classes, split)
    preparation.check(tmp_path)
    for part in PARTS:
        samples = read_split(tmp_path / f"{part}.csv", classes)
        assert [(s.id, classes[s.target]) for s in samples] == list(split[part].items())
    assert [row[0] for row in read_csv(tmp_path / "stat.csv")] == classes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_in_training_as_in_derive(orientation, tmp_path):
    (tmp_path / "photo").mkdir()
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:4, :4] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "photo" / "a.png", exif=exif)
    upright = cv2.imread(str(tmp_path / "photo" / "a.png"))  # an independent reader
    assert np.array_equal(derive.read(tmp_path / "photo" / "a.png"), upright)
    assert np.array_equal(np.asarray(image.opened(tmp_path / "photo" / "a.png")), upright)


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
