"""script/env.sh: which interpreter is taken, what is installed and when, and what is said."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "script"
STUB = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
case "$*" in
*requirements_met*) [ -e "{root}/installed" ] && [ "$(basename "$0")" = python ] ;;
*version_info*) exit {too_old} ;;
*ensurepip*) exit {lacks_venv} ;;
*pip*install*) {install} ;;
*venv*) mkdir -p ../.venv/bin && cp "$0" ../.venv/bin/python ;;
*) echo "Python 3.12" ;;
esac
"""


@pytest.fixture
def repository(tmp_path):
    """env.sh in a repository of its own, and a function that runs it with stand-ins for Python."""
    (tmp_path / "code" / "script").mkdir(parents=True)
    for name in ("env.sh", "requirements_met.py"):
        shutil.copy(SCRIPTS / name, tmp_path / "code" / "script")
    (tmp_path / "requirements.txt").write_text("packaging\n")
    (tmp_path / "bin").mkdir()

    def run(stubs=("python3",), path="/usr/bin:/bin", **changes):
        values = dict(too_old=0, lacks_venv=0, install=f'touch "{tmp_path}/installed"')
        values |= dict(log=tmp_path / "log", root=tmp_path) | changes
        for name in stubs:
            (tmp_path / "bin" / name).write_text(STUB.format(**values))
            (tmp_path / "bin" / name).chmod(0o755)
        return subprocess.run(
            ["sh", "-c", '. script/env.sh; echo "uses $PYTHON"'],
            cwd=tmp_path / "code",
            env={"PATH": f"{tmp_path / 'bin'}:{path}"},
            capture_output=True,
            text=True,
        )

    return run


def calls(tmp_path, word):
    log = tmp_path / "log"
    return [line for line in log.read_text().splitlines() if word in line] if log.exists() else []


def test_an_active_python_that_suffices_is_left_alone(repository, tmp_path):
    done = repository(stubs=(), path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert done.returncode == 0 and done.stdout.startswith("uses python"), done.stderr
    assert not (tmp_path / ".venv").exists()


def test_otherwise_an_environment_is_made_once(repository, tmp_path):
    done = repository()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "creating .venv with Python 3.12"
    assert done.stdout.splitlines()[-1] == "uses ../.venv/bin/python"
    assert calls(tmp_path, "pip install") == [
        "python -m pip install --quiet -r ../requirements.txt"
    ]
    (tmp_path / "log").unlink()
    again = repository()
    assert again.stdout == "uses ../.venv/bin/python\n"
    assert not calls(tmp_path, "pip") and not calls(tmp_path, "venv ")


def test_uv_is_used_where_it_is(repository, tmp_path):
    done = repository(stubs=("python3", "uv"))
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path, "uv venv") and calls(tmp_path, "uv pip install")


def test_python_without_venv_names_the_package(repository, tmp_path):
    done = repository(lacks_venv=1)
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_old_python_is_refused(repository):
    done = repository(stubs=("python3", "python"), too_old=1)
    assert done.returncode == 1
    assert done.stderr == "error: needs Python 3.10 or newer on the PATH\n"


@pytest.mark.parametrize("install, message", [("exit 1", "installation failed"), ("true", "lacks")])
def test_a_failed_installation_ends_with_status_1(repository, install, message):
    done = repository(install=install)
    assert done.returncode == 1 and message in done.stderr


@pytest.mark.parametrize(
    "line, met",
    [
        ("packaging", True),
        ("packaging>=1  # a reason", True),
        ("packaging<1", False),
        ("no-such-package-at-all", False),
        ("no-such-package-at-all; python_version < '3'", True),
        ("# only a comment", True),
    ],
)
def test_requirements_are_compared(line, met, tmp_path):
    (tmp_path / "requirements.txt").write_text(line + "\n")
    command = [sys.executable, SCRIPTS / "requirements_met.py", tmp_path / "requirements.txt"]
    assert (subprocess.run(command).returncode == 0) == met
