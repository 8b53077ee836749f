"""What all preparations share: the check, resuming after kill -9, downloads that go on."""

import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
import torch

from dataset.prepare import _manifest as manifest
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import check_sha256, fetch
from dataset.prepare._preparation import save_tensor
from utils import registry
from utils.atomic import new_folder, remove_leftovers, replacing
from utils.errors import BadInput

CODE = Path(__file__).resolve().parents[1]
# derive adds to a prepared set: its own tests are in test_derive.py
SETS = [name for name in registry.names("dataset/prepare") if name != "derive"]


def command_of(name):
    return import_module(f"dataset.prepare.{name}").main


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_a_check_that_its_tree_passes(name, request, tmp_path, capsys):
    with pytest.raises(BadInput, match="has no manifest.sha256; it was not prepared to its end"):
        command_of(name)(["--check", "--output", str(tmp_path)])
    root = request.getfixturevalue("demo_root" if name == "cremad" else f"{name}_root")
    small = name in ("modelnet40", "ucf101")  # whose size is known: the small trees lack most
    with pytest.raises(BadInput if small else SystemExit, match="mend the raw" if small else "0"):
        command_of(name)(["--check", "--output", str(root)])
    assert "files are as they were prepared" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cremad", "kinetics_sounds", "ucf101"])
def test_a_set_that_is_not_downloaded_says_how_to_get_it(name, tmp_path):
    with pytest.raises(BadInput, match="--source: name the folder(.|\n)*https://"):
        command_of(name)(["--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tree(tmp_path):
    """A prepared set of a few samples."""
    for i in range(5):
        save_tensor(torch.full((4,), i), tmp_path / "set" / "audio" / f"s{i}.pt")
    split = {"train": dict.fromkeys(["s0", "s1", "s2"], "a"), "test": dict.fromkeys(["s3"], "a")}
    preparation.finish(tmp_path / "set", ["a"], split)
    return tmp_path / "set"


def test_check_names_deleted_truncated_swapped_and_foreign_files(tree, capsys):
    preparation.check(tree)
    printed = capsys.readouterr().out
    assert f"{tree}: all 9 files are as they were prepared" in printed
    assert f"{tree}: 3 of 3 train samples\n{tree}: 1 of 1 test samples" in printed
    (tree / "cache").mkdir()
    (tree / "cache" / "x").write_text("may come and go")
    preparation.check(tree)
    deleted, cut, first, second, _ = sorted((tree / "audio").iterdir())
    deleted.unlink()
    cut.write_bytes(cut.read_bytes()[:-20])
    contents = first.read_bytes(), second.read_bytes()
    assert contents[0] != contents[1] and len(contents[0]) == len(contents[1])
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    (tree / "audio" / "more.pt").write_text("")
    with pytest.raises(BadInput) as error:
        preparation.check(tree)
    assert str(error.value).split("\n  ") == [
        f"{tree}: 5 of 9 files differ",
        "audio/s0.pt: missing",
        "audio/more.pt: not of this set",
        *(f"audio/s{i}.pt: changed since it was prepared" for i in (1, 2, 3)),
    ]


def test_check_counts_what_the_set_should_have(tree):
    report = json.loads((tree / "report.json").read_text())
    report["expected"]["train"] += 1
    (tree / "report.json").write_text(json.dumps(report))
    manifest.write(tree)
    with pytest.raises(BadInput, match="3 of 4 train samples; mend the raw"):
        preparation.check(tree)


def how_to_run(name, request):
    """(flags that name the raw files, what is there once work on `out` has begun)."""
    if name == "demo":
        return [], ".out.*.tmp/.raw/AudioWAV/*.wav"
    if name in ("avmnist", "cgmnist"):
        source = request.getfixturevalue("real_digits")
        sizes = ["--train_size", "4000", "--test_size", "1000"]
        return ["--source", str(source), *sizes], ".out.*.tmp/*/*.png"
    raw = {"cremad": "demo", "kinetics_sounds": "kinetics", "modelnet40": "modelnet"}
    fixture = (raw | {"ucf101": "ucf"})[name]
    flags = ["--source", str(request.getfixturevalue(f"raw_{fixture}")), "--jobs", "2"]
    split = {"cremad": ["--split", "random"], "kinetics_sounds": ["--split", "kinetics"]}
    split["ucf101"] = ["--video_rate", "10", "--frames_per_second", "5"]
    return [*flags, *split.get(name, [])], "out/*/*/*.jpg" if name in split else "out/*/*.png"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_preparation_survives_kill_and_gives_the_same_tree(name, request, tmp_path):
    flags, begun = how_to_run(name, request)
    command = [sys.executable, "-m", f"dataset.prepare.{name}", *flags, "--output"]
    process = subprocess.Popen([*command, str(tmp_path / "out")], cwd=CODE, start_new_session=True)
    while not list(tmp_path.glob(begun)) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended
    assert not (tmp_path / "out" / "train.csv").exists()
    for folder in ("out", "undisturbed"):
        done = subprocess.run(
            [*command, str(tmp_path / folder)], cwd=CODE, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    lists = [(tmp_path / f / manifest.NAME).read_text() for f in ("out", "undisturbed")]
    assert lists[0] == lists[1]
    assert not list(tmp_path.rglob(".*.tmp"))  # what the killed process left is gone


def interrupted(name):
    raise KeyboardInterrupt


def test_ctrl_c_says_that_the_same_command_goes_on():
    with pytest.raises(KeyboardInterrupt, match="interrupted; the same command goes on"):
        preparation.convert(interrupted, {"a": ("a",)}, 1, "x")


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_at_once(raw_demo, tmp_path):
    command = [sys.executable, "-m", "dataset.prepare.cremad", "--split", "random", "--jobs", "2"]
    command += ["--source", str(raw_demo), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        cwd=CODE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(tmp_path.glob("out/visual/*/*.jpg")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed.strip() == "interrupted; the same command goes on"
    assert not (tmp_path / "out" / "train.csv").exists()


def test_leftovers_of_the_dead_are_removed_and_not_what_the_living_write(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".a.{dead.pid}.tmp").mkdir()
    (tmp_path / f".b.pt.{dead.pid}.tmp").touch()
    (tmp_path / ".c.tmp").touch()  # not of ours
    with new_folder(tmp_path / "d") as folder, replacing(tmp_path / "e") as file:
        file.write_text("")
        remove_leftovers(tmp_path)
        assert folder.is_dir() and file.is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.tmp", "d", "e"]


def dies(name):
    if name == "b":
        os._exit(1)


def test_a_process_that_dies_ends_the_preparation_in_one_line():
    with pytest.raises(BadInput, match="a process died, perhaps for memory; run it again to go on"):
        preparation.convert(dies, {name: (name,) for name in "abc"}, 2, "x")


def full(name):
    raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_preparation_in_one_line():
    with pytest.raises(BadInput, match="cannot be written .*No space left.*run it again"):
        preparation.convert(full, {"a": ("a",)}, 1, "x")


def test_other_settings_and_other_peoples_folders_are_refused(tmp_path):
    preparation.begin(tmp_path / "out", {"size": 1})
    preparation.begin(tmp_path / "out", {"size": 1})
    with pytest.raises(BadInput, match="was begun with .*; use the same flags, or delete it"):
        preparation.begin(tmp_path / "out", {"size": 2})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(BadInput, match="mine: holds other files; name another folder"):
        preparation.begin(tmp_path / "mine", {"size": 2})
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


# Downloads


@pytest.fixture
def server():
    """Serves `content` at `url`, from the byte asked for; breaks off after `stop` bytes.

    `asked` collects the Range headers; any other address is not found.
    """

    class Server(http.server.BaseHTTPRequestHandler):
        content, stop, ranges, asked = random.Random(0).randbytes(300_000), None, True, []

        def do_GET(self):
            if self.path != "/a.zip":
                self.send_error(404)
                return
            asked = self.headers.get("Range")
            self.asked.append(asked)
            first = int(asked[6:-1]) if asked and self.ranges else 0
            if first > len(self.content):
                self.send_error(416)
                return
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(self.content) - first))
            self.end_headers()
            self.wfile.write(self.content[first : self.stop])

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    Server.url = f"http://127.0.0.1:{httpd.server_port}/a.zip"
    yield Server
    httpd.shutdown()


def test_a_download_comes_from_the_first_address_that_answers(server, tmp_path):
    missing = server.url.replace("a.zip", "missing")
    path = fetch((missing, server.url), tmp_path / "a.zip")
    assert path.read_bytes() == server.content
    with pytest.raises(BadInput, match="cannot download b.zip: .*missing .*404"):
        fetch((missing,), tmp_path / "b.zip")
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".lock"] == ["a.zip"]


def test_content_of_another_checksum_is_refused():
    check_sha256("a", b"content", hashlib.sha256(b"content").hexdigest())
    with pytest.raises(BadInput, match="a: SHA-256 of its content is ed70"):
        check_sha256("a", b"content", "0" * 64)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(ranges, server, tmp_path):
    server.stop, server.ranges = 100_000, ranges
    path = tmp_path / "a.zip"
    with pytest.raises(BadInput, match="cannot download a.zip: .*100000 of 300000 bytes"):
        fetch((server.url,), path)
    assert not path.exists()
    server.stop = None
    assert fetch((server.url,), path) == path and path.read_bytes() == server.content
    assert server.asked == [None, "bytes=100000-"]
    assert fetch((server.url,), path) == path and len(server.asked) == 2  # not asked for again
    assert not list(tmp_path.glob(".*.part"))


def test_a_part_of_something_longer_is_thrown_away(server, tmp_path):
    server.stop = 100_000
    with pytest.raises(BadInput):
        fetch((server.url,), tmp_path / "a.zip")
    server.content, server.stop = server.content[:5000], None
    assert fetch((server.url,), tmp_path / "a.zip").read_bytes() == server.content


def test_downloads_at_the_same_time_do_not_mix(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch((server.url,), tmp_path / "a.zip"), range(4)))
    assert len(paths) == 4
    assert (tmp_path / "a.zip").read_bytes() == server.content and len(server.asked) == 1


# The script


def test_the_script_names_the_choices_and_passes_flags_on(tmp_path):
    """A python that only prints what it is called with stands for the real one."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)

    def script(*argv):
        command = ["sh", "script/prepare.sh", *argv]
        env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(command, cwd=CODE, env=env, capture_output=True, text=True)

    for argv in (["nothing"], []):
        done = script(*argv)
        assert done.returncode != 0
        assert "choose from avmnist cgmnist cremad demo" in done.stderr
    done = script("cgmnist", "--check", "--output", "x y")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "-m dataset.prepare.cgmnist --check --output x y"
