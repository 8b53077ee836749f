"""What all preparations share: the check, resuming after kill -9, downloads that go on."""

import http.server
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dataset.prepare import _manifest as manifest
from dataset.prepare import _preparation as preparation
from dataset.prepare._download import fetch
from utils import registry
from utils.atomic import new_folder, remove_leftovers, replacing
from utils.errors import BadInput

CODE = Path(__file__).resolve().parents[1]
# derive adds to a prepared set: its own tests are in test_derive.py
SETS = [name for name in registry.names("dataset/prepare") if name != "derive"]


@pytest.fixture(params=SETS)
def tree(request, tmp_path):
    """A copy of a prepared tree of each set that has a preparation."""
    name = request.param
    root = request.getfixturevalue("demo_root" if name == "cremad" else f"{name}_root")
    shutil.copytree(root, tmp_path / name, ignore=shutil.ignore_patterns("cache"))
    report = json.loads((tmp_path / name / "report.json").read_text())
    report["expected"] = report["usable"]  # the small sets lack most of ModelNet40
    (tmp_path / name / "report.json").write_text(json.dumps(report))
    manifest.write(tmp_path / name)
    return tmp_path / name


def test_check_names_deleted_truncated_swapped_and_foreign_files(tree, capsys):
    preparation.check(tree)
    printed = capsys.readouterr().out
    count = len((tree / manifest.NAME).read_text().splitlines())
    assert f"all {count} files are as they were prepared" in printed
    assert "train samples" in printed and "test samples" in printed
    (tree / "cache").mkdir()
    (tree / "cache" / "x").write_text("may come and go")
    preparation.check(tree)
    modality = next(f for f in sorted(tree.iterdir()) if f.is_dir() and f.name != "cache")
    files = sorted(f for f in modality.rglob("*") if f.is_file())
    # two files of different content, the same size or not
    first, second = files[2], next(f for f in files[3:] if f.read_bytes() != files[2].read_bytes())
    deleted, truncated = files[0], files[1]
    deleted.unlink()
    truncated.write_bytes(truncated.read_bytes()[:-20])
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])
    (modality / "more.png").write_text("")
    with pytest.raises(BadInput, match=f"5 of {count} files differ") as error:
        preparation.check(tree)
    for file, fault in (
        (deleted, "missing"),
        (truncated, "changed since it was prepared"),
        (first, "changed"),
        (second, "changed"),
        (modality / "more.png", "not of this set"),
    ):
        assert f"{file.relative_to(tree)}: {fault}" in str(error.value)
    (tree / manifest.NAME).unlink()
    with pytest.raises(BadInput, match="has no manifest.sha256; it was not prepared to its end"):
        preparation.check(tree)


def test_check_counts_what_the_set_should_have(tree):
    report = json.loads((tree / "report.json").read_text())
    report["expected"]["train"] += 1
    (tree / "report.json").write_text(json.dumps(report))
    manifest.write(tree)
    usable = report["usable"]["train"]
    with pytest.raises(BadInput, match=f"{usable} of {usable + 1} train samples; mend the raw"):
        preparation.check(tree)


@pytest.mark.parametrize("name", SETS)
def test_every_preparation_has_a_check_and_says_how_to_get_its_source(name, tmp_path):
    def command(*argv):
        whole = [sys.executable, "-m", f"dataset.prepare.{name}", *argv]
        return subprocess.run(whole, cwd=CODE, capture_output=True, text=True)

    done = command("--check", "--output", str(tmp_path))
    assert done.returncode == 2 and "has no manifest.sha256" in done.stderr
    if name in (
        "cremad",
        "kinetics_sounds",
        "ucf101",
    ):  # whose hosts or owners do not allow a download
        done = command("--output", str(tmp_path / "out"))
        assert done.returncode == 2 and "--source: name the folder" in done.stderr
        assert "https://" in done.stderr and not (tmp_path / "out").exists()


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


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_ends_at_once_and_says_that_it_goes_on(jobs, raw_demo, tmp_path):
    command = [sys.executable, "-m", "dataset.prepare.cremad", "--split", "random", "--jobs", jobs]
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
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.strip() == "interrupted; the same command goes on"
    assert not (tmp_path / "out" / "train.csv").exists()


def test_sweep_leaves_the_living_alone(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".a.{dead.pid}.tmp").mkdir()
    (tmp_path / f".b.pt.{dead.pid}.tmp").touch()
    (tmp_path / ".c.tmp").touch()  # not of ours
    with new_folder(tmp_path / "d") as own, replacing(tmp_path / "e") as file:
        file.write_text("")
        remove_leftovers(tmp_path)
        assert own.is_dir() and file.is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.tmp", "d", "e"]


def dies(name):
    if name == "b":
        os._exit(1)


def full(name):
    if name == "b":
        raise OSError(28, "No space left on device")


def test_a_process_that_dies_and_a_full_disk_end_in_one_line():
    jobs = {name: (name,) for name in "abc"}
    with pytest.raises(BadInput, match="a process died, perhaps for memory; run it again to go on"):
        preparation.convert(dies, jobs, 2, "x")
    for processes in (1, 2):
        with pytest.raises(BadInput, match="cannot be written .*No space left.*run it again"):
            preparation.convert(full, jobs, processes, "x")


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


class Ranges(http.server.BaseHTTPRequestHandler):
    """Serves `content`, from the byte that is asked for; breaks off after `stop` bytes."""

    content, stop, ranges, asked = b"", None, True, []

    def do_GET(self):
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


@pytest.fixture
def server():
    class Own(Ranges):
        content, asked = random.Random(0).randbytes(300_000), []

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    Own.url = f"http://127.0.0.1:{httpd.server_port}/a.zip"
    yield Own
    httpd.shutdown()


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
    threads = [
        threading.Thread(target=fetch, args=((server.url,), tmp_path / "a.zip")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.zip").read_bytes() == server.content and len(server.asked) == 1
