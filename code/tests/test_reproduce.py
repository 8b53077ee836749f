"""script/reproduce.sh: the whole comparison from training to figures."""

import os
import subprocess
from pathlib import Path

import pytest

from utils import registry

CODE = Path(__file__).resolve().parents[1]


def test_a_data_set_is_needed():
    done = subprocess.run(["sh", "script/reproduce.sh"], cwd=CODE, capture_output=True, text=True)
    assert done.returncode != 0 and "name a data set, a file of dataset/" in done.stderr


@pytest.mark.slow
def test_all_runs_tables_and_figures_and_the_second_time_nothing_is_trained(demo_root, tmp_path):
    argv = ["sh", "script/reproduce.sh", "demo", "--data_root", str(demo_root), "--seeds", "0"]
    argv += ["--epochs", "1", "--jobs", "2", "--image_size", "32", "--num_workers", "0"]
    where = {"RUNS": str(tmp_path), "PICS": str(tmp_path / "pics")}
    for done in (0, 1):
        finished = subprocess.run(
            [*argv, "--no-tensorboard"],
            cwd=CODE,
            capture_output=True,
            text=True,
            env=os.environ | where,
        )
        assert finished.returncode == 0, finished.stderr
        assert f"5 runs, {5 * done} of them done already" in finished.stdout
        assert f"9 runs, {9 * done} of them done already" in finished.stdout
    for suffix in ("md", "csv", "tex"):
        assert (tmp_path / f"report.{suffix}").stat().st_size > 1000
    rows = (tmp_path / "report.md").read_text()
    for label in (
        "| audio alone | 1 |",
        "| uniform --encoder_grad_scale 1.5 | 1 |",
        "| mmpareto --gamma 1.0 --rescale encoder | 1 |",
        "| random_weights | 1 |",
    ):
        assert label in rows, label
    for figure in registry.names("figures"):
        for suffix in ("svg", "png"):
            assert (tmp_path / "pics" / f"demo_{figure}.{suffix}").stat().st_size > 5000
