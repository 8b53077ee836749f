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

from dataset._samples import read_split
from dataset.prepare import _manifest as manifest
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import check_sha256, fetch
from utils import registry
from utils.atomic import new_folder, remove_leftovers, replacing, write_text
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
    lacking = {  # of sets whose size is known
        "modelnet40": "8 of 9843 train samples, 4 of 2468 test samples; mend the raw files",
        "ucf101": "8 of 9537 train samples, 4 of 3783 test samples; mend the raw files",
    }
    end = BadInput if name in lacking else SystemExit
    with pytest.raises(end, match=lacking.get(name, "0")):
        command_of(name)(["--check", "--output", str(root)])
    assert "files are as they were prepared" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["cremad", "kinetics_sounds", "ucf101"])
def test_a_set_that_is_not_downloaded_says_how_to_get_it(name, tmp_path):
    with pytest.raises(BadInput, match="--source: name the folder(.|\n)*https://"):
        command_of(name)(["--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# One sample after another


def copy_text(files, sample, output, settings):
    """Stands for the `from_raw` of a set."""
    target = output / "text" / f"{sample}.txt"
    if not target.is_file():
        text = files[0].read_text()
        if not text:
            raise BadInput(f"{files[0]}: empty")
        write_text(target, text)


def raw_set(folder, settings=None, empty=(), missing=()):
    """Seven samples, s4 and on for testing."""
    names = [f"s{i}" for i in range(7)]
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("" if name in empty else name * 9)
    files = {name: [] if name in missing else [folder / name] for name in names}
    split = {"train": dict.fromkeys(names[:4], "a"), "test": dict.fromkeys(names[4:], "b")}
    return preparation.RawSet(["a", "b"], split, files, settings or {})


def test_unusable_samples_are_named_counted_and_listed_all_the_same(tmp_path, capsys):
    raw = raw_set(tmp_path / "raw", empty=["s1", "s2"], missing=["s5"])
    preparation.prepare(raw, copy_text, tmp_path / "out", 1)
    problems = {name: f"{tmp_path}/raw/{name}: empty" for name in ("s1", "s2")}
    problems["s5"] = "s5: not in the source"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == {
        "usable": {"train": 2, "test": 2},
        "expected": {"train": 4, "test": 3},
        "problems": problems,
    }
    printed = capsys.readouterr().out
    assert "out: 2 of 4 train, 2 of 3 test samples usable; " in printed
    assert "MB read" in printed and "samples per second and process" in printed
    assert all(f"skipped  {problem}" in printed for problem in problems.values())
    listed = read_split(tmp_path / "out" / "train.csv", ["a", "b"])
    assert [sample.id for sample in listed] == ["s0", "s1", "s2", "s3"]
    with pytest.raises(BadInput, match="2 of 4 train samples, 2 of 3 test samples; mend"):
        preparation.check(tmp_path / "out")


def test_the_same_command_repairs_what_failed_and_keeps_what_is_done(tmp_path):
    raw, out = raw_set(tmp_path / "raw", {"size": 1}, empty=["s1"]), tmp_path / "out"
    preparation.prepare(raw, copy_text, out, 1)
    before = (out / "text" / "s0.txt").stat().st_mtime_ns
    dead = subprocess.Popen(["true"])
    dead.wait()
    (out / "text" / f".s2.{dead.pid}.tmp").mkdir()  # as a killed process leaves one
    raw = raw_set(tmp_path / "raw", {"size": 1})
    preparation.prepare(raw, copy_text, out, 1)
    assert sorted(p.name for p in (out / "text").iterdir()) == [f"s{i}.txt" for i in range(7)]
    assert (out / "text" / "s0.txt").stat().st_mtime_ns == before
    preparation.check(out)
    with pytest.raises(BadInput, match="was begun with .*; use the same flags, or delete it"):
        preparation.prepare(raw_set(tmp_path / "raw", {"size": 2}), copy_text, out, 1)


def test_a_training_sample_that_is_a_test_sample_too_is_refused(tmp_path):
    raw = raw_set(tmp_path / "raw")
    raw.split["test"]["s0"] = "a"
    with pytest.raises(BadInput, match="s0 is both a training and a test sample"):
        preparation.prepare(raw, copy_text, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadInput, match="holds other files; name another folder"):
        preparation.prepare(raw_set(tmp_path / "raw"), copy_text, tmp_path, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "thesis.tex"]


# The check


@pytest.fixture
def tree(tmp_path):
    """A prepared set of seven samples."""
    preparation.prepare(raw_set(tmp_path / "raw"), copy_text, tmp_path / "set", 1)
    return tmp_path / "set"


def test_check_names_deleted_truncated_swapped_and_foreign_files(tree, capsys):
    preparation.check(tree)
    printed = capsys.readouterr().out
    assert f"{tree}: all 12 files are as they were prepared" in printed
    assert f"{tree}: 4 of 4 train samples\n{tree}: 3 of 3 test samples" in printed
    (tree / "cache").mkdir()
    (tree / "cache" / "x").write_text("may come and go")
    preparation.check(tree)
    deleted, cut, first, second, *_ = sorted((tree / "text").iterdir())
    deleted.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    contents = first.read_bytes(), second.read_bytes()
    assert contents[0] != contents[1] and len(contents[0]) == len(contents[1])
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    (tree / "text" / "more.txt").write_text("")
    with pytest.raises(BadInput) as error:
        preparation.check(tree)
    assert str(error.value).split("\n  ") == [
        f"{tree}: 5 of 12 files differ",
        "text/s0.txt: missing",
        "text/more.txt: not of this set",
        *(f"text/s{i}.txt: changed since it was prepared" for i in (1, 2, 3)),
    ]


# Interruptions


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
