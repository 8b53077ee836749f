"""Coloured and grey MNIST: from plain MNIST, from files in the published format, checked."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dataset.cgmnist import Dataset
from dataset.modalities import image
from dataset.prepare import cgmnist
from training import options
from utils.errors import BadInput


def test_colours_have_the_mean_and_variance_that_are_asked_for():
    rng = np.random.default_rng(0)
    drawn = cgmnist.colours(np.full(20000, 4), 0.0004, rng)  # so small that nothing is clipped
    np.testing.assert_allclose(drawn.mean(0), cgmnist.MEAN_COLOURS[4] / 255, atol=1e-3)
    np.testing.assert_allclose(drawn.var(0), 0.0004, rtol=0.05)


def test_in_training_the_colour_tells_the_digit_and_in_testing_it_does_not():
    rng = np.random.default_rng(0)
    digits = np.repeat(np.arange(10), 300)
    grey = np.full((len(digits), 28, 28), 255, np.uint8)
    told = {}
    for part in (True, False):
        coloured = cgmnist.colour_pictures(grey, digits, 0.03, part, rng)[:, 0, 0] / 255
        fitted = coloured if part else told["pictures"]
        if part:
            told["pictures"] = coloured
        probe = LogisticRegression(max_iter=2000, C=100).fit(fitted, digits)
        told[part] = probe.score(coloured, digits)
    assert told[True] > 0.6 and told[False] < 0.2


def test_shape_is_kept_and_both_pictures_show_the_same_digit(cgmnist_root):
    root = cgmnist_root
    opt = options.parse(["--dataset", "cgmnist", "--data_root", str(root)])
    dataset = Dataset(root)
    assert [len(dataset.samples(part)) for part in ("train", "test")] == [400, 200]
    readers = {
        "grey": image.Modality(root / "grey", True, opt.image_size),
        "colour": image.Modality(root / "colour", True, opt.image_size),
    }
    for sample in dataset.samples("train")[:50]:
        grey, colour = (readers[m].read(sample.id).float() for m in ("grey", "colour"))
        assert grey.shape == (1, 28, 28) and colour.shape == (3, 28, 28)
        brightest = colour.flatten(1)[colour.flatten(1).amax(1).argmax()]
        together = torch.stack([grey.flatten(), brightest])
        assert torch.corrcoef(together)[0, 1] > 0.999


def published_content():
    """The keys and shapes of Kim et al."""
    rng = np.random.default_rng(0)
    content = {}
    for part, n in (("train", 30), ("test", 20)):
        content[f"{part}_image"] = rng.integers(0, 256, (n, 28, 28, 3)).astype(np.uint8)
        content[f"{part}_label"] = np.arange(n) % 10
    return content


def published_file(path, **changes):
    """In the format of Kim et al.: a dictionary, pickled by NumPy."""
    np.save(path, published_content() | changes, allow_pickle=True)
    return path


def test_the_published_file_is_read_without_running_it(tmp_path):
    path = published_file(tmp_path / "x.npy")
    expected = published_content()
    found = cgmnist.read_npy(path)
    for part in ("train", "test"):
        np.testing.assert_array_equal(found[part][0], expected[f"{part}_image"])
        np.testing.assert_array_equal(found[part][1], expected[f"{part}_label"])


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in the file was run')",)


def test_code_in_a_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", {"train_image": Attack()}, allow_pickle=True)
    with pytest.raises(BadInput, match="unreadable .asks for builtins.exec"):
        cgmnist.read_npy(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(train_image=np.zeros((30, 28, 28), np.uint8)), r"train_image is \(30, 28, 28\)"),
        (dict(test_label=np.zeros(3)), "test_label must hold a digit for each of test_image"),
        (dict(test_label=np.arange(20)), "test_label must hold a digit"),
        (dict(train_image=np.full((30, 28, 28, 3), -1)), "train_image must lie in 0 to 255"),
    ],
)
def test_other_contents_are_refused(changes, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        cgmnist.read_npy(published_file(tmp_path / "x.npy", **changes))


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(BadInput, match=r"an array \(3,\) of float64, not a dictionary"):
        cgmnist.read_npy(tmp_path / "array.npy")
    (tmp_path / "text.npy").write_text("hello")
    content = published_file(tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[: len(content) // 2])
    np.save(tmp_path / "keys.npy", {"train_image": np.zeros(3)}, allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps({}))
    for name in ("text", "cut", "keys", "pickle", "missing"):
        with pytest.raises(BadInput, match=f"--npy .*{name}.npy: "):
            cgmnist.read_npy(tmp_path / f"{name}.npy")


def test_a_file_in_another_order_than_mnist_is_refused(real_digits, tmp_path):
    path = published_file(tmp_path / "x.npy")
    command = ["--source", str(real_digits), "--output", str(tmp_path / "out")]
    command += ["--train_size", "30", "--test_size", "20"]
    with pytest.raises(BadInput, match="train_label differs from MNIST's"):
        cgmnist.main([*command, "--npy", str(path)])
    assert not (tmp_path / "out").exists()
    digits = {p: cgmnist.mnist(p, real_digits, tmp_path)[1] for p in ("train", "test")}
    labels = {"train_label": digits["train"][:30], "test_label": digits["test"][:20]}
    path = published_file(tmp_path / "y.npy", **labels)
    cgmnist.main([*command, "--npy", str(path)])
    assert len(list((tmp_path / "out" / "colour").iterdir())) == 50


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--variance=-1", "--variance -1.0: must be between 0 and 1"),
        ("--train_size=5", "--train_size 5: must be between 10 and 60000"),
        ("--test_size=10001", "--test_size 10001: must be between 10 and 10000"),
    ],
)
def test_bad_flags(flag, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        cgmnist.main(["--source", str(tmp_path), "--output", str(tmp_path / "out"), flag])
