"""script/reproduce.sh: the whole comparison from training to figures."""

import pytest
from commands import shell

from utils import registry


@pytest.mark.slow
def test_all_runs_tables_and_figures_and_the_second_time_nothing_is_trained(demo_root, tmp_path):
    command = ["sh", "script/reproduce.sh", "demo", "--data_root", str(demo_root), "--seeds", "0"]
    command += ["--epochs", "1", "--jobs", "2", "--encoder", "cnn", "--image_size", "32"]
    command += ["--num_workers", "0", "--no-tensorboard"]
    for done in (0, 1):
        finished = shell(*command, RUNS=str(tmp_path), PICS=str(tmp_path / "pics"))
        assert finished.returncode == 0, finished.stderr
        assert f"5 runs, {5 * done} of them done already" in finished.stdout
        for runs in (2, 1, 7):  # each modality alone, from these, and the controls
            assert f"{runs} runs, {runs * done} of them done already" in finished.stdout
        assert f"5 runs, {5 * done} of them" in finished.stdout.split("7 runs,")[1]  # rivals
    for suffix in ("md", "csv", "tex"):
        assert (tmp_path / f"report.{suffix}").stat().st_size > 1000
    rows = (tmp_path / "report.md").read_text()
    for arm in (
        "audio alone",
        "joint --init_encoders RUNS",
        "g_blending --val_fraction 0.1",
        "greedy --fusion mmtm",
        "uniform --encoder_grad_scale 1.5",
        "mmpareto --gamma 1.0 --rescale encoder",
        "random_in_conflict",
    ):
        assert f"| {arm} | 1 (few) |" in rows
    for figure in registry.names("figures"):
        if figure in ("overview", "rates", "power"):  # of every run itself; of trials
            continue
        for suffix in ("svg", "png"):
            assert (tmp_path / "pics" / f"demo_{figure}.{suffix}").stat().st_size > 5000
