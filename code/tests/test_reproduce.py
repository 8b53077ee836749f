"""reproduce.py: its comparison can be run, and the whole command from training to figures."""

import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

import reproduce
import sweep
from utils import registry

CODE = Path(__file__).resolve().parents[1]


def test_every_arm_is_a_run_of_its_own(tmp_path):
    arms = [*reproduce.METHODS, reproduce.GAIN, *reproduce.OTHERS]
    args = dict(methods=None, arm=arms, each_modality=True, seeds="0,1", dataset="demo")
    runs = sweep.plan(Namespace(**args, data_root=None, ckpt_path=tmp_path), ["--epochs", "1"])
    assert len(runs) == 2 * (len(arms) + 2)
    for one in runs:
        one.folder.mkdir()
    for arm in arms:  # and its folders are found again, those of no other arm with it
        found = [Path(f).name for f in reproduce.folders(tmp_path, "demo", arm)]
        assert len(found) == 2 and found[0].endswith("seed0") and found[1].endswith("seed1")


@pytest.mark.slow
def test_the_command(demo_root, tmp_path):
    """All runs, tables and figures, small; the second time nothing is trained."""
    argv = ["sh", "script/reproduce.sh", "--dataset", "demo", "--data_root", str(demo_root)]
    argv += ["--ckpt_path", str(tmp_path), "--quick", "--epochs", "1", "--jobs", "2"]
    argv += ["--image_size", "32", "--num_workers", "0", "--no-tensorboard"]
    for done in (0, 1):
        finished = subprocess.run(argv, cwd=CODE, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        assert f"5 runs, {5 * done} of them done already" in finished.stdout
        assert f"9 runs, {9 * done} of them done already" in finished.stdout
    for suffix in ("md", "csv", "tex"):
        assert (tmp_path / f"report.{suffix}").stat().st_size > 1000
    rows = (tmp_path / "report.md").read_text()
    for label in ("| audio alone | 1 |", "| uniform --encoder_grad_scale 1.5 | 1 |"):
        assert label in rows
    for figure in registry.names("figures"):
        for suffix in ("svg", "png"):
            assert (tmp_path / "pics" / f"demo_{figure}.{suffix}").stat().st_size > 5000
