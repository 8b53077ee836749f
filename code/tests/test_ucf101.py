"""UCF-101 from its videos and split files: what is kept, the flow, and what cannot be used."""

import json
import shutil

import cv2
import numpy as np
import pytest
from commands import QUICK

import train
from dataset.derived.flow import flow_picture
from dataset.media.video import read_frames
from dataset.prepare import ucf101
from dataset.ucf101 import Dataset
from utils.errors import BadInput


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
    train.main([*argv, *QUICK, "--batch_size", "4", "--epochs", "1", "--run_name", "x"])
    stored = json.loads((tmp_path / "x" / "options.json").read_text())["options"]
    assert stored["modalities"] == ["visual", "flow"] and stored["frames_per_clip"] == 3


def test_a_split_file_that_does_not_fit_the_classes_is_named(raw_ucf, tmp_path):
    shutil.copytree(raw_ucf / "splits", tmp_path / "raw")
    (tmp_path / "raw" / "trainlist01.txt").write_text("Archery/a.avi 2\n")
    with pytest.raises(BadInput, match="line 1: expected '<class>/<video>"):
        ucf101.main(["--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
