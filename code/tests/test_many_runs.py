"""A large trial: thousands of finished runs in one folder are listed and reported in seconds."""

import itertools
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import flags_for, run

import evaluate
import report
import sweep
from training import options
from training.grid import plan
from utils.run_folder import opened, read_jsonl, sealed

EPOCHS = 30
METHODS = ("uniform", "mmpareto")
HELD_OUT = ["--val_fraction", "0.3"]


@pytest.fixture(scope="module")
def originals(demo_root, tmp_path_factory):
    """{method: a real run of one epoch, probed}, of which the many are copies."""
    folder = tmp_path_factory.mktemp("originals")
    for method in METHODS:
        run(flags_for(demo_root, folder), method, "--method", method, *HELD_OUT)
        evaluate.main([str(folder / method), "--probe", "linear"])
    return {method: folder / method for method in METHODS}


def copies(
    originals: dict[str, Path], runs: Path, rates: list[float], seeds: int, steps_per_epoch: int = 2
) -> list[str]:
    """Finished runs of every method, rate and seed, without checkpoints, as a sweep leaves them in
    `runs`; the flags of that sweep. Copies of an original share the file of their steps."""
    runs.mkdir()
    for method, original in originals.items():
        stored = opened((original / "options.json").read_bytes())
        epoch, *_ = read_jsonl(original / "metrics.jsonl")
        cost, *_ = read_jsonl(original / "times.jsonl")
        probe = (original / "probe_linear.json").read_bytes()
        steps = read_jsonl(original / "steps.jsonl")
        of_all_steps = runs / f"steps_of_{method}.jsonl"
        with open(of_all_steps, "w") as file:
            for step in range(EPOCHS * steps_per_epoch):
                progress = {"epoch": step // steps_per_epoch, "step": step}
                record = steps[step % len(steps)] | progress
                file.write(f"{sealed(record)}\n")
        times = "".join(f"{sealed(cost | {'epoch': number})}\n" for number in range(EPOCHS))
        for rate, seed in itertools.product(rates, range(seeds)):
            folder = runs / f"demo-{method}-learning_rate-{rate}-seed{seed}"
            folder.mkdir()
            changed = dict(random_seed=seed, learning_rate=rate, epochs=EPOCHS)
            changed |= dict(ckpt_path=str(runs), run_name=folder.name)
            content = stored | {"options": stored["options"] | changed}
            (folder / "options.json").write_text(sealed(content, indent=1))
            # the best rate is the second, and every run has its own accuracy
            distance = abs(rates.index(rate) - 1) / len(rates)
            accuracy = 0.6 + 0.1 * (method == "mmpareto") - 0.2 * distance + 0.001 * (seed % 7)
            with open(folder / "metrics.jsonl", "w") as file:
                for number in range(EPOCHS):
                    shares = {k: accuracy * (number + 1) / EPOCHS for k in epoch if "/" in k}
                    progress = {"epoch": number, "step": (number + 1) * steps_per_epoch}
                    file.write(f"{sealed(epoch | shares | progress)}\n")
            (folder / "times.jsonl").write_text(times)
            (folder / "probe_linear.json").write_bytes(probe)
            os.link(of_all_steps, folder / "steps.jsonl")
    flags = flags_for(stored["options"]["data_root"], runs)
    flags[flags.index("--learning_rate") + 1] = ",".join(map(str, rates))
    of_sweep = ["--methods", ",".join(METHODS), "--seeds", ",".join(map(str, range(seeds)))]
    return [*flags, *HELD_OUT, "--epochs", str(EPOCHS), *of_sweep, "--probe", "linear"]


@pytest.fixture
def counted(monkeypatch):
    """(owner, name) -> Counter of the first arguments that this function is called with."""

    def count(owner, name):
        calls, original = Counter(), getattr(owner, name)

        def counting(*arguments, **keywords):
            calls[str(arguments[0])] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, counting)
        return calls

    return count


@pytest.mark.parametrize(
    "grid, runs, built",
    [  # (parsers, methods): one for the grid, then one for each arm with its encoder and fusion
        (["--learning_rate", "1,2"], 4, (3, 2)),
        (
            ["--learning_rate", ",".join(map(str, range(1, 21))), "--seeds", "0,1,2,3,4"],
            200,
            (3, 2),
        ),
        (["--gamma", "1,1.5", "--seeds", "0,1,2"], 9, (3, 3)),
        (["--fusion", "concat,sum", "--seeds", "0,1,2"], 12, (5, 2)),
    ],
)
def test_a_plan_builds_once_what_its_runs_have_in_common(
    demo_root, tmp_path, counted, grid, runs, built
):
    """Parsers, for which the folder of data is looked through, and methods: UMT's reads runs."""
    parsers, methods = counted(options, "parser_of"), counted(options, "build_method")
    flags = [*flags_for(demo_root, tmp_path), "--methods", "uniform,mmpareto", *grid]
    planned = plan(*sweep.read_options(flags))
    assert len({str(run.options) for run in planned}) == len(planned) == runs
    assert (parsers.total(), methods.total()) == built


def test_hundreds_of_runs_are_listed_and_reported_with_every_file_read_once(
    originals, tmp_path, counted, capsys
):
    runs = tmp_path / "runs"
    flags = copies(originals, runs, [0.01, 0.02, 0.03, 0.04], seeds=50)
    read = counted(Path, "read_bytes")
    sweep.main(flags)
    assert "400 runs, 400 of them done already" in capsys.readouterr().out
    assert len(read) == 3 * 400 and max(read.values()) == 1  # options, metrics and probe
    folders = [str(folder) for folder in runs.iterdir() if folder.is_dir()]
    for files in (6, 5):  # .conflicts.json, which is not there yet, stands for steps.jsonl later
        read.clear()
        report.main(folders)
        assert len(read) == files * 400 and max(read.values()) == 1
    capsys.readouterr()
    report.main([*folders, "--select", "learning_rate"])
    rows = capsys.readouterr().out.splitlines()
    for method, accuracy in (("uniform", "60.29"), ("mmpareto", "70.29")):
        assert any(row.startswith(f"| {method} | 0.02 | 50 | {accuracy} ") for row in rows)


def test_a_run_that_has_not_changed_is_not_read_again(originals, tmp_path, counted):
    runs = tmp_path / "runs"
    flags = copies(originals, runs, [0.01, 0.02], seeds=2)
    planned = plan(*sweep.read_options(flags))
    read = counted(Path, "read_bytes")
    for _ in range(3):  # as the bar asks every second
        assert [run.epochs() for run in planned] == [EPOCHS] * 8
    assert sum(read.values()) == 8
    metrics = planned[0].folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert [run.epochs() for run in planned] == [EPOCHS - 1] + [EPOCHS] * 7
    metrics.unlink()
    assert planned[0].epochs() == 0
    assert sum(read.values()) == 9


@pytest.mark.slow
def test_five_thousand_runs_take_seconds(originals, tmp_path, capsys):
    """Prints what it measured: python -m pytest -m slow -s tests/test_many_runs.py."""
    runs, rates = tmp_path / "runs", [round(0.002 * step, 3) for step in range(1, 51)]
    flags = copies(originals, runs, rates, seeds=50, steps_per_epoch=34)
    folders = [str(folder) for folder in runs.iterdir() if folder.is_dir()]
    selecting = [*folders, "--select", "learning_rate"]
    seconds = {}
    for what, command, arguments in (
        ("sweep, all done", sweep.main, flags),
        ("report --select, first", report.main, selecting),
        ("report --select, again", report.main, selecting),
        ("report, first", report.main, folders),
        ("report, again", report.main, folders),
    ):
        begun, begun_on_clock = time.process_time(), time.monotonic()
        command(arguments)
        used = seconds[what] = time.process_time() - begun
        line = f"{what}: {used:.1f} s of CPU, {time.monotonic() - begun_on_clock:.1f} s"
        assert "of them done already" not in (printed := capsys.readouterr().out) or (
            "5000 runs, 5000 of them done already" in printed
        )
        with capsys.disabled():
            print(line)
    most = {what: 300 if what == "report, first" else 60 for what in seconds}  # a loaded machine
    assert all(seconds[what] < most[what] for what in seconds), seconds
