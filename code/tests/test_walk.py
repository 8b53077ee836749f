"""docs/extending.md, the walk: every file and command of it, in order, as they stand there."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from commands import CODE
from conftest import REAL_DATA
from scipy.io import savemat

PAGE = CODE.parent / "docs" / "extending.md"
ACTIONS = 4


def write_raw(folder: Path) -> None:
    """Four actions of UTD-MHAD where its files are there, else sequences that tell the action."""
    folder.mkdir(parents=True)
    real = REAL_DATA / "utd_mhad"
    if real.is_dir():
        for sensor in ("Inertial", "Skeleton"):
            with tarfile.open(real / f"{sensor}.tar.gz") as archive:
                wanted = re.compile(rf".*/a[1-{ACTIONS}]_.*\.mat")
                members = [m for m in archive.getmembers() if wanted.fullmatch(m.name)]
                archive.extractall(folder, members, filter="data")
        return
    rng = np.random.default_rng(0)
    for action in range(1, ACTIONS + 1):
        for subject in range(1, 9):
            for trial in range(1, 5):
                name, length = f"a{action}_s{subject}_t{trial}", int(rng.integers(40, 80))
                wave = np.sin(np.arange(length) * 0.1 * action)
                sensor = {"d_iner": rng.normal(0, 0.3, (length, 6)) + wave[:, None]}
                joints = {"d_skel": rng.normal(0, 0.3, (20, 3, length)) + wave}
                savemat(folder / f"{name}_inertial.mat", sensor)
                savemat(folder / f"{name}_skeleton.mat", joints)


@pytest.mark.slow
def test_the_walk_of_the_documentation_can_be_walked(tmp_path):
    code = tmp_path / "code"
    shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("runs", "tests", "__pycache__"))
    reported = Path("results") / "reported_by_others.csv"
    (tmp_path / "results").mkdir()
    shutil.copy(CODE.parent / reported, tmp_path / reported)
    write_raw(tmp_path / "raw" / "utd_mhad")
    text = PAGE.read_text(encoding="utf-8")
    before, walk = text.split("## A walk: from two sensors to a table\n")
    blocks = re.findall(r"^```(python|sh)\n(.*?)^```", walk.split("\n## ")[0], re.M | re.S)
    (fusion,) = re.findall(r"^# models/fusion/maximum\.py\n(.*?)^```", before, re.M | re.S)
    (code / "models" / "fusion" / "maximum.py").write_text(fusion)
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = []
    for kind, content in blocks:
        if kind == "python":
            name = re.match(r"# (\S+\.py)\n", content)[1]
            (code / name).write_text(content)
            continue
        done = subprocess.run(
            ["sh", "-ec", content],
            cwd=code,
            env=os.environ | {"PATH": here},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{content}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        printed.append(done.stdout)
    assert len(printed) == 5
    _, first, sweep, tables, answer = printed
    assert "run runs/first: mmpareto on folder" in first
    assert "6 of 6 runs are done" in sweep
    table = (code / "runs" / "report.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith(("| in_turn", "| mmpareto"))]
    accuracies = [float(row.split("|")[3].split("±")[0]) for row in rows[:2]]
    assert len(rows) >= 2 and min(accuracies) > 2 * 100 / ACTIONS  # twice what guessing gives
    for figure in ("curves", "plane", "cosine"):
        assert (code / "runs" / f"{figure}.pdf").stat().st_size > 5000
    assert re.search(r"^answer +a\d +a\d +a\d$", answer, re.M)
    assert "| in_turn |" in tables
