"""`pip install .`: the module mmpareto is one file, the step's."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CODE = Path(__file__).resolve().parents[1]
README = (CODE.parent / "README.md").read_text(encoding="utf-8")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    done = subprocess.run(build, cwd=CODE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_steps_file_and_nothing_heavy(wheel):
    with zipfile.ZipFile(wheel) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    code = {name: text for name, text in texts.items() if ".dist-info/" not in name}
    assert code == {"mmpareto.py": (CODE / "mmpareto.py").read_text(encoding="utf-8")}
    (metadata,) = (text for name, text in texts.items() if name.endswith("METADATA"))
    assert re.findall(r"^Requires-Dist: (.*)$", metadata, re.M) == ["torch>=2.6"]
    assert "from mmpareto import mmpareto_backward" in metadata  # the README


def test_readmes_own_loop_runs_with_the_wheel_alone(wheel, tmp_path):
    (snippet,) = re.findall(r"```python\n(from mmpareto import .*?)```", README, re.S)
    before = """
import torch
torch.manual_seed(0)
model = torch.nn.ModuleDict({"audio": torch.nn.Linear(3, 4), "visual": torch.nn.Linear(5, 4)})
optimizer = torch.optim.SGD(model.parameters(), 0.1)
a, v = model.audio(torch.ones(2, 3)), model.visual(torch.ones(2, 5))
values = [(a * v).sum(), a.square().sum(), v.square().sum()]
"""
    program = before + snippet.replace("...", "values.pop(0)") + "\nprint(*sorted(diagnostics))"
    environment = os.environ | {"PYTHONPATH": str(wheel)}  # a wheel is a zip file of modules
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cosine/audio cosine/visual descent/audio/audio" in done.stdout
