"""Derived modalities of known pictures; three modalities from files to tables."""

import shutil

import cv2
import numpy as np
import pytest
from commands import QUICK
from PIL import Image

import draw
import report
import sweep
from dataset._files import id_of
from dataset.derived import edge, flow, grey
from dataset.modalities import image
from dataset.prepare import _manifest as manifest
from dataset.prepare import _preparation as preparation
from dataset.prepare import derive
from utils import registry
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def test_grey_is_the_luma():
    colours = np.zeros((1, 3, 3), np.uint8)
    colours[0, range(3), range(3)] = 255  # blue, green, red
    (luma,) = grey.derive([colours])
    assert luma.tolist() == [[29, 150, 76]]


def test_an_edge_is_bright_where_black_meets_white():
    picture = np.zeros((9, 10, 3), np.uint8)
    picture[:, 5:] = 255
    (edges,) = edge.derive([picture])
    assert edges.shape == (9, 10) and edges.dtype == np.uint8
    assert (edges[:, 4:6] == 255).all() and not edges[:, :4].any() and not edges[:, 6:].any()
    (turned,) = edge.derive([picture.transpose(1, 0, 2)])
    assert np.array_equal(turned, edges.T)


@pytest.mark.parametrize("down, right", [(0, 4), (3, 0), (-2, 3)])
def test_flow_is_the_movement_in_pixels_per_frame(down, right):
    texture = np.random.default_rng(0).integers(0, 256, (100, 120), dtype=np.uint8)
    texture = cv2.cvtColor(cv2.GaussianBlur(texture, (9, 9), 2), cv2.COLOR_GRAY2BGR)
    frames = [np.roll(texture, (i * down, i * right), (0, 1)) for i in range(3)]
    pictures = flow.derive(frames)
    assert len(pictures) == 3 and np.array_equal(pictures[1], pictures[2])
    for picture in pictures[:2]:
        inner = picture[20:-20, 20:-20].astype(float)
        moved = (np.median(inner[..., :2], (0, 1)) - 128) * flow.LIMIT / 127
        assert moved == pytest.approx([down, right], abs=0.3)
        length = np.median(inner[..., 2]) * flow.LIMIT / 255
        assert length == pytest.approx(np.hypot(down, right), abs=0.3)


def derived(root, kind, source, *argv):
    derive.main([kind, "--data_root", str(root), "--source", source, "--jobs", "1", *argv])


def test_the_same_command_adds_what_is_missing_and_keeps_what_is_there(own_data, capsys):
    derived(own_data, "edge", "photo")
    assert "12 samples derived from photo" in capsys.readouterr().out
    (own_data / "edge" / "test2.png").unlink()
    before = (own_data / "edge" / "test3.png").stat().st_mtime_ns
    derived(own_data, "edge", "photo")
    assert "1 samples derived" in capsys.readouterr().out
    assert (own_data / "edge" / "test2.png").is_file()
    assert (own_data / "edge" / "test3.png").stat().st_mtime_ns == before
    manifest.write(own_data)
    derived(own_data, "flow", "clip", "--name", "movement")
    manifest.check(own_data)  # what was derived belongs to the set
    assert len(list((own_data / "movement" / "test3").iterdir())) == 3


@pytest.mark.parametrize(
    "kind, argv, message",
    [
        ("edge", ["--name", "photo"], "--name photo: must be a folder name of its own"),
        ("flow", [], "jpg: flow needs clips of two frames and more"),
    ],
)
def test_what_cannot_be_derived_is_named_and_leaves_nothing(own_data, kind, argv, message):
    with pytest.raises(BadInput, match=message):
        derived(own_data, kind, "photo", *argv)
    assert not list(own_data.glob("*/*.tmp")) and not list(own_data.glob("*/.*"))


@pytest.mark.slow
def test_three_modalities_run_through_sweep_report_and_figures(own_data, tmp_path, capsys):
    for kind in ("edge", "grey"):
        derived(own_data, kind, "photo")
    runs = tmp_path / "runs"
    argv = ["--dataset", "folder", "--data_root", str(own_data), "--ckpt_path", str(runs), *QUICK]
    argv += ["--modalities", "edge,grey,photo", "--batch_size", "4", "--epochs", "1"]
    sweep.main([*argv, "--methods", "uniform,mmpareto", "--seeds", "0,1", "--probe", "linear"])
    (step, *_) = read_jsonl(runs / "own-mmpareto-seed0" / "steps.jsonl")
    assert {"cosine/edge", "cosine/grey", "cosine/photo"} < set(step)
    folders = sorted(str(f) for f in runs.iterdir() if f.is_dir())
    assert len(folders) == 4
    report.main(folders)
    assert "| edge head | grey head | photo head |" in capsys.readouterr().out
    draw.main(["plane", *folders, "--output", str(tmp_path / "plane")])
    draw.main(["cosine", folders[0], "--output", str(tmp_path / "cosine")])
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_every_kind_keeps_the_number_and_size_of_the_pictures():
    frames = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in range(4)]
    assert {"edge", "flow", "grey"} <= set(registry.names("dataset/derived"))
    for name in registry.names("dataset/derived"):
        pictures = registry.load("dataset/derived", name, "derive").derive(frames)
        assert [picture.shape[:2] for picture in pictures] == [(40, 50)] * 4
        assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}


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
