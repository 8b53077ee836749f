"""Scripts: which interpreter they take, which command they call, and with what."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import CODE, shell

TRAIN = "train.py --method"
TWO_PROCESSES = "script/launch.py --standalone --nproc_per_node 2"
SYSTEM = "/usr/bin:/bin"


ECHO = """#!/bin/sh
case "$*" in
    *requirements_met*) exit 0 ;;
    *) echo "$*" ;;
esac
"""


@pytest.mark.parametrize(
    "script, processes, call",
    [
        ("mmpareto", 1, f"{TRAIN} mmpareto"),
        ("mmpareto", 2, f"{TWO_PROCESSES} {TRAIN} mmpareto"),
        ("uniform_baseline", 1, f"{TRAIN} uniform"),
        ("one_joint_loss", 1, f"{TRAIN} joint"),
        ("multitask", 1, "multitask.py"),
    ],
)
def test_a_script_hands_its_flags_to_its_command(script, processes, call, tmp_path):
    (tmp_path / "python").write_text(ECHO)
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}:{SYSTEM}"
    done = shell("sh", f"script/{script}.sh", "--epochs", "3", PATH=path, NPROC=str(processes))
    assert done.stdout == f"{call} --epochs 3\n", done.stderr


def test_an_active_python_that_suffices_is_used_untouched():
    before = (CODE.parent / ".venv").exists()
    path = f"{Path(sys.executable).parent}:{SYSTEM}"
    done = shell("sh", "-c", '. script/env.sh; echo "uses $PYTHON"', PATH=path)
    assert done.returncode == 0 and done.stdout == "uses python\n", done.stderr
    assert (CODE.parent / ".venv").exists() == before


@pytest.mark.parametrize(
    "line, is_met",
    [
        ("packaging>=1  # a reason", True),
        ("packaging<1", False),
        ("no-such-package-at-all", False),
        ("no-such-package-at-all; python_version < '3'", True),
    ],
)
def test_requirements_are_compared_with_what_is_installed(line, is_met, tmp_path):
    (tmp_path / "requirements.txt").write_text(line + "\n")
    program = CODE / "script" / "requirements_met.py"
    done = subprocess.run([sys.executable, program, tmp_path / "requirements.txt"])
    assert done.returncode == (0 if is_met else 1)
