"""UCF-101 from its videos and split files: what is kept, the flow, and what cannot be used."""

import json
import shutil

import cv2
import numpy as np
import pytest
from media import problems_of

import train
from dataset.derived.flow import flow_picture
from dataset.media.video import read_frames
from dataset.prepare import ucf101
from dataset.ucf101 import Dataset
from utils.errors import BadInput


def prepare(source, output, *flags):
    rates = ["--frames_per_second", "5", "--video_rate", "10", "--jobs", "1"]
    ucf101.main(["--source", str(source), "--output", str(output), *rates, *flags])


def test_frames_are_kept_at_the_rate_and_the_flow_is_to_the_next_of_the_video(ucf101_root, raw_ucf):
    name = "v_Bowling_g04_c01"
    frames = read_frames(raw_ucf / "UCF-101" / "Bowling" / f"{name}.avi", 10)
    assert len(frames) == 16
    for modality in ("visual", "flow"):
        files = sorted((ucf101_root / modality / name).iterdir())
        assert len(files) == 8  # every second one but the last, which has none after it
        for i, file in enumerate(files):
            expected = frames[2 * i]
            if modality == "flow":
                expected = flow_picture(expected, frames[2 * i + 1])
            assert np.abs(cv2.imread(str(file)) - expected.astype(float)).mean() < 4  # JPEG


def test_splits_are_those_of_the_files(ucf101_root):
    dataset = Dataset(ucf101_root)
    assert dataset.classes == ["Archery", "Bowling"]
    assert [len(dataset.samples(split)) for split in ("train", "test")] == [8, 4]
    assert {s.id.split("_")[2] for s in dataset.samples("test")} == {"g01", "g02"}


def test_frames_and_flow_are_trained_on_by_default(ucf101_root, tmp_path):
    argv = ["--dataset", "ucf101", "--data_root", str(ucf101_root), "--ckpt_path", str(tmp_path)]
    argv += ["--image_size", "32", "--encoder", "cnn", "--epochs", "1", "--num_workers", "0"]
    train.main([*argv, "--no-tensorboard", "--batch_size", "4", "--run_name", "x"])
    stored = json.loads((tmp_path / "x" / "options.json").read_text())["options"]
    assert stored["modalities"] == ["visual", "flow"] and stored["frames_per_clip"] == 3


def test_a_missing_video_is_named(raw_ucf, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw_ucf, source)
    (source / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi").unlink()
    prepare(source, tmp_path / "out")
    assert list(problems_of(tmp_path / "out")) == ["v_Archery_g01_c01"]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("classInd.txt", "1 Archery\n3 Bowling\n", "classInd.txt line 2: expected '2 <class>'"),
        ("trainlist01.txt", "Archery/a.avi 2\n", "line 1: expected '<class>/<video>"),
        ("testlist01.txt", "Chess/a.avi\n", "testlist01.txt line 1: expected"),
        ("trainlist01.txt", None, "has no trainlist01.txt in it or below it"),
    ],
)
def test_split_files_that_do_not_fit_are_named(file, content, message, raw_ucf, tmp_path):
    source = tmp_path / "raw"
    shutil.copytree(raw_ucf, source)
    (source / "splits" / file).unlink()
    if content is not None:
        (source / "splits" / file).write_text(content)
    with pytest.raises(BadInput, match=message):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rate_of_zero_is_refused(raw_ucf, tmp_path):
    with pytest.raises(BadInput, match="--video_rate 0.0: must be a positive number"):
        prepare(raw_ucf, tmp_path / "out", "--video_rate=0")
