"""benchmark.py as a user runs it, small."""

import json

import pytest

import benchmark
from utils.errors import BadInput

SMALL = ["--batch_size", "4", "--image_size", "32", "--rounds", "3", "--clips", "8"]
SMALL += ["--loader_pixels", "32", "--epochs", "1", "--num_workers", "0", "--device", "cpu"]


@pytest.mark.slow
def test_measures_everything(tmp_path, capsys):
    benchmark.main([*SMALL, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    for arm in ("joint", "uniform", "pareto", "mmpareto", "published"):
        assert found[f"step.{arm}"] > 0 and found[f"memory.{arm}"] > 0
    for arm in ("published", "cached", "device"):
        assert found[f"loader.{arm}"] > 0
    for key in ("ratio.mmpareto_over_joint", "ratio.published_over_mmpareto"):
        assert 0.5 < found[key] < 20
    assert found["epoch.ours"] > 0 and 0 <= found["waiting.ours"] <= 1
    assert found["environment"]["torch"] and found["settings"]["batch_size"] == 4
    small = [found[f"integrate.400 tensors of 50, {kind}"] for kind in ("agreeing", "in conflict")]
    assert small[1] < 1.5 * small[0]  # one path; the bound is for a busy machine
    printed = capsys.readouterr().out
    for heading in ("step ", "zero_grad after", "loader, one core", "epoch "):
        assert heading in printed


@pytest.mark.slow
def test_mmpareto_holds_one_copy_of_the_encoders_gradients_more_than_uniform(tmp_path):
    argv = ["--only", "memory", "--device", "cpu", "--json", str(tmp_path / "found.json")]
    benchmark.main(argv)  # at its default sizes
    found = json.loads((tmp_path / "found.json").read_text())
    for loop in ("memory", "memory_freed_first"):
        beyond = found[f"{loop}.mmpareto"] - found[f"{loop}.uniform"]
        assert beyond <= 1.2 * found["memory.encoder_gradients"], loop
    assert found["memory.mmpareto"] <= 1.2 * found["memory.uniform"]


@pytest.mark.slow
def test_any_method_is_an_arm_and_what_the_fusion_does_not_suit_is_named(tmp_path, capsys):
    argv = ["--only", "step", "--fusion", "mmtm", "--rounds", "1", "--json", str(tmp_path / "x")]
    benchmark.main([*SMALL, *argv, "--methods", "greedy,pcgrad"])
    found = json.loads((tmp_path / "x").read_text())
    assert found["step.greedy"] > 0 and found["step.pcgrad"] > 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table if line.startswith(("greedy", "pcgrad"))]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--methods", "ogm", "--fusion", "mmtm"], "--methods ogm: --fusion mmtm: has no unimodal"),
        (["--methods", "nothing"], "--methods nothing: no file methods/nothing.py; choose from"),
        (["--only", "speed"], "--only speed: choose from step,integrate,memory,loader,epoch"),
        (["--clips", "3"], "--clips 3: must be at least the batch size 4"),
        (["--rounds", "0"], "--rounds 0: must be at least 1"),
        (["--tf32"], "--tf32: needs --device cuda"),
    ],
)
def test_bad_input(argv, message):
    with pytest.raises(BadInput, match=message):
        benchmark.main([*SMALL, *argv])
