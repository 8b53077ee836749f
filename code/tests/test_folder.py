"""--dataset folder: what lies in a folder tells how it is read; faults are named at the start."""

import os

import numpy as np
import pytest
import torch
from commands import QUICK
from PIL import Image
from steps import built_reader

import train
from dataset._cache import open_cache
from dataset._limits import LIMITS
from dataset._loader import build_loaders
from dataset.folder import Dataset
from dataset.media.audio import filter_bank, read_waveform
from dataset.modalities import array, item_of
from dataset.prepare import derive
from training import options
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def test_the_kind_of_file_tells_the_reader(folder_root):
    dataset = Dataset(folder_root)
    kinds = {"clip": "frames", "depth": "array", "photo": "image", "sound": "waveform"}
    assert dataset.modalities == kinds
    assert dataset.classes == ["cat", "dog"]
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
    argv += ["--modalities", "sound,clip", "--audio_frames", "64", *QUICK, "--batch_size", "4"]
    train.main([*argv, "--epochs", "1", "--run_name", "run"])
    (last,) = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    accuracies = {name.split("/")[2] for name in last if name.startswith("test/accuracy/")}
    assert accuracies == {"multimodal", "sound", "clip"}


def test_frames_are_read_in_natural_order(own_data):
    levels = {"9.png": 10, "10.png": 200, "8.png": 90}
    for name, level in levels.items():
        Image.new("RGB", (8, 8), (level,) * 3).save(own_data / "clip" / "test0" / name)
    packed = built_reader("frames", own_data / "clip").pack("test0")
    assert packed[:, 0, 0, 0].tolist() == [90, 10, 200]


def test_labels_are_in_natural_order(own_data):
    rows = [f"train{i},{label}" for i, label in enumerate(["10", "9", "2"] * 2)]
    (own_data / "train.csv").write_text("\n".join(rows))
    (own_data / "test.csv").write_text("test0,9\n")
    assert Dataset(own_data).classes == ["2", "9", "10"]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("train.csv", "train1,cat\ntrain3,cat\n", "needs lines id,label with at least two labels"),
        ("test.csv", "test1,cat\ntest2,horse\n", "test.csv: not in train.csv: horse"),
        ("test.csv", "test1,cat\ntrain2,dog\n", "'train2' is in train.csv and in test.csv"),
        ("test.csv", "test1,cat\ntest9,dog\n", "1 of 2 ids of test.csv have no file"),
        ("photo/test0.png", "", "two files for test0, test0.jpg and test0"),
    ],
)
def test_faults_are_named_before_anything_is_written(own_data, file, content, message):
    (own_data / file).write_text(content)
    runs = own_data / "runs"
    with pytest.raises(BadInput, match=message):
        train.main(["--dataset", "folder", "--data_root", str(own_data), "--ckpt_path", str(runs)])
    assert not runs.exists() and not (own_data / "cache").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (np.full((4, 4), np.nan), "holds the value nan"),
        (np.array([[{}]], dtype=object), "unreadable .*objects"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_named(own_data, content, message):
    np.save(own_data / "depth" / "test1.npy", content, allow_pickle=True)
    with pytest.raises(BadInput, match=f"test1.npy: {message}"):
        array.Modality(own_data / "depth", False).pack("test1")


def test_suffixes_may_be_in_upper_case(own_data):
    for path in (own_data / "photo").iterdir():
        path.rename(path.with_suffix(".JPG"))
    assert built_reader("image", own_data / "photo").pack("test1").shape == (3, 224, 224)


# Names and lists


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
    argv = ["--dataset", "folder", "--data_root", str(own_data)]
    with pytest.raises(BadInput, match=message):
        build_loaders(Dataset(own_data), vars(options.parse(argv)))


# Arrays


def arrays(folder, *shapes):
    """Files 0.npy, 1.npy ... of these shapes, no number of which is 0."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, shape in enumerate(shapes):
        np.save(folder / f"{number}.npy", 1 + rng.random(shape))
    return folder


@pytest.mark.parametrize(
    "shapes, flags, shape, expected",
    [
        ([(5,)] * 2, {}, (5,), lambda x: x),
        ([(4, 6)] * 2, {}, (1, 4, 6), lambda x: x[None]),
        ([(2, 8, 8)] * 2, {}, (2, 8, 8), lambda x: x),
        ([(8, 9, 3)] * 2, {"array_channels": "last"}, (3, 8, 9), lambda x: x.transpose(2, 0, 1)),
        ([(8, 9, 3)] * 2, {"array_channels": "first"}, (8, 9, 3), lambda x: x),
        ([(4, 6), (7, 6)], {"sequences": True}, (7, 7), lambda x: x),
        ([(4, 6)] * 2, {"sequences": True}, (4, 7), lambda x: x),
        ([(6, 4), (6, 7)], {"sequences": True, "time_axis": "last"}, (7, 7), np.transpose),
        (
            [(5, 3, 4), (5, 3, 7)],
            {"sequences": True, "time_axis": "last"},
            (7, 16),
            lambda x: x.transpose(2, 0, 1).reshape(-1, 15),
        ),
        ([(4,), (7,)], {"sequences": True}, (7, 2), lambda x: x[:, None]),
        ([(5,)] * 2, {"sequences": True}, (5,), lambda x: x),
    ],
)
def test_arrays_become_items_of_one_shape(shapes, flags, shape, expected, tmp_path):
    folder = arrays(tmp_path / "a", *shapes)
    reader = built_reader("array", folder, **flags)
    item = item_of(reader, "0")
    assert reader.shape == tuple(item.shape) == shape
    values = torch.from_numpy(expected(np.load(folder / "0.npy"))).float()
    if len(shape) == 2:  # a sequence, then 1 at its times, then nothing
        assert item[:, -1].tolist() == [1] * len(values) + [0] * (len(item) - len(values))
        assert not item[len(values) :].any()
        item = item[: len(values), :-1]
    assert torch.equal(item, values)


@pytest.mark.parametrize(
    "shapes, flags, message",
    [
        (
            [(4, 6)] * 2 + [(7, 6)],
            {},
            r"2.npy: of shape \(7, 6\), others of \(4, 6\); .* --seq.* if",
        ),
        ([(6, 4)] * 2 + [(6, 7)], {}, r"2.npy: .* or --sequences --time_axis last if these"),
        ([(4,), (4,), (7,)], {}, "2.npy: .* or --sequences if these"),
        ([(4, 6), (4, 6), (7, 8)], {}, "2.npy: of shape .* the first sample of"),
        ([(4, 6), (4, 6), (4, 7)], {"sequences": True}, "2.npy: .* axis of their times alone"),
        ([(8, 9, 3)] * 3, {}, "0.npy: of shape .* a picture .*--array_channels last"),
        ([(8, 9, 1)] * 3, {}, "0.npy: of shape .* a picture .*--array_channels last"),
        ([(2, 2, 2, 2)] * 3, {}, "0.npy: .* expected an array"),
        ([()] * 3, {"sequences": True}, "0.npy: .* expected an array"),
        ([(1,), (1,), (2000,)], {"sequences": True}, "2.npy: too large"),
    ],
)
def test_arrays_that_could_mean_something_else_are_asked_about(
    shapes, flags, message, tmp_path, monkeypatch
):
    monkeypatch.setitem(LIMITS, "numbers", 2500)  # fewer than 2000 and as many ones
    reader = built_reader("array", arrays(tmp_path / "a", *shapes), **flags)
    with pytest.raises(BadInput, match=message):
        reader.check_together(["0", "1", "2"])
        for name in "012":
            item_of(reader, name)


def test_a_longer_sequence_changes_the_cache_of_the_others(tmp_path):
    folder = arrays(tmp_path / "a", (4, 6), (7, 6))
    for longest in (7, 9):
        reader = built_reader("array", folder, sequences=True)
        packed = open_cache(reader, ["0", "1"], tmp_path / "cache", workers=0)
        assert packed("0").shape == (longest, 7)
        np.save(folder / "2.npy", np.ones((9, 6)))
