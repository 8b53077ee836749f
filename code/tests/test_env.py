"""Scripts: which interpreter they take, which command they call, and with what."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import CODE, shell

TRAIN = "train.py --method"
TWO_PROCESSES = "script/launch.py --standalone --nproc_per_node 2"
SYSTEM = "/usr/bin:/bin"


def stand_in(folder, name, cases):
    """A Python that answers to the words of its command line, and prints all other ones."""
    lines = [f"*{words}*) {answer} ;;" for words, answer in cases.items()]
    text = "\n".join(["#!/bin/sh", 'case "$*" in', *lines, '*) echo "$*" ;;', "esac", ""])
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    "script, processes, call",
    [
        ("mmpareto", 1, f"{TRAIN} mmpareto"),
        ("mmpareto", 2, f"{TWO_PROCESSES} {TRAIN} mmpareto"),
        ("uniform_baseline", 1, f"{TRAIN} uniform"),
        ("one_joint_loss", 1, f"{TRAIN} joint"),
        ("pareto", 1, f"{TRAIN} pareto"),
        ("multitask", 1, "multitask.py"),
    ],
)
def test_a_script_hands_its_flags_to_its_command(script, processes, call, tmp_path):
    stand_in(tmp_path, "python", {"requirements_met": "exit 0"})
    path = f"{tmp_path}:{SYSTEM}"
    done = shell("sh", f"script/{script}.sh", "--epochs", "3", PATH=path, NPROC=str(processes))
    assert done.stdout == f"{call} --epochs 3\n", done.stderr


def source_env(**environment):
    return shell("sh", "-c", '. script/env.sh; echo "uses $PYTHON"', **environment)


def test_an_active_python_that_suffices_is_used_untouched():
    before = (CODE.parent / ".venv").exists()
    done = source_env(PATH=f"{Path(sys.executable).parent}:{SYSTEM}")
    assert done.returncode == 0 and done.stdout == "uses python\n", done.stderr
    assert (CODE.parent / ".venv").exists() == before


@pytest.mark.skipif((CODE.parent / ".venv").exists(), reason="env.sh takes the one that is there")
def test_a_python_that_is_too_old_is_one_line_and_status_1(tmp_path):
    for name in ("python", "python3"):
        stand_in(tmp_path, name, {"requirements_met": "exit 1", "version_info": "exit 1"})
    done = source_env(PATH=f"{tmp_path}:{SYSTEM}")
    assert done.returncode == 1
    assert done.stderr == "error: needs Python 3.10 or newer on the PATH\n"


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
