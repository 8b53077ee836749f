"""--dataset folder: what lies in a folder tells how it is read; faults are named at the start."""

import shutil

import numpy as np
import pytest
import torch
from own_data import LABELS
from PIL import Image
from steps import built_reader

import train
from dataset._loader import build_loaders
from dataset.folder import Dataset
from dataset.media.audio import filter_bank, read_waveform
from dataset.modalities import array, waveform
from training import options
from utils.errors import BadInput
from utils.run_folder import read_jsonl


@pytest.fixture
def data(folder_root, tmp_path):
    """A copy to spoil."""
    shutil.copytree(folder_root, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "data"


def test_the_kind_of_file_tells_the_reader(folder_root):
    dataset = Dataset(folder_root)
    assert dataset.modalities == {
        "clip": "frames",
        "depth": "array",
        "photo": "image",
        "sound": "waveform",
    }
    assert dataset.classes == LABELS
    assert [len(dataset.samples(split)) for split in ("train", "test")] == [8, 4]


def test_each_kind_arrives_with_its_shape_and_its_values(folder_root):
    argv = ["--dataset", "folder", "--data_root", str(folder_root), "--image_size", "32"]
    argv += ["--batch_size", "4", "--audio_frames", "40", "--mel_bins", "16", "--num_workers", "0"]
    loaders = build_loaders(Dataset(folder_root), vars(options.parse(argv)))
    inputs, target = next(iter(loaders["test"]))
    shapes = {modality: tuple(x.shape[1:]) for modality, x in inputs.items()}
    assert shapes == {
        "clip": (2, 3, 32, 32),
        "depth": (2, 24, 24),
        "photo": (3, 32, 32),
        "sound": (1, 40, 16),
    }
    assert target.tolist() == [0, 1, 0, 1]
    expected = np.load(folder_root / "depth" / "test0.npy").astype(np.float32)
    torch.testing.assert_close(inputs["depth"][0], torch.from_numpy(expected))
    waveform = read_waveform(folder_root / "sound" / "test0.flac")
    torch.testing.assert_close(inputs["sound"][0, 0], filter_bank(*waveform, 16, 40))


def test_only_the_chosen_modalities_are_trained(folder_root, tmp_path):
    argv = ["--dataset", "folder", "--data_root", str(folder_root), "--ckpt_path", str(tmp_path)]
    argv += ["--modalities", "sound,clip", "--audio_frames", "64", "--image_size", "32"]
    argv += ["--encoder", "cnn", "--no-tensorboard"]
    train.main([*argv, "--batch_size", "4", "--epochs", "1", "--num_workers", "0"])
    (run,) = tmp_path.iterdir()
    (last,) = read_jsonl(run / "metrics.jsonl")
    accuracies = {name.split("/")[2] for name in last if name.startswith("test/accuracy/")}
    assert accuracies == {"multimodal", "sound", "clip"}


def test_frames_are_read_in_natural_order(data):
    levels = {"9.png": 10, "10.png": 200, "8.png": 90}
    for name, level in levels.items():
        Image.new("RGB", (8, 8), (level,) * 3).save(data / "clip" / "test0" / name)
    packed = built_reader("frames", data / "clip").pack("test0")
    assert packed[:, 0, 0, 0].tolist() == [90, 10, 200]


def test_labels_in_natural_order(data):
    rows = [f"train{i},{label}" for i, label in enumerate(["10", "9", "2"] * 2)]
    (data / "train.csv").write_text("\n".join(rows))
    (data / "test.csv").write_text("test0,9\n")
    assert Dataset(data).classes == ["2", "9", "10"]


def refused(data, message):
    """The whole command refuses, at its start, and nothing is written."""
    argv = ["--dataset", "folder", "--data_root", str(data), "--ckpt_path", str(data / "runs")]
    with pytest.raises(BadInput, match=message):
        train.main([*argv, "--batch_size", "4", "--num_workers", "0"])
    assert not (data / "runs").exists() and not (data / "cache").exists()


@pytest.mark.parametrize(
    "split, text, message",
    [
        ("train", "../x,cat\ntrain1,dog\n", "train.csv line 1: id '../x' is no plain file name"),
        ("train", "train1,cat\ntrain3,cat\n", "needs lines id,label with at least two labels"),
        ("test", "test1,cat\ntest2,horse\n", "test.csv: not in train.csv: horse"),
        ("test", "test1,cat\ntrain2,dog\n", "'train2' is in train.csv and in test.csv"),
        ("test", "test1,cat\ntest9,dog\n", "1 of 2 ids of test.csv have no file, such as 'test9'"),
        ("test", "", "test.csv: holds no sample"),
    ],
)
def test_faults_of_the_lists_are_named_at_the_start(data, split, text, message):
    (data / f"{split}.csv").write_text(text)
    refused(data, message)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda d: (d / "test.csv").unlink(), "has no test.csv. DIR holds train.csv and test.csv"),
        (lambda d: (d / "depth" / "a.mp4").touch(), "a.mp4: no modality reads it; a folder of fra"),
        (lambda d: (d / "depth" / "a.wav").touch(), "depth: a.wav and test0.npy; one kind of file"),
        (lambda d: (d / "photo" / "test0.png").touch(), "two files for test0, test0.jpg and test0"),
        (lambda d: (d / "notes").mkdir(), "notes: empty; one kind of file is needed"),
        (lambda d: [shutil.rmtree(p) for p in d.iterdir() if p.is_dir()], "has no folder. DIR"),
    ],
)
def test_faults_of_the_folders_are_named_at_the_start(data, spoil, message):
    spoil(data)
    refused(data, message)


@pytest.mark.parametrize(
    "content, message",
    [
        (np.zeros(5), r"\(5,\), expected an array \(H, W\) or \(C, H, W\)"),
        (np.full((4, 4), np.nan), "holds numbers that are not finite"),
        (np.array([["a"]]), "<U1, expected numbers"),
        (np.array([[{}]], dtype=object), "unreadable .*allow_pickle=False"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_named(data, content, message):
    np.save(data / "depth" / "test1.npy", content, allow_pickle=True)
    with pytest.raises(BadInput, match=f"test1.npy: {message}"):
        array.Modality(data / "depth", False).pack("test1")


def test_pictures_and_sound_that_cannot_be_read_are_named(data):
    reader = built_reader("image", data / "photo")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(data / "photo" / "deep.png")
    with pytest.raises(BadInput, match="deep.png: of mode I;16; save it with 8 bits"):
        reader.pack("deep")
    Image.new("L", (4, 4)).save(data / "photo" / "a_first.png")
    with pytest.raises(BadInput, match="train1 has colours, the first picture has none"):
        built_reader("image", data / "photo").pack("train1")
    (data / "sound" / "test1.wav").write_bytes(b"RIFF")
    with pytest.raises(BadInput, match="test1.wav: unreadable sound"):
        waveform.Modality(data / "sound", False).pack("test1")
    with pytest.raises(BadInput, match="--mel_bins 0: must be at least 1"):
        flags = ["--modalities", "sound", "--mel_bins", "0"]
        options.parse(["--dataset", "folder", "--data_root", str(data), *flags])


def test_data_root_is_needed():
    with pytest.raises(BadInput, match="--dataset folder: needs --data_root DIR"):
        options.parse(["--dataset", "folder"])


def test_suffixes_may_be_in_upper_case(data):
    for path in (data / "photo").iterdir():
        path.rename(path.with_suffix(".JPG"))
    assert built_reader("image", data / "photo").pack("test1").shape == (3, 224, 224)
