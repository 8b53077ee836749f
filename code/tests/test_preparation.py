"""What all preparations share: the check, resuming after kill -9, downloads that go on."""

import http.server
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path

import pytest
from commands import CODE, shell
from media import problems_of

from dataset._samples import read_split
from dataset.prepare import _manifest as manifest
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import fetch
from utils import registry
from utils.atomic import new_folder, remove_leftovers, replacing, write_text
from utils.errors import BadInput

# derive adds to a prepared set: its own tests are in test_derive.py
SETS = [name for name in registry.names("dataset/prepare") if name != "derive"]
DIGITS = ["--train_size", "4000", "--test_size", "1000"]
RAW = {  # set: fixture of its raw files, flags
    "avmnist": ("real_digits", DIGITS),
    "cgmnist": ("real_digits", DIGITS),
    "cremad": ("raw_demo", ["--split", "random", "--jobs", "2"]),
    "demo": (None, []),
    "grid": ("raw_grid", ["--label", "colour", "--visual", "frames", "--jobs", "2"]),
    "kinetics_sounds": ("raw_kinetics", ["--split", "kinetics", "--jobs", "2"]),
    "mfeat": ("raw_mfeat", []),
    "modelnet40": ("raw_modelnet", ["--jobs", "2"]),
    "ucf101": ("raw_ucf", ["--video_rate", "10", "--frames_per_second", "5", "--jobs", "2"]),
    "utd_mhad": ("raw_utd_mhad", ["--jobs", "2"]),
}


def command_of(name):
    return import_module(f"dataset.prepare.{name}").main


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_a_check_that_its_tree_passes(name, request, capsys):
    root = request.getfixturevalue("demo_root" if name == "cremad" else f"{name}_root")
    lacking = {  # of sets whose size is known
        "modelnet40": "8 of 9843 train samples, 4 of 2468 test samples; mend the raw files",
        "ucf101": "8 of 9537 train samples, 4 of 3783 test samples; mend the raw files",
        "utd_mhad": "24 of 431 train samples, 24 of 430 test samples; mend the raw files",
    }
    end = BadInput if name in lacking else SystemExit
    with pytest.raises(end, match=lacking.get(name, "0")):
        command_of(name)(["--check", "--output", str(root)])
    assert "files are as they were prepared" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["cremad", "grid", "kinetics_sounds", "mfeat", "ucf101", "utd_mhad"]
)
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
    assert problems_of(tmp_path / "out") == problems
    printed = capsys.readouterr().out
    assert "out: 2 of 4 train, 2 of 3 test samples usable; " in printed
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


def test_a_folder_of_other_files_is_neither_prepared_in_nor_checked(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadInput, match="holds other files; name another folder"):
        preparation.prepare(raw_set(tmp_path / "raw"), copy_text, tmp_path, 1)
    with pytest.raises(BadInput, match="has no manifest.sha256; it was not prepared to its end"):
        preparation.check(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "thesis.tex"]


def test_check_names_deleted_truncated_swapped_and_foreign_files(tmp_path, capsys):
    tree = tmp_path / "set"
    preparation.prepare(raw_set(tmp_path / "raw"), copy_text, tree, 1)
    (tree / "cache").mkdir()
    (tree / "cache" / "x").write_text("may come and go")
    preparation.check(tree)
    assert f"{tree}: all 12 files are as they were prepared" in capsys.readouterr().out
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_every_preparation_survives_kill_and_gives_the_same_tree(name, request, tmp_path):
    raw, flags = RAW[name]
    source = ["--source", str(request.getfixturevalue(raw))] if raw else []
    command = [sys.executable, "-m", f"dataset.prepare.{name}", *source, *flags, "--output"]
    process = subprocess.Popen([*command, str(tmp_path / "out")], cwd=CODE, start_new_session=True)
    written = set()
    while not written & {".jpg", ".npy", ".png", ".wav"} and process.poll() is None:
        time.sleep(0.01)
        written = {Path(name).suffix for _, _, names in os.walk(tmp_path) for name in names}
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not ended
    assert not (tmp_path / "out" / "train.csv").exists()
    for folder in ("out", "undisturbed"):
        subprocess.run([*command, str(tmp_path / folder)], cwd=CODE, check=True)
    lists = [(tmp_path / f / manifest.NAME).read_text() for f in ("out", "undisturbed")]
    assert lists[0] == lists[1]
    assert not list(tmp_path.rglob(".*.tmp"))  # what the killed process left is gone


def interrupts(files, process):
    if files == [Path("a")]:  # one of them: the test ends before a second one could
        os.kill(process, signal.SIGINT)
    time.sleep(60)


def full(files, process):
    raise OSError(28, "No space left on device")


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
        assert not (tmp_path / "d").exists() and not (tmp_path / "e").exists()  # not yet complete
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.tmp", "d", "e"]


def test_a_folder_is_removed_whatever_is_raised_in_the_midst_of_it(tmp_path, monkeypatch):
    rmtree, raised = shutil.rmtree, []

    def once(path, **how):
        if path.exists() and not raised:
            raised.append(path)
            raise RuntimeError("DataLoader worker is killed")
        rmtree(path, **how)

    monkeypatch.setattr(shutil, "rmtree", once)
    with pytest.raises(RuntimeError, match="is killed"), new_folder(tmp_path / "x") as folder:
        (folder / "y").write_text("")
        raise BadInput("of a worker")
    assert raised and not list(tmp_path.iterdir())


@pytest.fixture
def interruptible():
    """Also where the tests were started behind an `&`, as shells ignore SIGINT then."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "work, error, message",
    [
        (interrupts, KeyboardInterrupt, "interrupted; the same command goes on"),
        (full, BadInput, "cannot be written .*No space left.*run it again"),
    ],
)
def test_whatever_ends_a_preparation_says_that_it_can_go_on(work, processes, error, message):
    jobs = {name: ([Path(name)], os.getpid()) for name in "abc"}
    with pytest.raises(error, match=message):
        preparation.convert(work, jobs, processes, "x")
    assert not active_children()


# Downloads


@pytest.fixture
def server():
    """Serves `content` at `url`, from the byte asked for; breaks off after `stop` bytes.

    `asked` collects the Range headers.
    """

    class Server(http.server.BaseHTTPRequestHandler):
        content, stop, ranges, asked = random.Random(0).randbytes(300_000), None, True, []

        def do_GET(self):
            asked = self.headers.get("Range")
            self.asked.append(asked)
            first = int(asked[6:-1]) if asked and self.ranges else 0
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


def named(path):
    """Stands for what checks and reads a download."""
    return path.with_name("a.zip")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(ranges, server, tmp_path):
    server.stop, server.ranges = 100_000, ranges
    path = tmp_path / "a.zip"
    with pytest.raises(BadInput, match="cannot download a.zip: .*100000 of 300000 bytes"):
        fetch([server.url], path, named)
    assert not path.exists()
    server.stop = None
    assert fetch([server.url], path, named) == path and path.read_bytes() == server.content
    assert server.asked == [None, "bytes=100000-"]
    assert (
        fetch([server.url], path, named) == path and len(server.asked) == 2
    )  # not asked for again
    assert not list(tmp_path.glob(".*.part"))


def test_downloads_at_the_same_time_do_not_mix(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch([server.url], tmp_path / "a.zip", named), range(4)))
    assert len(paths) == 4
    assert (tmp_path / "a.zip").read_bytes() == server.content and len(server.asked) == 1


def test_the_script_names_the_choices_and_passes_flags_on(tmp_path):
    """A python that only prints what it is called with stands for the real one."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = shell("sh", "script/prepare.sh", "nothing", PATH=path)
    assert done.returncode != 0 and "choose from avmnist cgmnist cremad demo" in done.stderr
    done = shell("sh", "script/prepare.sh", "cgmnist", "--check", "--output", "x y", PATH=path)
    assert done.stdout.splitlines()[-1] == "-m dataset.prepare.cgmnist --check --output x y"
