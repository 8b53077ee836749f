"""Every file of figures/ draws real runs; what it cannot draw it names."""

import inspect
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import RUNS
from PIL import Image

import argument
import draw
import evaluate
import multitask
from analysis import landscape
from figures import poster
from figures._style import LOOKS, look_of
from utils import registry
from utils.errors import BadInput

GAINS = ["mmpareto", "mmpareto-seed1", "mmpareto-gamma1"]
WALK = ["--directions", "1", "--points", "3", "--samples", "8"]
MEASURED = ["uniform", "mmpareto", "mmpareto-seed1"]
SHOWN = {  # runs that suit a figure, and flags that make it quick; other figures: ARMS
    "overview": ["mmpareto"],
    "cosine": ["mmpareto"],
    "weights": ["mmpareto"],
    "norms": ["mmpareto"],
    "gamma": GAINS,
    "plane": ["joint", "mmpareto"],
    "features": ["mmpareto", "uniform", "--map", "pca"],
    "noise": GAINS,
    "landscape": ["mmpareto", *WALK],
    "argument": MEASURED,
    "power": [str(registry.CODE.parent / "results" / name) for name in ("avmnist", "cgmnist")],
    "rates": ["held-out", "held-out-fast"],
}
ARMS = ["joint", "uniform", "mmpareto", "mmpareto-seed1"]


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """A folder with copies of runs and of their probes."""
    folder = tmp_path_factory.mktemp("runs")
    for name in {*ARMS, *GAINS, *SHOWN["rates"]}:
        shutil.copytree(trained(name), folder / name)
    for name in ("joint", "mmpareto"):
        evaluate.main([str(folder / name), "--probe", "linear"])
    argument.main([str(folder / name) for name in MEASURED])
    for name in GAINS:
        evaluate.main([str(folder / name), "--probe", "noise", "--noise_levels", "0,2"])
    return folder


def draw_figure(figure, runs, output, *words):
    """words: names of runs, and flags."""
    words = [str(runs / word) if word in RUNS else word for word in words]
    draw.main([figure, *words, "--output", str(output)])


@pytest.mark.parametrize("figure", registry.names("figures"))
def test_every_figure_is_drawn_as_vector_and_picture(figure, runs, tmp_path, capsys):
    assert inspect.getdoc(registry.load("figures", figure, "draw.py"))
    output = tmp_path / "pics" / figure
    draw_figure(figure, runs, output, *SHOWN.get(figure, ARMS))
    assert f"figure: {output}.svg, .pdf, .png" in capsys.readouterr().out
    assert Path(f"{output}.pdf").read_bytes().startswith(b"%PDF")
    root = ElementTree.parse(f"{output}.svg").getroot()
    assert root.tag.endswith("svg") and len(list(root.iter())) > 50
    with Image.open(f"{output}.png") as picture:
        shades = np.asarray(picture.convert("L"))
    assert shades.std() > 5  # something is drawn, and it can be seen in grey


def test_the_posters_vectors_are_the_two_gradients_and_what_methods_make_of_them():
    vectors = poster.vectors_of(cosine=-0.6, multimodal=1.0, unimodal=3.0)
    g_m, g_u = vectors["multimodal"], vectors["unimodal"]
    assert (g_m @ g_u).item() == pytest.approx(-1.8) and g_m.norm() == 1 and g_u.norm() == 3
    assert vectors["uniform"] @ g_m < 0  # the sum climbs the multimodal loss
    for arm in ("pareto", "mmpareto"):
        assert vectors[arm] @ g_m > 0 and vectors[arm] @ g_u > 0
    # the point of least norm on the line between the two is orthogonal to it
    assert (vectors["pareto"] @ (g_m - g_u)).item() == pytest.approx(0, abs=1e-12)
    raised = vectors["mmpareto"].norm() / vectors["uniform"].norm()
    assert raised.item() == pytest.approx(1.5)
    torch.testing.assert_close(*(v / v.norm() for v in (vectors["pareto"], vectors["mmpareto"])))


@pytest.mark.parametrize(
    "figure, words, message",
    [
        ("pie", ["mmpareto"], "draw.py pie: no file figures/pie.py; choose from argument, comp"),
        ("cosine", ["joint"], "measured no cosine; MMPareto does, uniform --measure_conflict"),
        ("plane", ["uniform", "joint-unprobed"], "2 of 2 runs have none, such as .*run evaluate"),
        ("argument", ["joint"], "nothing of the argument is measured; run argument.py"),
        ("plane", ["uniform", "joint", "--measure", "head"], "joint trains no visual head; use pr"),
    ],
)
def test_what_cannot_be_drawn_is_named(figure, words, message, runs, trained, tmp_path):
    words = [str(trained("joint")) if word == "joint-unprobed" else word for word in words]
    with pytest.raises(BadInput, match=message):
        draw_figure(figure, runs, tmp_path / "x", *words)
    assert not list(tmp_path.iterdir())


def test_norms_are_kept_for_each_loss_of_each_encoder(runs, tmp_path):
    draw_figure("norms", runs, tmp_path / "x", "uniform")
    norms = json.loads((runs / "uniform" / "gradient_norms.json").read_text())["norms"]
    assert {encoder: list(by_loss) for encoder, by_loss in norms.items()} == {
        "audio": ["multimodal", "audio"],
        "visual": ["multimodal", "visual"],
    }
    for by_loss in norms.values():
        assert all(len(values) == 3 and min(values) > 0 for values in by_loss.values())


def test_landscape_walks_in_directions_that_are_normalised_by_filter():
    layer = torch.nn.Conv2d(3, 5, 3)
    weight, bias = landscape.by_filter(layer, 0)
    lengths = layer.weight.detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), lengths)
    assert (bias == 0).all()
    assert torch.equal(weight, landscape.by_filter(layer, 0)[0])
    assert not torch.equal(weight, landscape.by_filter(layer, 1)[0])


def test_landscape_ends_no_further_from_the_trained_weights_than_asked_for(runs, tmp_path):
    stored = runs / "mmpareto-seed1" / "landscape.json"
    curves = {}
    for reach in ("1", "0.001"):
        flags = [*WALK, "--reach", reach]
        draw_figure("landscape", runs, tmp_path / "x", "mmpareto-seed1", *flags)
        curves[reach] = json.loads(stored.read_text())["curves"]
    for name in ("train loss", "test loss"):
        (far,), (near,) = curves["1"][name], curves["0.001"][name]
        assert near[1] == far[1] > 0  # the trained weights themselves
        assert abs(near[0] - near[1]) < abs(far[0] - far[1])


def test_landscape_has_the_accuracy_of_the_run_in_its_middle(runs, tmp_path):
    flags = ["--directions", "2", "--points", "3", "--samples", "1000"]  # all
    draw_figure("landscape", runs, tmp_path / "x", "mmpareto-seed1", *flags)
    curves = json.loads((runs / "mmpareto-seed1" / "landscape.json").read_text())["curves"]
    metrics = (runs / "mmpareto-seed1" / "metrics.jsonl").read_text().splitlines()[-1]
    expected = 100 * json.loads(metrics)["test/accuracy/multimodal"]
    for of_direction in curves["test accuracy"]:
        assert of_direction[1] == pytest.approx(expected)
    for split in ("train", "test"):  # whatever the direction
        assert curves[f"{split} loss"][0][1] == curves[f"{split} loss"][1][1]
    assert curves["train loss"][0][1] != curves["test loss"][0][1]


def test_an_arm_has_its_name_and_looks_the_same_in_every_figure():
    assert look_of("joint")[0] == "One joint loss"
    assert look_of("uniform --encoder_grad_scale 1.5")[0] == "Uniform, 1.5x encoder gradient"
    assert look_of("mmpareto --gamma 1.0") == look_of("mmpareto --gamma 1")  # a run, a command
    arms = ["mmpareto --gamma 2", "mmpareto --gamma 3", "mmpareto --rescale none", "audio alone"]
    arms += ["mmpareto --rescale encoder", "mmpareto --gamma 1.0 --rescale encoder", *LOOKS]
    drawn = {*multitask.METHODS.split(","), *registry.names("methods"), *arms}
    assert len({tuple(look_of(arm)[1].values()) for arm in drawn}) == len(drawn)
