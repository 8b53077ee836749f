"""Scripts: which interpreter they take, what they install and when, and which command they call."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import CODE, shell

PYTHON = """#!/bin/sh
echo "$*" >> "{root}/calls"
case "$*" in
*requirements_met*) [ "$0" = ../.venv/bin/python ] && [ -e "{root}/installed" ] ;;
*version_info*) exit {too_old} ;;
*pip*install*) {install} ;;
*venv\\ ../.venv) mkdir -p ../.venv/bin && cp "$0" ../.venv/bin/python ;;
*--version*) echo "Python 3.12" ;;
esac
"""  # a Python that only notes how it is called


@pytest.fixture
def source_env(tmp_path):
    """env.sh in a repository of its own, sourced where the stand-in is python3, or `path` is all
    there is."""
    (tmp_path / "code" / "script").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for name in ("env.sh", "requirements_met.py"):
        shutil.copy(CODE / "script" / name, tmp_path / "code" / "script")
    (tmp_path / "requirements.txt").write_text("packaging\n")

    def run(path=None, too_old=0, install=f'touch "{tmp_path}/installed"'):
        if path is None:
            path = tmp_path / "bin"
            (path / "python3").write_text(
                PYTHON.format(root=tmp_path, too_old=too_old, install=install)
            )
            (path / "python3").chmod(0o755)
            for tool in ("mkdir", "cp", "touch"):
                if not (path / tool).exists():
                    (path / tool).symlink_to(shutil.which(tool))
        return subprocess.run(
            [shutil.which("sh"), "-c", '. script/env.sh; echo "uses $PYTHON"'],
            cwd=tmp_path / "code",
            env={"PATH": str(path)},
            capture_output=True,
            text=True,
        )

    return run


def test_an_active_python_that_suffices_is_left_alone(source_env, tmp_path):
    done = source_env(path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert done.returncode == 0 and done.stdout.startswith("uses python"), done.stderr
    assert not (tmp_path / ".venv").exists()


def test_otherwise_an_environment_is_made_once(source_env, tmp_path):
    done = source_env()
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert (first, last) == ("creating .venv with Python 3.12", "uses ../.venv/bin/python")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.count("-m pip install --quiet -r ../requirements.txt") == 1
    (tmp_path / "calls").unlink()
    assert source_env().stdout == "uses ../.venv/bin/python\n"
    assert "install" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(too_old=1), "error: needs Python 3.10 or newer on the PATH\n"),
        (dict(install="exit 1"), "error: installation failed\n"),
    ],
)
def test_what_cannot_be_used_or_installed_is_one_line_and_status_1(source_env, changes, message):
    done = source_env(**changes)
    assert done.returncode == 1 and done.stderr == message


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


TRAIN = "train.py --method"
TWO_PROCESSES = "script/launch.py --standalone --nproc_per_node 2"


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
    """The active python meets the requirements, and prints how it is called."""
    python = '#!/bin/sh\ncase "$*" in *requirements_met*) ;; *) echo "$*" ;; esac\n'
    (tmp_path / "python").write_text(python)
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = shell("sh", f"script/{script}.sh", "--epochs", "3", PATH=path, NPROC=str(processes))
    assert done.stdout == f"{call} --epochs 3\n", done.stderr
