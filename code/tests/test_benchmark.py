"""benchmark.py as a user runs it, small."""

import json

import pytest

import benchmark
from utils.errors import BadInput

SMALL = ["--batch_size", "4", "--image_size", "32", "--rounds", "3", "--clips", "8"]
SMALL += ["--loader_pixels", "32", "--epochs", "1", "--num_workers", "0", "--device", "cpu"]


def measured(tmp_path, *argv):
    benchmark.main([*argv, "--json", str(tmp_path / "measured.json")])
    return json.loads((tmp_path / "measured.json").read_text())


@pytest.mark.slow
def test_measures_everything(tmp_path):
    values = measured(tmp_path, *SMALL)
    for arm in ("joint", "uniform", "pareto", "mmpareto", "published"):
        assert values[f"step.{arm}"] > 0 and values[f"memory.{arm}"] > 0
    for arm in ("published", "cached", "device"):
        assert values[f"loader.{arm}"] > 0
    assert values["epoch.ours"] > 0 and 0 <= values["waiting.ours"] < 1
    assert 0 < values["sweep.in_sweep"] < values["sweep.alone"]
    values = measured(tmp_path, *SMALL, "--only", "integrate", "--rounds", "30")  # some 10 ms each
    small = [values[f"integrate.400 tensors of 50, {kind}"] for kind in ("agreeing", "in conflict")]
    assert small[1] < 1.5 * small[0]  # one path; the bound is for a busy machine


@pytest.mark.slow
def test_mmpareto_holds_one_copy_of_the_encoders_gradients_more_than_uniform(tmp_path):
    values = measured(tmp_path, "--only", "memory", "--device", "cpu")  # at its default sizes
    for loop in ("memory", "memory_freed_first"):
        beyond = values[f"{loop}.mmpareto"] - values[f"{loop}.uniform"]
        assert beyond <= 1.2 * values["memory.encoder_gradients"], loop
    assert values["memory.mmpareto"] <= 1.2 * values["memory.uniform"]


def test_any_method_is_an_arm(tmp_path, capsys):
    argv = ["--only", "step", "--fusion", "mmtm", "--rounds", "1", "--methods", "greedy"]
    values = measured(tmp_path, *SMALL, *argv)
    assert values["step.greedy"] > 0 and values["step.mmpareto"] > 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert {"greedy", "mmpareto", "joint"} <= set(rows)
    with pytest.raises(BadInput, match="--methods ogm: --fusion mmtm: has no unimodal"):
        measured(tmp_path, *SMALL, "--methods", "ogm", "--fusion", "mmtm")
