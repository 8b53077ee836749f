"""Every file of figures/ draws real runs; what it cannot draw it names."""

import inspect
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import draw
import evaluate
import multitask
import train
from figures import landscape, norms
from figures._style import METHODS, look_of
from utils import registry
from utils.errors import BadInput

RUNS = {
    "joint0": ["--method", "joint"],
    "uniform0": ["--method", "uniform"],
    "mm0": ["--method", "mmpareto"],
    "mm1": ["--method", "mmpareto", "--random_seed", "1"],
    "gain0": ["--method", "mmpareto", "--gamma", "1"],
}
WHICH = {  # runs that suit a figure, and flags that make it quick
    "cosine": ["mm0"],
    "weights": ["mm0"],
    "norms": ["mm0"],
    "gamma": ["mm0", "mm1", "gain0"],
    "features": ["mm0", "uniform0", "--map", "pca"],
    "noise": ["mm0", "mm1", "gain0"],
    "landscape": ["mm0", "--directions", "1", "--points", "3", "--samples", "8"],
}


@pytest.fixture(scope="module")
def runs(demo_root, tmp_path_factory):
    where = tmp_path_factory.mktemp("runs")
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(where)]
    argv += ["--image_size", "32", "--batch_size", "18", "--num_workers", "0", "--epochs", "2"]
    for name, flags in RUNS.items():
        train.main([*argv, "--no-tensorboard", "--run_name", name, *flags])
    evaluate.main([str(where / "joint0"), "--probe", "linear"])
    for name in ("mm0", "mm1", "gain0"):
        evaluate.main([str(where / name), "--probe", "noise", "--noise_levels", "0,2"])
    return where


def drawn(figure, runs, output, *words):
    given = [str(runs / word) if word in RUNS else word for word in words]
    draw.main([figure, *given, "--output", str(output)])


@pytest.mark.parametrize("figure", registry.names("figures"))
def test_every_figure_is_drawn_as_vector_and_picture(figure, runs, tmp_path, capsys):
    assert inspect.getdoc(registry.load("figures", figure, "draw.py"))
    output = tmp_path / "pics" / figure
    drawn(figure, runs, output, *WHICH.get(figure, ["joint0", "uniform0", "mm0", "mm1"]))
    assert f"figure: {output}.svg, {output}.png" in capsys.readouterr().out
    root = ElementTree.parse(f"{output}.svg").getroot()
    assert root.tag.endswith("svg") and len(list(root.iter())) > 50
    with Image.open(f"{output}.png") as picture:
        shades = np.asarray(picture.convert("L"))
    assert shades.std() > 5  # something is drawn, and it can be seen in grey


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "name a figure: comparison, cosine,"),
        (["pie", "mm0"], "draw.py pie: no file figures/pie.py; choose from comparison"),
        (["cosine", "mm0", "mm1"], "cosine: one run at a time, got 2"),
        (["cosine", "joint0"], "measured no cosine; MMPareto does, uniform --measure_conflict"),
        (["weights", "uniform0"], "recorded no weights"),
        (["gamma", "mm0", "uniform0"], "its method has no --gamma"),
        (["plane", "mm0", "--modality", "smell"], "--modality smell: choose from audio, visual"),
        (["landscape", "mm0", "--points", "4"], "--points 4: must be odd"),
        (["noise", "mm0", "uniform0"], "uniform0: first run evaluate.py on it with --probe noise"),
        (["comparison", "joint0", "uniform0"], "comparison: needs a run of --method mmpareto"),
        (["curves", "nowhere"], "nowhere: no run folder"),
    ],
)
def test_what_cannot_be_drawn_is_named(words, message, runs, tmp_path):
    given = [str(runs / word) if word in RUNS else word for word in words]
    with pytest.raises(BadInput, match=message):
        draw.main([*given, *(["--output", str(tmp_path / "x")] if words else [])])
    assert not list(tmp_path.iterdir())


def test_a_method_without_heads_needs_its_probe_in_the_plane(runs, tmp_path):
    probe = runs / "joint0" / "probe_linear.json"
    content = probe.read_text()
    probe.unlink()
    try:
        with pytest.raises(BadInput, match="joint: trains no visual head; run evaluate.py --probe"):
            drawn("plane", runs, tmp_path / "x", "joint0", "mm0")
    finally:
        probe.write_text(content)


def test_norms_are_those_of_the_fixed_encoder_and_are_kept(runs, tmp_path):
    stored = runs / "uniform0" / "gradient_norms.json"
    before = (runs / "uniform0" / "last.pt").read_bytes()
    drawn("norms", runs, tmp_path / "x", "uniform0")
    found = json.loads(stored.read_text())
    assert {m: list(by_loss) for m, by_loss in found.items()} == {
        "audio": ["multimodal", "audio"],
        "visual": ["multimodal", "visual"],
    }
    assert all(len(v) == 3 and min(v) > 0 for by_loss in found.values() for v in by_loss.values())
    assert (runs / "uniform0" / "last.pt").read_bytes() == before
    stored.write_text(json.dumps({"audio": {"multimodal": [1.0], "audio": [2.0]}}))
    drawn("norms", runs, tmp_path / "y", "uniform0")  # redrawn from what is stored
    stored.unlink()
    assert norms.collect.__doc__


def test_landscape_is_kept_and_collected_anew_when_asked_for_otherwise(runs, tmp_path):
    quick = ["--directions", "1", "--points", "3", "--samples", "8"]
    drawn("landscape", runs, tmp_path / "x", "mm1", "uniform0", *quick)
    stored = runs / "mm1" / "landscape.json"
    (first,) = json.loads(stored.read_text())["losses"]
    assert len(first) == 3 and min(first) > 0
    kept = stored.read_text().replace(f"{first[1]}", "1.25")
    stored.write_text(kept)
    drawn("landscape", runs, tmp_path / "x", "mm1", *quick)
    assert stored.read_text() == kept  # redrawn from what is stored
    drawn("landscape", runs, tmp_path / "x", "mm1", *quick, "--reach", "0.001")
    (near,) = json.loads(stored.read_text())["losses"]
    assert near[1] == first[1]  # the trained weights themselves
    assert abs(near[0] - near[1]) < abs(first[0] - first[1])
    stored.unlink()


def test_an_arm_has_its_name_and_looks_the_same_in_every_figure():
    assert look_of("joint")[0] == "One joint loss"
    assert look_of("uniform --encoder_grad_scale 1.5")[0] == "Uniform, 1.5x encoder gradient"
    assert look_of("mmpareto --gamma 1.0") == look_of("mmpareto --gamma 1")  # a run, a command
    assert look_of("mmpareto --rescale none")[0] == "MMPareto, rescale none"
    assert look_of("random_weights")[0] == "Random weights" and look_of("pcgrad")[0] == "PCGrad"
    arms = ["mmpareto --gamma 2", "mmpareto --gamma 3", "mmpareto --rescale none", "audio alone"]
    arms += ["mmpareto --rescale encoder", "mmpareto --gamma 1.0 --rescale encoder", *METHODS]
    drawn = {*multitask.METHODS.split(","), *registry.names("methods"), *arms}
    assert len({tuple(look_of(arm)[1].values()) for arm in drawn}) == len(drawn)


def test_directions_are_filter_normalised():
    layer = torch.nn.Conv2d(3, 5, 3)
    weight, bias = landscape.direction(layer, 0)
    lengths = layer.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), lengths)
    assert (bias == 0).all()
    assert torch.equal(weight, landscape.direction(layer, 0)[0])
    assert not torch.equal(weight, landscape.direction(layer, 1)[0])
