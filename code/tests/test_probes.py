"""Probes: their limits, known answers, and the command that runs them."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

import evaluate
from analysis import probes
from analysis.trained import load_run
from dataset._loader import Batches, BatchSampler, SampleDataset
from dataset._samples import Sample
from dataset.modalities import Modality
from models.metrics import predict
from utils.errors import BadInput
from utils.run_folder import read_jsonl


def test_a_linear_probe_finds_what_is_linear():
    torch.manual_seed(0)
    features, direction = torch.randn(300, 8), torch.randn(8, 3)
    target = (features @ direction).argmax(1)
    logits = probes.linear_probe((features[:200], target[:200]), (features[200:], target[200:]))
    assert (logits.argmax(1) == target[200:]).double().mean() > 0.9
    noise = torch.randint(3, (300,))
    logits = probes.linear_probe((features[:200], noise[:200]), (features[200:], noise[200:]))
    assert (logits.argmax(1) == noise[200:]).double().mean() < 0.55


class Reader(Modality):
    """Samples are numbers; the class stands in `audio` and, where `both`, in `visual` too."""

    def __init__(self, tells):
        super().__init__(Path("none"), train=False)
        self.tells = tells

    def read(self, sample_id):
        return torch.nn.functional.one_hot(torch.tensor(int(sample_id) % 4), 4).float() * self.tells


class Sum(nn.Module):
    def forward(self, inputs):
        total = sum(x for x in inputs.values())
        return {"multimodal": total} | inputs, inputs


@pytest.fixture(params=[0.0, 1.0], ids=["audio alone tells", "both tell"])
def loader(request):
    """400 samples sorted by class, as data sets often are; does `visual` tell it, too?"""
    samples = [Sample(str(4 * i + k), k) for k in range(4) for i in range(100)]
    readers = {"audio": Reader(1.0), "visual": Reader(request.param)}
    data, sampler = SampleDataset(samples, readers, 0), BatchSampler(400, 32, 0, shuffle=False)
    return Batches(data, sampler, "cpu"), request.param


def test_without_a_modality_the_accuracy_is_what_the_other_one_tells(loader):
    batches, tells = loader
    assert probes.accuracy(Sum(), batches, "multimodal") == 1
    assert probes.accuracy(Sum(), probes.without(batches, "visual"), "multimodal") == 1
    lost = probes.accuracy(Sum(), probes.without(batches, "audio"), "multimodal")
    assert lost == (1 if tells else 0.25)


def test_noise_takes_away_what_a_modality_tells(loader):
    batches, _ = loader

    def accuracy(modality, level):
        return probes.accuracy(Sum(), probes.with_noise(batches, modality, level), "audio")

    without, some, much = (accuracy("audio", level) for level in (0, 1, 100))
    assert without == 1 > some > much and abs(much - 0.25) < 0.1
    assert accuracy("audio", 1) == some  # the same noise again
    assert accuracy("visual", 100) == 1  # of the other modality alone


def test_permuting_reaches_across_batches_and_leaves_the_others_alone(loader):
    batches, _ = loader
    mixed = list(probes.permuted(batches, {"audio"}))
    plain = list(batches)
    assert len(mixed) == len(plain)
    for (shuffled, target), (inputs, expected) in zip(mixed, plain):
        assert torch.equal(target, expected)
        assert torch.equal(shuffled["visual"], inputs["visual"])
    audio = torch.cat([inputs["audio"] for inputs, _ in mixed])
    assert torch.equal(audio.sum(0), torch.full((4,), 100.0))  # the same samples, elsewhere
    assert audio[:32].argmax(1).unique().numel() == 4  # though the first batch is of one class


def test_shapley_values_give_the_credit_to_the_modalities_that_tell(loader):
    batches, tells = loader
    run = Namespace(modalities=["audio", "visual"])
    shares = probes.probe_shapley(Sum(), batches, run, Namespace())
    nothing = probes.accuracy(Sum(), probes.permuted(batches, {"audio", "visual"}), "multimodal")
    assert sum(shares.values()) == pytest.approx(1 - nothing)
    if tells:
        assert shares["shapley/audio"] == pytest.approx(shares["shapley/visual"], abs=0.05)
    else:
        assert shares == {"shapley/audio": pytest.approx(1 - nothing), "shapley/visual": 0}


def test_shapley_values_of_a_known_game():
    """Gloves: two left, one right; a pair is worth 1. Textbook: 1/6, 1/6, 4/6."""

    def value(gloves):
        return float("right" in gloves and len(gloves) > 1)

    shares = probes.contributions(value, ["left", "other left", "right"])
    assert shares == pytest.approx({"left": 1 / 6, "other left": 1 / 6, "right": 4 / 6})


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy_by_bins():
    target = torch.tensor([0, 0, 0, 1])
    sure = torch.tensor([[50.0, 0.0]] * 4)
    assert probes.calibration_error(sure, target) == pytest.approx(0.25)  # 75 % right, 100 % sure
    right = torch.tensor([[3.0, 1.0]] * 4).double().log()  # 75 % sure
    assert probes.calibration_error(right, target) == pytest.approx(0, abs=1e-12)
    # two bins of 1 and 3 samples: 60 % sure and right, 90 % sure and never right
    mixed = torch.tensor([[0.6, 0.4]] + [[0.1, 0.9]] * 3).double().log()
    error = probes.calibration_error(mixed, torch.tensor([0, 0, 0, 0]))
    assert error == pytest.approx(0.25 * 0.4 + 0.75 * 0.9)


def test_the_command_prints_and_stores_every_probe(trained, tmp_path, capsys):
    folder = tmp_path / "x"
    shutil.copytree(trained("mmpareto"), folder)
    names = ["missing", "noise", "shapley", "calibration"]
    capsys.readouterr()
    evaluate.main([str(folder), "--probe", ",".join(names), "--noise_levels", "0,3"])
    assert "noise/visual/3" in capsys.readouterr().out
    scores = {}
    for name in names:
        stored = json.loads((folder / f"probe_{name}.json").read_text())
        assert (stored["checkpoint"], stored["split"]) == ("last", "test")
        scores |= stored["scores"]
    last = read_jsonl(folder / "metrics.jsonl")[-1]["test/accuracy/multimodal"]
    assert scores["noise/audio/0"] == scores["noise/visual/0"] == scores["missing/none"] == last
    assert scores["shapley/audio"] + scores["shapley/visual"] <= last
    assert {"calibration/multimodal", "calibration/audio", "missing/visual"} <= scores.keys()
    assert "missing_feature/audio" in scores
    evaluate.main([str(trained("uniform")), str(folder), "--json", str(tmp_path / "both.json")])
    both = json.loads((tmp_path / "both.json").read_text())
    assert list(both) == [str(trained("uniform")), str(folder)]
    assert both[str(folder)]["scores"]["accuracy/multimodal"] == last
    with pytest.raises(BadInput, match="--probe x: choose from none, linear, missing, noise"):
        evaluate.main([str(folder), "--probe", "linear,x"])


def test_heads_that_were_never_trained_have_no_calibration(trained, tmp_path):
    shutil.copytree(trained("joint"), tmp_path / "x")
    evaluate.main([str(tmp_path / "x"), "--probe", "calibration"])
    stored = json.loads((tmp_path / "x" / "probe_calibration.json").read_text())["scores"]
    assert list(stored) == ["calibration/multimodal"]


def test_a_missing_feature_is_the_fusion_of_zero_and_the_others(trained, tmp_path):
    """With concat, the published fusion, what is left are the logits that the others add."""
    run, _, loaders, model = load_run(trained("mmpareto"), "last", "cpu")
    scores = probes.probe_missing(model, loaders["test"], run, None)
    _, features, target = predict(model, loaders["test"])
    with torch.no_grad():
        parts, bias = model.fusion.unimodal(features), model.fusion.linear.bias
    for modality, other in (("audio", "visual"), ("visual", "audio")):
        logits = parts[other] + bias / 2  # of which each part has half
        expected = (logits.argmax(1) == target).double().mean().item()
        assert scores[f"missing_feature/{modality}"] == pytest.approx(expected)
