"""Coloured and grey MNIST: from plain MNIST, from files in the published format, checked."""

import numpy as np
import pytest
import torch
from PIL import Image
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


def test_its_network_is_the_papers_unless_another_is_chosen():
    argv = ["--dataset", "cgmnist"]
    assert options.parse(argv).encoder == "conv4"
    with pytest.raises(BadInput, match="--pretrained: no flag of this run"):
        options.parse([*argv, "--pretrained"])
    chosen = options.parse([*argv, "--encoder", "resnet18", "--pretrained"])
    assert chosen.encoder == "resnet18" and chosen.pretrained


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


class Attack:
    def __reduce__(self):
        return exec, ("raise SystemExit('code in the file was run')",)


def test_code_in_a_file_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", {"train_image": Attack()}, allow_pickle=True)
    with pytest.raises(BadInput, match="unreadable .asks for builtins.exec"):
        cgmnist.read_npy(tmp_path / "x.npy")


def test_a_file_of_kim_et_al_gives_the_colours_unless_its_order_is_not_mnists(
    tmp_path, monkeypatch
):
    rng = np.random.default_rng(0)
    content, mnist = {}, {}
    for part, n in (("train", 30), ("test", 20)):
        content[f"{part}_image"] = rng.integers(0, 256, (n, 28, 28, 3)).astype(np.uint8)
        content[f"{part}_label"] = np.arange(n) % 10
        mnist[part] = content[f"{part}_image"][..., 0], content[f"{part}_label"]
    monkeypatch.setattr(cgmnist, "mnist", lambda part, *places: mnist[part])
    command = ["--train_size", "30", "--test_size", "20", "--npy", str(tmp_path / "x.npy")]
    np.save(tmp_path / "x.npy", content, allow_pickle=True)
    cgmnist.main([*command, "--output", str(tmp_path / "set")])
    assert len(list((tmp_path / "set" / "colour").iterdir())) == 50
    for part in ("train", "test"):
        for number, pixels in enumerate(content[f"{part}_image"]):
            file = tmp_path / "set" / "colour" / f"{part}_{number:05d}.png"
            np.testing.assert_array_equal(Image.open(file), pixels)
    content["train_label"] = content["train_label"][::-1]
    np.save(tmp_path / "x.npy", content, allow_pickle=True)
    with pytest.raises(BadInput, match="train_label differs from MNIST's"):
        cgmnist.main([*command, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
