"""Coloured and grey MNIST: from plain MNIST, from files in the published format, checked."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from dataset.cgmnist import Dataset
from dataset.modalities import image
from dataset.prepare import cgmnist
from utils.errors import BadInput


def test_colours_have_the_mean_and_variance_that_are_asked_for():
    rng = np.random.default_rng(0)
    drawn = cgmnist.colours(np.full(20000, 4), 0.0004, rng)  # so small that nothing is clipped
    np.testing.assert_allclose(drawn.mean(0), cgmnist.MEAN_COLOURS[4] / 255, atol=1e-3)
    np.testing.assert_allclose(drawn.var(0), 0.0004, rtol=0.05)


def test_in_training_the_colour_tells_the_digit_and_in_testing_it_does_not(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    white, all_digits = np.full((1000, 28, 28), 255, np.uint8), rng.integers(10, size=1000)
    monkeypatch.setattr(cgmnist, "mnist", lambda part, *places: (white, all_digits))
    sizes = ["--train_size", "1000", "--test_size", "500"]
    cgmnist.main(["--output", str(tmp_path / "set"), *sizes])
    colours, digits = {}, {}
    for part in ("train", "test"):
        samples = Dataset(tmp_path / "set").samples(part)
        files = [tmp_path / "set" / "colour" / f"{sample.id}.png" for sample in samples]
        colours[part] = np.stack([np.asarray(Image.open(file))[14, 14] / 255 for file in files])
        digits[part] = [sample.target for sample in samples]
    assert (len(digits["train"]), len(digits["test"])) == (1000, 500)
    probe = LogisticRegression(max_iter=2000, C=100).fit(colours["train"], digits["train"])
    assert probe.score(colours["train"], digits["train"]) > 0.6
    assert probe.score(colours["test"], digits["test"]) < 0.2
    # though the same colours are in use
    np.testing.assert_allclose(colours["test"].mean(0), colours["train"].mean(0), atol=0.1)


def test_both_pictures_of_a_sample_show_the_same_digit(cgmnist_root):
    readers = [image.Modality(cgmnist_root / name, True, 28) for name in ("grey", "colour")]
    for sample in Dataset(cgmnist_root).samples("train")[:50]:
        grey, colour = (reader.read(sample.id).float() for reader in readers)
        assert grey.shape == (1, 28, 28) and colour.shape == (3, 28, 28)
        brightest = colour.flatten(1)[colour.flatten(1).amax(1).argmax()]
        together = torch.stack([grey.flatten(), brightest])
        assert torch.corrcoef(together)[0, 1] > 0.999


@pytest.fixture
def published():
    """The content of the file of Kim et al., smaller."""
    rng = np.random.default_rng(0)
    content = {}
    for part, n in (("train", 30), ("test", 20)):
        content[f"{part}_image"] = rng.integers(0, 256, (n, 28, 28, 3)).astype(np.uint8)
        content[f"{part}_label"] = np.arange(n) % 10
    return content


def test_the_published_file_is_read(published, tmp_path):
    np.save(tmp_path / "x.npy", published, allow_pickle=True)
    parts = cgmnist.read_npy(tmp_path / "x.npy")
    for part in ("train", "test"):
        np.testing.assert_array_equal(parts[part][0], published[f"{part}_image"])
        np.testing.assert_array_equal(parts[part][1], published[f"{part}_label"])


def test_a_file_of_another_shape_is_refused(published, tmp_path):
    published["train_image"] = published["train_image"][..., 0]
    np.save(tmp_path / "x.npy", published, allow_pickle=True)
    with pytest.raises(BadInput, match=r"train_image is \(30, 28, 28\)"):
        cgmnist.read_npy(tmp_path / "x.npy")


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in the file was run')",)


def test_code_in_a_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", {"train_image": Attack()}, allow_pickle=True)
    with pytest.raises(BadInput, match="unreadable .asks for builtins.exec"):
        cgmnist.read_npy(tmp_path / "x.npy")


def test_a_file_in_another_order_than_mnist_is_refused(
    published, real_digits, cgmnist_root, tmp_path
):
    command = ["--source", str(real_digits), "--output", str(tmp_path / "out")]
    command += ["--train_size", "30", "--test_size", "20", "--npy", str(tmp_path / "x.npy")]
    np.save(tmp_path / "x.npy", published, allow_pickle=True)
    with pytest.raises(BadInput, match="train_label differs from MNIST's"):
        cgmnist.main(command)
    assert not (tmp_path / "out").exists()
    for part, count in (("train", 30), ("test", 20)):
        labels = [sample.target for sample in Dataset(cgmnist_root).samples(part)[:count]]
        published[f"{part}_label"] = np.array(labels)  # of MNIST's first pictures
    np.save(tmp_path / "x.npy", published, allow_pickle=True)
    cgmnist.main(command)
    assert len(list((tmp_path / "out" / "colour").iterdir())) == 50
    with Image.open(tmp_path / "out" / "colour" / "test_00019.png") as picture:
        np.testing.assert_array_equal(picture, published["test_image"][19])
