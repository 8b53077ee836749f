"""The run folder is read as if somebody had been at it: other data, damage, two processes, a full
disk. What is refused is refused in one line, and nothing that was there is lost."""

import csv
import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from commands import flags_for, run, start, wait_for
from damage import cut, damaged

import draw
import evaluate
import report
from analysis import tables
from figures import _style
from training import resume
from training.record import Recorder
from training.stored import jsonable
from utils import atomic, run_folder
from utils.errors import BadInput, run_command
from utils.run_folder import opened, read_jsonl, sealed

EPOCHS = ["--epochs", "3"]


@pytest.fixture(scope="session")
def runs(demo_root, tmp_path_factory):
    """(flags, folder) with the runs whole, of three epochs, stopped in the third, and another."""
    folder = tmp_path_factory.mktemp("runs")
    flags = flags_for(os.path.relpath(demo_root), folder)
    run(flags, "whole", *EPOCHS)
    run(flags, "other", "--random_seed", "1")
    add_step = Recorder.add_step

    def stop_in_the_third(self, *arguments):
        add_step(self, *arguments)
        if self.step == 8:
            self.flush()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recorder, "add_step", stop_in_the_third)
        run(flags, "stopped", *EPOCHS)
    evaluate.main([str(folder / "whole"), "--probe", "calibration"])
    return flags, folder


@pytest.fixture
def copy(runs, tmp_path):
    """(name) -> a copy of that run to be damaged, under the name x, and the flags to resume it."""
    flags, folder = runs

    def of(name):
        shutil.copytree(folder / name, tmp_path / "x")
        return tmp_path / "x", [*flags, "--ckpt_path", str(tmp_path)]

    return of


def content_of(folder) -> dict[str, bytes]:
    """{path: bytes} of all files in a folder but for the lock."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def assert_refused(folder, message, call) -> None:
    """In one line, with everything left as it was."""
    before = content_of(folder)
    with pytest.raises(BadInput, match=message) as refusal:
        call()
    assert len(str(refusal.value).splitlines()) == 1
    assert content_of(folder) == before


def model_of(folder, which="last"):
    return torch.load(folder / f"{which}.pt", weights_only=True)["model"]


def assert_same_run(folder, whole) -> None:
    for which in ("last", "best"):
        a, b = model_of(folder, which), model_of(whole, which)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), which
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert (folder / name).read_text() == (whole / name).read_text()


# Data

SAMPLES = [("a", 0), ("b", 1), ("c", 0)]
DATA = dict(classes=["no", "yes"], shape=(1, 8, 8), samples=SAMPLES, settings={"mel_bins": 32})


def data_set(root, classes, shape, samples, settings):
    """(data set, loaders) that say this of themselves."""
    root.mkdir(exist_ok=True)
    (root / "settings.json").write_text(json.dumps(settings))
    readers = {"audio": SimpleNamespace(shape=shape)}
    split = SimpleNamespace(dataset=SimpleNamespace(readers=readers))
    split.dataset = type("Split", (list,), {"readers": readers, "samples": samples})(samples)
    dataset = SimpleNamespace(classes=classes, modalities={"audio": "spectrogram"}, root=root)
    return dataset, {"train": split}


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, ""),
        (dict(classes=["yes", "no"]), r"classes \['yes', 'no'\], not \['no', 'yes'\]"),
        (dict(shape=(1, 8, 9)), "shapes"),
        (dict(samples=SAMPLES[:2]), "samples {'train': 2}, not {'train': 3}"),
        (dict(samples=[("a", 0), ("b", 1), ("d", 0)]), "ids or targets"),
        (dict(samples=[("a", 0), ("b", 1), ("c", 1)]), "ids or targets"),
        (dict(samples=[("b", 1), ("a", 0), ("c", 0)]), "ids or targets, in order"),
        (dict(settings={"mel_bins": 64}), "preparation {'mel_bins': 64}"),
    ],
)
def test_data_are_compared_with_those_a_run_was_begun_with(change, message, tmp_path):
    stored = jsonable(resume.about(*data_set(tmp_path / "data", **DATA)))
    now = data_set(tmp_path / "data", **DATA | change)
    if not change:
        resume.refuse_other_data(tmp_path, stored, *now)
        resume.refuse_other_data(tmp_path, None, *now)  # an old run, which does not say
        return
    with pytest.raises(BadInput, match=message):
        resume.refuse_other_data(tmp_path, stored, *now)


def test_other_data_are_neither_resumed_on_nor_evaluated_on(copy, demo_root, tmp_path):
    folder, flags = copy("stopped")
    root = tmp_path / "data"
    shutil.copytree(demo_root, root)
    (root / "train.csv").write_text((root / "train.csv").read_text().split("\n", 1)[1])
    message = f"{root}: not the data that {folder} was begun with: samples"
    argv = [*EPOCHS, "--data_root", str(root), "--resume"]
    assert_refused(folder, message, lambda: run(flags, "x", *argv))
    argv = [str(folder), "--data_root", str(root)]
    assert_refused(folder, message, lambda: evaluate.main(argv))


def test_a_mistyped_folder_of_the_demo_set_is_not_generated_into(copy, tmp_path):
    folder, flags = copy("whole")
    argv = ["--data_root", str(tmp_path / "typo")]
    message = "typo: no such folder. .* sh script/prepare.sh demo --output DIR"
    for call in (
        lambda: run(flags, "y", *argv),
        lambda: run(flags, "x", *argv, "--resume"),
        lambda: evaluate.main([str(folder), *argv]),
    ):
        assert_refused(tmp_path, message, call)


# Damage


def flipped(content: bytes) -> bytes:
    """One bit of a byte in the middle is another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def saved(state) -> bytes:
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: b"", "damaged, or no checkpoint of a run"),
        (lambda content: content[:-100], "damaged, or no checkpoint of a run"),
        (lambda content: content[: len(content) // 2], "damaged, or no checkpoint of a run"),
        (flipped, "damaged, archive/data/.* is not what its checksum says"),
        (lambda content: saved(Malicious()), "damaged, or no checkpoint of a run .Unpickl"),
        (lambda content: saved({"model": {}, "progress": {}}), "no checkpoint of a run"),
        (lambda content: saved([1]), "damaged, or no checkpoint of a run .TypeError"),
        (None, "no such checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_mends_it(change, message, copy, runs):
    folder, flags = copy("stopped")
    content = (folder / "last.pt").read_bytes()
    (folder / "last.pt").unlink()
    if change:
        (folder / "last.pt").write_bytes(change(content))
    message = f"{folder}/last.pt: {message}.*best.pt can be used, with --checkpoint best; copied to"
    assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))
    assert_refused(folder, message, lambda: evaluate.main([str(folder)]))
    if change is flipped:  # as it says
        evaluate.main([str(folder), "--checkpoint", "best"])
        shutil.copy(folder / "best.pt", folder / "last.pt")
        run(flags, "x", *EPOCHS, "--resume")
        assert_same_run(folder, runs[1] / "whole")


def test_checkpoints_of_another_run_or_that_do_not_fit_are_refused(copy, runs):
    folder, flags = copy("stopped")
    for which in ("last", "best"):
        shutil.copy(runs[1] / "other" / f"{which}.pt", folder)
    message = "last.pt: of another run than the folder's; nor can best.pt be used; begin again"
    assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))
    state = torch.load(folder / "last.pt", weights_only=True)
    state["progress"]["run"] = None  # as an older one
    state["model"].popitem()
    (folder / "last.pt").write_bytes(saved(state))
    message = "last.pt: does not fit MultimodalModel of the options of"
    assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))
    assert_refused(folder, message, lambda: evaluate.main([str(folder)]))


def test_a_checkpoint_of_an_earlier_epoch_than_the_records_is_not_taken_for_the_last(copy):
    """As a run leaves it that is killed between the two."""
    folder, flags = copy("stopped")
    state = torch.load(folder / "last.pt", weights_only=True)
    state["progress"]["epoch"] -= 1
    (folder / "last.pt").write_bytes(saved(state))
    message = "last.pt: of 1 epochs, 2 are recorded, .* finish it with --resume"
    assert_refused(folder, message, lambda: evaluate.main([str(folder)]))


def test_older_run_folders_without_checksums_and_marks_are_still_read(copy, runs):
    folder, flags = copy("stopped")
    for name in ("options.json", "metrics.jsonl", "steps.jsonl", "times.jsonl"):
        lines = [(folder / name).read_bytes()]
        if name != "options.json":
            lines = lines[0].splitlines()
        records = [opened(line) for line in lines]
        for older in records:
            older.pop("run", None)
        if name == "options.json":
            del records[0]["data"]["digest"]
        (folder / name).write_text("".join(json.dumps(older) + "\n" for older in records))
    for which in ("last", "best"):
        state = torch.load(folder / f"{which}.pt", weights_only=True)
        del state["progress"]["run"]
        torch.save(state, folder / f"{which}.pt")
    run(flags, "x", *EPOCHS, "--resume")
    assert_same_run(folder, runs[1] / "whole")


def edited(change):
    """Of an options.json without checksum: `change` made to it."""

    def of(content):
        stored = opened(content)
        change(stored)
        return json.dumps(stored).encode()

    return of


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda content: b"", "options.json: damaged, or changed since it was written"),
        (lambda content: content[:-9], "options.json: damaged"),
        (lambda content: b"[1]", "options.json: damaged"),
        (lambda content: b"[" * 99999, "options.json: damaged"),
        (lambda content: content.replace(b"mmpareto", b"mmp\xffreto"), "options.json: damaged"),
        (lambda content: content.decode().encode("utf-16")[:-1], "options.json: damaged"),
        (lambda content: content.replace(b"1.5", b"1.6"), "not what its checksum says.; undo"),
        (edited(lambda stored: stored.pop("options")), "has no options with a usable dataset"),
        (edited(lambda stored: stored["options"].pop("method")), "a usable method"),
        (edited(lambda stored: stored["options"].update(modalities="audio")), "usable modalities"),
        (edited(lambda stored: stored.update(environment=None)), "no environment with a usable"),
        (edited(lambda stored: stored["data"].update(samples=3)), "data with usable samples"),
        (edited(lambda stored: stored["data"].update(readers=[])), "no data with a usable reader"),
        (edited(lambda stored: stored["options"].update(gamma="x")), "no run has --gamma 'x'"),
        (edited(lambda stored: stored["options"].update(tf32=1.5)), "no run has --tf32 1.5"),
        (edited(lambda stored: stored["options"].update(amp="fp8")), "no run has --amp 'fp8'"),
        (edited(lambda stored: stored["options"].update(epochs=0)), "no run has --epochs 0"),
        (edited(lambda stored: stored["options"].update(method="x")), "no file methods/x.py"),
        (
            edited(lambda stored: stored["options"].update(modalities=["x"])),
            "no data with usable readers",
        ),
        (edited(lambda stored: stored["options"].update(modalities=[[]])), "usable modalities"),
    ],
)
def test_damaged_options_are_named(change, message, copy):
    folder, flags = copy("stopped")
    (folder / "options.json").write_bytes(change((folder / "options.json").read_bytes()))
    for call in (
        lambda: run(flags, "x", *EPOCHS, "--resume"),
        lambda: evaluate.main([str(folder)]),
        lambda: report.main([str(folder)]),
        lambda: draw.main(["cosine", str(folder)]),
    ):
        assert_refused(folder, message, call)


@pytest.mark.parametrize("name", ["steps.jsonl", "metrics.jsonl", "times.jsonl"])
def test_a_garbage_line_is_named_with_its_number(name, copy):
    folder, flags = copy("stopped")
    first, *others = (folder / name).read_bytes().splitlines(keepends=True)
    for garbage in (
        b"\x00\xff{\n",
        b"5\n",
        b'{"epoch": 0}\n',
        first.replace(b'"epoch": 0', b'"epoch": 1'),
    ):
        (folder / name).write_bytes(b"".join([first, garbage, *others]))
        message = f"{name} line 2: damaged, and records follow it"
        assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))
    (folder / name).write_bytes(b"".join([garbage, first, *others]))
    message = f"{name} line 1: damaged"
    assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))


def test_what_a_kill_leaves_at_the_end_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [{"epoch": epoch, "step": 3 * epoch} for epoch in range(3)]
    lines = [sealed(record) for record in records]
    for end in ("", lines[2][:9], "\0" * 99, "\n\n\n", lines[2][:9] + "\n"):
        path.write_text("\n".join([*lines[:2], end]))
        assert read_jsonl(path) == records[:2]
        assert read_jsonl(path, until=1) == records[:1]


@pytest.mark.parametrize("name, message", [("metrics", "epochs 0 to 1"), ("steps", "steps 0 to 5")])
def test_records_that_a_checkpoint_has_behind_it_must_be_there(name, message, copy):
    folder, flags = copy("stopped")
    file = folder / f"{name}.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    message = f"{name}.jsonl: does not hold {message}, each once, which last.pt has behind it"
    for kept in ([], lines[:1], lines[1:], [lines[0], *lines]):
        file.write_text("".join(kept))
        assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))


def test_tables_say_when_steps_or_times_are_lacking(copy):
    folder, _ = copy("whole")
    for name in ("steps", "times"):
        before = (folder / f"{name}.jsonl").read_bytes()
        (folder / f"{name}.jsonl").write_bytes(before[: before[:-1].rindex(b"\n") + 1])
        assert_refused(folder, f"{name}.jsonl: does not hold", lambda: report.main([str(folder)]))
        (folder / f"{name}.jsonl").write_bytes(before)
    report.main([str(folder)])


def test_a_run_without_last_pt_is_begun_again_only_where_nothing_was_completed(copy, runs):
    folder, flags = copy("stopped")
    first, *_ = (folder / "metrics.jsonl").read_text().splitlines()
    for name in ("last.pt", "best.pt"):
        (folder / name).unlink()
    message = "last.pt: no such checkpoint; nor can best.pt be used; begin again"
    assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))
    (folder / "metrics.jsonl").write_text(f"{first}\n")  # killed at the end of its first epoch
    run(flags, "x", *EPOCHS, "--resume")
    assert_same_run(folder, runs[1] / "whole")


def test_a_result_is_kept_while_its_checkpoint_is_the_same(tmp_path):
    result, checkpoint = tmp_path / "probe_x.json", tmp_path / "last.pt"
    assert run_folder.read_result(result) is None
    checkpoint.write_bytes(b"a" * 99)
    run_folder.write_result(result, "last", {"scores": 1})
    assert run_folder.read_result(result)["scores"] == 1
    checkpoint.write_bytes(b"a" * 98 + b"b")
    assert run_folder.read_result(result) is None
    checkpoint.unlink()  # as sweep.py --checkpoints delete does
    assert run_folder.read_result(result)["scores"] == 1
    for content in (b"", b"{}", b"[]", result.read_bytes().replace(b"1", b"2")):
        (tmp_path / "damaged").write_bytes(content)
        assert run_folder.read_result(tmp_path / "damaged") is None


@pytest.mark.slow
def test_results_are_measured_again_when_the_checkpoint_has_changed(copy, runs, monkeypatch):
    folder, flags = copy("whole")
    monkeypatch.setattr(_style, "save_as", lambda figure, path: _style.plt.close(figure))
    walk = ["landscape", str(folder), "--directions", "1", "--points", "3", "--samples", "8"]
    results = {}
    for epochs in ("3", "4"):
        run(flags, "x", "--epochs", epochs, "--resume")
        if epochs == "4":
            message = "probe_calibration.json: damaged, or of a checkpoint that has changed; run ev"
            assert_refused(folder, message, lambda: report.main([str(folder)]))
            evaluate.main([str(folder), "--probe", "calibration"])
        for argv in (walk, ["norms", str(folder)]):
            draw.main(argv)
            stored = content_of(folder)
            draw.main(argv)  # from what is kept
            assert content_of(folder) == stored
        names = ("landscape.json", "gradient_norms.json")
        results[epochs] = [opened((folder / name).read_bytes()) for name in names]
        report.main([str(folder), "--output", str(folder.parent / "table")])
    for before, after in zip(results["3"], results["4"]):
        before, after = (result.get("curves") or result["norms"] for result in (before, after))
        assert before != after
    draw.main(["norms", str(folder), "--checkpoint", "best"])  # which another one is kept of
    of_best = opened((folder / "gradient_norms.json").read_bytes())
    assert of_best["checkpoint"] == "best" and of_best["norms"] != results["4"][1]["norms"]


def test_a_table_can_be_made_again_beside_its_runs(copy, tmp_path):
    copy("whole")
    for _ in range(2):
        report.main([str(path) for path in sorted(tmp_path.iterdir())])
    files = [str(path) for path in tmp_path.iterdir() if path.is_file()]
    assert len(files) == 3
    with pytest.raises(BadInput, match="report.*: no run folder"):
        report.main(sorted(files))


COLUMNS = "dataset,model,method,source,mark,measure,value"


@pytest.mark.parametrize(
    "content, message",
    [
        (f"{COLUMNS}\ndemo,,joint,x,p,accuracy,5 ü".encode("latin-1"), "as CSV in UTF-8"),
        (COLUMNS.replace("mark,", "").encode(), "its first line names no column mark"),
        (b"", "its first line names no column"),
        (f"{COLUMNS}\ndemo,joint\n".encode(), "has demo,joint"),
        (b"\xff\xfed\0a\0", "as CSV in UTF-8"),
    ],
)
def test_a_bad_list_of_what_others_report_is_named(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "REPORTED", tmp_path / "reported.csv")
    tables.REPORTED.write_bytes(content)
    with pytest.raises(BadInput, match=f"reported.csv: .*{message}"):
        tables.reported("demo")


# Surroundings


def test_a_run_is_written_by_one_process(copy, monkeypatch, capsys):
    folder, flags = copy("stopped")
    code = f"from utils import atomic; import time; atomic.claim(atomic.Path({str(folder)!r}) / "
    other = start(sys.executable, "-c", code + "'.lock'); print(flush=True); time.sleep(60)")
    other.stdout.readline()
    message = f"{folder}: process {other.pid} on .* writes into it; wait for its end, or end it"
    assert_refused(folder, message, lambda: run(flags, "x", *EPOCHS, "--resume"))
    other.kill()
    other.wait()
    run(flags, "x", *EPOCHS, "--resume")

    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.fcntl, "lockf", no_locks)
        run(flags, "x", *EPOCHS, "--resume")
    assert f"NOTE: {folder}/.lock: no locks here (No locks available)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "a\nb", "a\\b", " a", "\ud800"])
def test_names_that_are_no_folder_are_refused_at_the_start(name, runs, tmp_path):
    flags, _ = runs
    with pytest.raises(BadInput, match="--run_name .*; give a plain folder name"):
        run([*flags, "--ckpt_path", str(tmp_path / "runs")], name)
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_moved_is_resumed_and_evaluated_from_another_folder(
    copy, runs, demo_root, tmp_path, monkeypatch
):
    copy("stopped")
    shutil.move(tmp_path / "x", tmp_path / "y")
    monkeypatch.chdir(tmp_path)
    run(flags_for(os.path.relpath(demo_root), "."), "y", *EPOCHS, "--resume")
    assert_same_run(tmp_path / "y", runs[1] / "whole")
    monkeypatch.chdir("/")  # it was begun with a relative --data_root
    evaluate.main([str(tmp_path / "y")])


@pytest.mark.parametrize(
    "schedule",
    [[], pytest.param(["--schedule", "step", "--lr_decay_step", "2"], marks=pytest.mark.slow)],
    ids=str,
)
def test_a_finished_run_goes_on_to_the_bits_of_a_longer_one(schedule, runs, tmp_path, capsys):
    flags = [*runs[0], "--ckpt_path", str(tmp_path), *schedule]
    run(flags, "x", "--epochs", "1")
    if schedule:
        run(flags, "whole", *EPOCHS)
    run(flags, "x", *EPOCHS, "--resume")
    assert_same_run(tmp_path / "x", tmp_path / "whole" if schedule else runs[1] / "whole")
    stored = run_folder.read_stored(tmp_path / "x")["options"]
    assert stored["epochs"] == 3
    capsys.readouterr()
    before = content_of(tmp_path / "x")
    run(flags, "x", *EPOCHS, "--resume")
    assert "finished, all 3 epochs are done" in capsys.readouterr().out
    assert content_of(tmp_path / "x") == before
    message = "was begun with --epochs 3, not 2; give the same or more"
    argv = ["--epochs", "2", "--resume"]
    assert_refused(tmp_path / "x", message, lambda: run(flags, "x", *argv))


def test_a_schedule_that_depends_on_all_epochs_is_not_extended(runs, tmp_path):
    flags = [*runs[0], "--ckpt_path", str(tmp_path), "--schedule", "cosine"]
    run(flags, "x")
    message = "was begun with --epochs 1, not 2; give the same options"
    argv = ["--epochs", "2", "--resume"]
    assert_refused(tmp_path / "x", message, lambda: run(flags, "x", *argv))


def test_a_refused_resume_extends_nothing(copy):
    folder, flags = copy("whole")
    (folder / "last.pt").write_bytes(flipped((folder / "last.pt").read_bytes()))
    argv = ["--epochs", "9", "--resume"]
    assert_refused(folder, "last.pt: damaged", lambda: run(flags, "x", *argv))


def status_and_error(main, capsys) -> tuple[int, str]:
    """How a command with this main() ends."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "name, error",
    [
        ("options.json", errno.ENOSPC),
        ("options.json", errno.EROFS),
        ("steps.jsonl", errno.ENOSPC),
        ("metrics.jsonl", errno.ENOSPC),
        ("last.pt", errno.ENOSPC),
    ],
)
def test_a_full_disk_ends_in_one_line_and_nothing_is_lost(
    name, error, runs, tmp_path, monkeypatch, capsys
):
    """At the first write of a file: what is written there arrives at fsync."""
    flags = [*runs[0], "--ckpt_path", str(tmp_path)]

    def fail(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        status, printed = status_and_error(lambda: run(flags, "x", *EPOCHS), capsys)
    assert status == 2 and len(printed.splitlines()) == 1
    assert f"{name}: {os.strerror(error)}; " in printed
    assert ("free some space" in printed) == (error == errno.ENOSPC)
    if name == "options.json":
        assert not list(tmp_path.iterdir())
        return
    assert "no epoch was completed; continue: --resume --run_name x" in printed
    assert not list((tmp_path / "x").glob("*.tmp")) and not (tmp_path / "x" / "last.pt").exists()


def test_a_checkpoint_for_which_there_is_no_room_leaves_the_one_before(tmp_path):
    """PyTorch says it otherwise than a write of Python's."""
    state = {"model": {"x": torch.zeros(50_000)}, "progress": {"epoch": 1}}
    run_folder.save(state, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large: '.*/last.pt'"):
            run_folder.save(state, tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert content_of(tmp_path) == {"last.pt": before}


def living_of(session: int) -> list[str]:
    """The processes of a session that have not ended."""
    listed = subprocess.run(["ps", "-eo", "sid,stat,args"], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    return [row[2] for row in rows if row[0] == str(session) and row[1][0] != "Z"]


@pytest.mark.parametrize(
    "command, sent",
    [
        ("train.py", [signal.SIGINT, signal.SIGINT]),
        pytest.param("train.py", [signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param("sweep.py", [signal.SIGTERM], marks=pytest.mark.slow),
        pytest.param("sweep.py", [signal.SIGINT, signal.SIGINT], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_no_signal_leaves_a_traceback_or_a_process(command, sent, runs, tmp_path):
    flags = [*runs[0], "--ckpt_path", str(tmp_path), "--epochs", "99", "--num_workers", "1"]
    if command == "sweep.py":
        flags += ["--methods", "joint", "--seeds", "0,1,2", "--jobs", "2"]
    else:
        flags += ["--method", "joint", "--run_name", "demo-joint-seed0"]
    process = start(sys.executable, command, *flags)
    wait_for(tmp_path / "demo-joint-seed0" / "last.pt", process)
    for number in sent:
        process.send_signal(number)
        time.sleep(0.1)
    printed = process.communicate(timeout=60)[1]
    assert process.returncode in (130, -signal.SIGINT)  # the latter while Python itself ends
    assert printed.startswith("\ninterrupted; ") and len(printed.strip().splitlines()) == 1
    deadline = time.monotonic() + 10  # data workers look every few seconds whether it lives
    while living_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not living_of(process.pid)
    assert not list(tmp_path.glob("demo-joint-seed2"))


# Everything at once

FILES = ["options.json", "metrics.jsonl", "steps.jsonl", "times.jsonl", "last.pt", "best.pt"]
WORDS = ["", "x", -1, 0, 2, 1.5, True, None, [], ["audio"], {}, "../..", "auto", 10**30]


def change_values(stored: dict, draw_from: random.Random) -> None:
    """Some entries of a record, at any depth, taken out, renamed or replaced."""
    for _ in range(draw_from.choice([1, 1, 3])):
        place = stored
        while inner := [x for x in place.values() if isinstance(x, dict) and x]:
            if place is not stored and draw_from.random() < 0.3:
                break
            place = draw_from.choice(inner)
        key = draw_from.choice(list(place))
        action = draw_from.choice(["out", "rename", "replace", "replace"])
        value = place.pop(key)
        if action == "rename":
            place[f"{key}_"] = value
        elif action == "replace":
            place[key] = draw_from.choice(WORDS)


def damage_run(folder, other, seed: int) -> str:
    """Damages a run folder; says how."""
    draw_from = random.Random(seed)
    there = [name for name in [*FILES, "probe_calibration.json"] if (folder / name).is_file()]
    kind = draw_from.choice(["bytes", "bytes", "cut", "out", "swap", "other", "text", "edit"])
    name = draw_from.choice(there)
    file = folder / name
    content = file.read_bytes()
    if kind == "bytes":
        file.write_bytes(damaged(content, seed))
    elif kind == "cut":
        file.write_bytes(cut(content, seed))
    elif kind == "out":
        for name in draw_from.sample(there, draw_from.choice([1, 1, 2])):
            (folder / name).unlink()
    elif kind == "swap":
        second = folder / draw_from.choice(there)
        file.write_bytes(second.read_bytes())
        second.write_bytes(content)
    elif kind == "other":
        name = draw_from.choice(["options.json", "last.pt", "best.pt"])
        shutil.copy(other / name, folder)
    elif kind == "text":
        if name.endswith(".pt"):
            file.write_bytes(draw_from.choice([b"", b"{}", b"PK\x03\x04", bytes(2000)]))
        else:
            encoding = draw_from.choice(["utf-16", "utf-32", "utf-8-sig", "cp500"])
            file.write_bytes(content.decode().encode(encoding))
    elif kind == "edit":
        stored = opened((folder / "options.json").read_bytes())
        change_values(stored, draw_from)
        is_sealed = draw_from.random() < 0.5  # else as who takes the checksum away
        text = json.dumps(stored | ({"checksum": "0123abcd"} if is_sealed else {}))
        (folder / "options.json").write_text(text)
        kind = "edit" if is_sealed else "edit as it stands"
    return kind


def measured(folder, flags, base, capsys) -> dict:
    """{command: its result, or None where it is refused}; a refusal leaves every file as it was."""
    results = {}
    output = folder.parent / "out"

    def evaluated():
        evaluate.main([str(folder), "--json", f"{output}.json"])
        return json.loads(output.with_suffix(".json").read_text())

    def reported():
        report.main([str(folder), "--output", str(output)])
        with open(f"{output}.csv") as file:  # without hardware and commit, which no result shows
            return {(row["measure"], row["mean"]) for row in csv.DictReader(file)}

    def drawn():
        before = len(_style.plt.get_fignums())
        draw.main(["cosine", str(folder), "--output", str(output)])
        assert len(_style.plt.get_fignums()) == before
        return sorted(map(tuple, shown.pop()))

    def resumed():
        run(flags, folder.name, *EPOCHS, "--resume")
        records = [read_jsonl(folder / f"{name}.jsonl") for name in ("steps", "metrics")]
        return records, {k: v.tolist() for k, v in model_of(folder).items()}

    shown = []

    def keep(figure, path):
        if path.suffix == ".svg":
            axes = figure.axes
            shown.append([p for a in axes for c in a.collections for p in c.get_offsets().tolist()])
        _style.plt.close(figure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_style, "save_as", keep)
        for command in (drawn, reported, evaluated, resumed):
            before = content_of(folder)
            try:
                results[command.__name__] = command()
            except BadInput as refusal:
                assert len(str(refusal).splitlines()) == 1
                assert content_of(folder) == before, "a refusal changed files"
                results[command.__name__] = None
    capsys.readouterr()
    return results


@pytest.mark.slow
def test_damaged_run_folders_are_refused_or_give_what_they_gave(runs, tmp_path, fuzz, capsys):
    """Twice --fuzz folders, with four commands each."""
    flags, folder = runs
    flags = [*flags, "--ckpt_path", str(tmp_path)]
    expected, faults, refused = {}, [], 0
    for seed in range(-2, 2 * len(fuzz)):
        base = ("whole", "stopped")[seed % 2]
        shutil.copytree(folder / base, tmp_path / "x")
        kind = damage_run(tmp_path / "x", folder / "other", seed) if seed >= 0 else ""
        try:
            results = measured(tmp_path / "x", flags, base, capsys)
            if seed < 0:
                expected[base] = results
            for command, result in results.items():
                refused += result is None
                same = result is None or result == expected[base][command]
                if command == "reported" and result:  # what is lacking is not in the table
                    same = result <= expected[base][command]
                if command == "drawn" and result and base == "stopped":  # its end may be cut
                    same = set(result) <= set(expected[base][command])
                if kind == "edit as it stands" or (kind == "swap" and command == "evaluated"):
                    continue  # as somebody has said; best.pt is as good a checkpoint as last.pt
                if not same:
                    faults.append(f"{seed} {kind} {command}: another result")
        except Exception as error:
            faults.append(f"{seed} {kind}: {type(error).__name__}: {error}")
        shutil.rmtree(tmp_path / "x")
    assert not faults, "\n".join(faults)
    assert 0.2 < refused / (8 * len(fuzz)) < 0.9
