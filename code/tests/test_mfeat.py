"""Multiple Features: six views of a digit, the random split, and lines that are refused."""

import json
import tarfile
import zipfile
from argparse import Namespace
from collections import Counter

import numpy as np
import pytest
from commands import run
from conftest import REAL_DATA

from dataset.mfeat import Dataset
from dataset.prepare import _preparation as preparation
from dataset.prepare import mfeat
from utils.errors import BadInput


def prepare(source, output, *flags):
    mfeat.main(["--source", str(source), "--output", str(output), *flags])
    return {part: [s.id for s in Dataset(output).samples(part)] for part in ("train", "test")}


@pytest.fixture(scope="module")
def split():
    """(flags) -> what `split_of` gives."""
    labels = {f"d{digit}_{i:03d}": str(digit) for digit in range(10) for i in range(200)}

    def of(split_seed=0, test_share=0.5, train_size=None):
        flags = dict(split_seed=split_seed, test_share=test_share, train_size=train_size)
        return mfeat.split_of(labels, Namespace(**flags))

    return of


def test_views_are_standardised_by_the_training_digits(mfeat_root):
    dataset = Dataset(mfeat_root)
    train, test = (dataset.samples(part) for part in ("train", "test"))
    assert (len(train), len(test), dataset.classes) == (80, 200, list("0123456789"))
    lines = np.array([200 * int(s.id[1]) + int(s.id[3:]) for s in train])
    assert all(int(s.id[1]) == s.target for s in train + test)
    for view, (width, _) in mfeat.VIEWS.items():
        assert len(list((mfeat_root / view).iterdir())) == 280
        values = np.stack([np.load(mfeat_root / view / f"{s.id}.npy") for s in train])
        assert values.shape == (80, width) and values.dtype == np.float32
        expected = (lines - lines.mean()) / lines.std()  # raw numbers are the line's and more
        np.testing.assert_allclose(values, np.repeat(expected[:, None], width, 1), atol=1e-5)
        value = np.load(mfeat_root / view / f"{test[0].id}.npy")
        line = 200 * int(test[0].id[1]) + int(test[0].id[3:])
        np.testing.assert_allclose(value, (line - lines.mean()) / lines.std(), atol=1e-5)


def test_a_number_that_never_changes_is_not_divided():
    values = np.array([[0.1, 2], [0.1, 6], [0.1, 4]])
    mean, deviation = preparation.mean_and_deviation(values)
    np.testing.assert_allclose(mean, [0.1, 4])
    np.testing.assert_allclose(deviation, [1, np.sqrt(8 / 3)])


def test_the_split_is_random_by_class_and_a_smaller_one_is_a_part_of_it(split):
    whole, small = split(), split(train_size=100)
    for part, size in (("train", 100), ("test", 100)):
        assert set(Counter(whole[part].values()).values()) == {size}
    assert set(Counter(small["train"].values()).values()) == {10}
    assert small["train"].items() < whole["train"].items() and small["test"] == whole["test"]
    assert split(train_size=50)["train"].items() < small["train"].items()
    assert not whole["train"].keys() & whole["test"].keys()
    assert split() == whole != split(split_seed=1)
    assert {len(split(test_share=0.1)[part]) for part in ("train", "test")} == {1800, 200}


def test_the_files_lie_in_a_folder_or_an_archive(raw_mfeat, tmp_path, capsys):
    source = tmp_path / "UCI"
    source.mkdir()
    with tarfile.open(source / "mfeat.tar", "w") as archive:
        archive.add(raw_mfeat, "mfeat")
    views = mfeat.read_views(source, tmp_path / "downloads")
    assert {view: values.shape for view, values in views.items()} == {
        view: (2000, width) for view, (width, _) in mfeat.VIEWS.items()
    }
    assert capsys.readouterr().out.count("other numbers than those of the public file") == 6
    with zipfile.ZipFile(tmp_path / "multiple+features.zip", "w") as archive:
        archive.write(source / "mfeat.tar", "mfeat.tar")
    with pytest.raises(BadInput, match="zip: has no mfeat-fac, mfeat-fou, .* in it or below it"):
        mfeat.read_views(tmp_path / "multiple+features.zip", tmp_path / "downloads")
    assert "mfeat.tar: an archive in an archive, unpack it" in capsys.readouterr().out


LINE = "1 2.5 -3e1 +4 5. .6"


@pytest.mark.parametrize(
    "place, line, fault",
    [
        (17, "1 2 3 4 5", "line 17: 5 numbers, mfeat-mor has 6"),
        (17, LINE + " 7", "line 17: 7 numbers, mfeat-mor has 6"),
        (17, "", "line 17: 0 numbers, mfeat-mor has 6"),
        (2000, "1 2 3 4 5 nan", "line 2000: 'nan' is no number within 1e"),
        (1, "inf 2 3 4 5 6", "line 1: 'inf' is no number"),
        (3, "1 2 3 4 5 1_0", "line 3: '1_0' is no number"),
        (3, "1 2 3 4 5 1e11", "line 3: '1e11' is no number within 1e"),
        (3, "1 2 3 4 5 1e999", "line 3: '1e999' is no number"),
        (3, "1 2 3 4 5 6,5", "line 3: '6,5' is no number"),
        (3, "1 2 3 4 5 ٣", "line 3: '٣' is no number"),
        (3, LINE + "\n" + LINE, "mfeat-mor: 2001 lines, mfeat-mor has 2000"),
        (3, "\x00\udcff", "mfeat-mor: unreadable"),
    ],
)
def test_lines_that_are_none_of_the_view_are_named(place, line, fault, tmp_path):
    path = tmp_path / "mfeat-mor"
    lines = [LINE] * 2000
    lines[place - 1] = line
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput) as error:
        mfeat.read_view(path, "mor")
    assert f"{path}" in str(error.value) and fault in str(error.value)
    assert "\n" not in str(error.value)


def test_lines_as_others_write_them_are_read(tmp_path):
    (tmp_path / "mfeat-mor").write_text("\ufeff" + f"  {LINE}\t\r\n" * 2000 + "\r\n", newline="")
    values = mfeat.read_view(tmp_path / "mfeat-mor", "mor")
    assert (values == [1, 2.5, -30, 4, 5, 0.6]).all() and values.shape == (2000, 6)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--train_size 1010", "--train_size 1010: --test_share 0.5 leaves 1000"),
        ("--train_size 15", "--train_size 15: must be a multiple of 10, at least 10"),
        ("--train_size 0", "--train_size 0: must be a multiple of 10, at least 10"),
        ("--test_share 1", "--test_share 1.0: must be at least 0 and below 1"),
        ("--test_share 0", "--test_share 0: leaves no digit for test.csv"),
        ("--test_share 0.999", "--test_share 0.999: leaves no digit for train.csv"),
        ("--split_seed -1", "--split_seed -1: must be at least 0"),
    ],
)
def test_wrong_flags_get_one_line(flags, message, tmp_path):
    with pytest.raises(BadInput) as error:
        prepare(tmp_path, tmp_path / "out", *flags.split())
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_some_of_the_views_are_trained_on_with_the_set_s_encoder(mfeat_root, tmp_path):
    where = ["--dataset", "mfeat", "--data_root", str(mfeat_root), "--ckpt_path", str(tmp_path)]
    run([*where, "--no-tensorboard"], "x", "--modalities", "zer,mor,pix")
    stored = json.loads((tmp_path / "x" / "options.json").read_text())["options"]
    assert stored["encoder"] == "mlp" and stored["modalities"] == ["zer", "mor", "pix"]
    last = json.loads((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"test/accuracy/{view}" for view in ("multimodal", "zer", "mor", "pix")} <= last.keys()


# Real digits


@pytest.fixture(scope="module")
def real():
    if not (REAL_DATA / "mfeat").is_dir():
        pytest.skip(f"REAL DATA MISSING: {REAL_DATA} has no mfeat/")
    return REAL_DATA / "mfeat"


def test_the_real_numbers_are_the_public_ones_and_tell_the_digits(real, tmp_path, capsys):
    """Of each class 10 digits, and the nearest of their means: at least three of four are right."""
    sets = prepare(real, tmp_path / "out", "--train_size", "100", "--test_share", "0.1")
    assert "NOTE" not in capsys.readouterr().out
    for view in ("fac", "kar", "pix"):
        train, test = (
            np.stack([np.load(tmp_path / "out" / view / f"{name}.npy") for name in sets[part]])
            for part in ("train", "test")
        )
        means = np.stack([train[[n[1] == d for n in sets["train"]]].mean(0) for d in "0123456789"])
        nearest = ((test[:, None] - means) ** 2).sum(2).argmin(1)
        right = [str(digit) == name[1] for digit, name in zip(nearest, sets["test"])]
        assert np.mean(right) > 0.75


@pytest.mark.slow
def test_the_real_digits_are_learnt_in_seconds(real, tmp_path):
    prepare(real, tmp_path / "out")
    where = ["--dataset", "mfeat", "--data_root", str(tmp_path / "out")]
    run([*where, "--ckpt_path", str(tmp_path), "--no-tensorboard"], "x", "--epochs", "10")
    last = json.loads((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test/accuracy/multimodal"] > 0.95 > 0.6 < last["test/accuracy/mor"]
