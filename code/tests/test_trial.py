"""trial.py: rates chosen on held-out samples, fresh seeds, corrected differences."""

import os
import re
import signal
import sys
import time
from dataclasses import replace
from statistics import mean, stdev

import pytest
from commands import shell, start
from scipy.stats import nct, t, ttest_rel

import trial
from analysis import trials
from analysis.records import Recorded
from analysis.runs import ACCURACY, read_run
from analysis.statistics import detectable, holm, p_value
from training.rates import FURTHER, best_rate, tune
from training.workers import DIVERGED, Run
from trials import Trial
from utils.errors import BadInput

BEST = {"joint": 0.01, "uniform": 0.02, "mmpareto": 0.16}  # rates


@pytest.fixture
def made(trained):
    """(method, rate, seed, {measure: value}) -> a run as records have it."""

    def of(method, rate, seed, **measures):
        run = read_run(trained(method))
        options = run.options | {"learning_rate": rate, "random_seed": seed}
        fields = dict(options=options, environment=run.environment, data=run.data, epochs=[])
        return Recorded(
            run.folder.with_name(f"{method}-{rate}-{seed}"),
            **fields,
            data_name="demo",
            measures={"minutes": 2.0 if method == "mmpareto" else 1.0} | measures,
        )

    return of


@pytest.fixture
def run(made):
    """All runs at once: validation falls with the distance from the best rate."""

    def of(rates):
        return {
            arm: {
                rate: [made(arm, rate, s, val=90 - abs(rate - BEST[arm])) for s in (100, 101)]
                for rate in of_arm
            }
            for arm, of_arm in rates.items()
        }

    return of


def test_rates_are_added_until_the_best_stands_inside(run):
    found = tune(run, list(BEST), (0.01, 0.02, 0.04))
    assert sorted(found["joint"]) == [0.005, 0.01, 0.02, 0.04]
    assert sorted(found["uniform"]) == [0.01, 0.02, 0.04]
    assert sorted(found["mmpareto"]) == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32]
    assert {arm: best_rate(runs) for arm, runs in found.items()} == BEST


def test_there_is_an_end_to_further_rates(run, monkeypatch):
    monkeypatch.setitem(BEST, "joint", 1e9)
    found = tune(run, ["joint"], (0.01, 0.02, 0.04))
    assert max(found["joint"]) == 0.04 * 2**FURTHER


def test_of_equal_rates_the_smaller_is_taken(made):
    runs = {rate: [made("joint", rate, 0, val=70.0)] for rate in (0.04, 0.01, 0.02)}
    assert best_rate(runs) == 0.01


def test_a_rate_that_diverges_is_not_chosen_and_smaller_ones_are_tried(run):
    def run_where(limit):
        def of(rates):
            fit = {arm: [rate for rate in tried if rate < limit] for arm, tried in rates.items()}
            return run(fit)

        return of

    found = tune(run_where(0.03), ["mmpareto"], (0.01, 0.02, 0.04))
    assert best_rate(found["mmpareto"]) == 0.02
    found = tune(run_where(0.01), ["mmpareto"], (0.01, 0.02, 0.04))
    assert list(found["mmpareto"]) == [0.0025, 0.005]
    with pytest.raises(BadInput, match="mmpareto: diverges at each of the rates 0.000625, "):
        tune(run_where(0), ["mmpareto"], (0.01, 0.02, 0.04))


@pytest.fixture
def carry_out(tmp_path, monkeypatch, made):
    """What a trial comes to where a run (stage, arm, rate, seed) ends as `ends` says, and what it
    has trained, each as asked for."""
    trained = []

    def read(folder):
        return made(*folder[1:], val=90 - abs(folder[2] - 0.04), **{ACCURACY: 1e4 * folder[2]})

    def of(ends):
        def train(options, flags):
            stage, ended = options.ckpt_path.name, {}
            for seed in options.seeds.split(","):
                for arm in options.arm:
                    name, _, rate, *_ = arm.split()
                    run = Run([], options, (stage, name, float(rate), int(seed)))
                    ended[run] = ends(*run.folder)
                    trained.append(run.folder)
            return ended

        monkeypatch.setattr(trial.grid, "carry_out", train)
        options, flags = trial.read_options(["--dataset", "demo", "--ckpt_path", str(tmp_path)])
        return trial.carry_out(settings, options, flags), trained

    monkeypatch.setattr(trial, "read_run", read)
    rates = (0.01, 0.02, 0.04)  # and then 0.08, as the best stands at an end
    settings = Trial("", "--val_speakers s1", ("joint", "uniform"), rates, (100, 101), (0, 1, 2))
    return of


def listed(runs):
    return [(r.options["method"], r.options["learning_rate"], r.seed) for r in runs]


def test_a_rate_that_diverges_in_the_test_gives_way_to_the_next_best(carry_out):
    def ends(stage, arm, rate, seed):
        in_tuning = stage == "tuning" and rate in (0.01, 0.08) and seed == 101
        in_test = stage == "test" and arm == "uniform" and rate == 0.04 and seed == 2
        return f"{DIVERGED}at epoch 3" * (in_tuning or in_test)

    runs, trained = carry_out(ends)
    arms = ("joint", 0.04), ("uniform", 0.02)
    assert listed(runs.tested) == [(*arm, seed) for arm in arms for seed in (0, 1, 2)]
    assert runs.other_rates == [] and trials.at_same_rate(runs) == {"joint": "that diverges"}
    again = ("tuning", "uniform", 0.02, 101), ("tuning", "uniform", 0.01, 101)
    assert [trained.count(run) for run in again] == [2, 1]  # what diverges is not asked for again


def test_the_reference_is_trained_at_the_rates_of_the_others_too(carry_out):
    """Where uniform's best rate is 0.02 and joint's 0.04."""

    def ends(stage, arm, rate, seed):
        return f"{DIVERGED}at epoch 3" * ((stage, arm, rate) == ("tuning", "uniform", 0.04))

    runs, _ = carry_out(ends)
    assert listed(runs.other_rates) == [("uniform", 0.04, seed) for seed in (0, 1, 2)]
    assert trials.at_same_rate(runs)["joint"].startswith("+0.00 [")
    (joint, uniform) = trials.tables(runs)[0].rows
    assert joint[-4].startswith("+200.00 [") and joint[-2].startswith("+0.00 [")
    assert uniform[-4] == uniform[-2] == ""


def test_a_run_that_fails_otherwise_ends_the_trial(carry_out):
    with pytest.raises(SystemExit) as ended:
        carry_out(lambda stage, *_: "error: no space" * (stage == "test"))
    assert ended.value.code == 1


def test_differences_are_paired_corrected_and_told(made):
    seeds = range(8)
    noise = [0.3, -0.2, 0.1, 0.4, -0.5, 0.0, -0.3, 0.2]
    accuracy = {
        "uniform": [80 + n for n in noise],
        "joint": [70 + 9 * n for n in noise],  # below
        "mmpareto": [
            80.1 + n + 0.01 * s for s, n in zip(seeds, noise)
        ],  # above, by next to nothing
        "pareto": [80 + 15 * n for n in noise[::-1]],  # not decided
    }
    tested = [
        made(m, 0.02, s, **{ACCURACY: a})
        for m, values in accuracy.items()
        for s, a in zip(seeds, values)
    ]
    validation = {"uniform": 60.0, "joint": 75.0, "mmpareto": 90.0, "pareto": 50.0}
    tuned = [
        made(m, rate, 100, val=value - 100 * abs(rate - 0.02), **{ACCURACY: 1.0})
        for m, value in validation.items()
        for rate in (0.02, 0.04)
    ]
    runs = trials.Runs(tuned, tested, [])
    made_table, of_modalities = trials.tables(runs)
    assert [row[0] for row in of_modalities.rows] == list(accuracy)
    assert of_modalities.head == [
        "method",
        "audio head",
        "visual head",
        "audio probe",
        "visual probe",
    ]
    rows = {row[0]: dict(zip(made_table.head, row)) for row in made_table.rows}
    assert "minus One joint loss" in made_table.head  # best on held-out samples, of the sums
    said = {arm: row["minus Uniform"] for arm, row in rows.items()}
    for arm, words in {
        "joint": "below",
        "mmpareto": "above, within 1 point",
        "pareto": "not decided",
    }.items():
        test = ttest_rel(accuracy[arm], accuracy["uniform"])
        low, high = test.confidence_interval(0.95)
        expected = mean(accuracy[arm]) - mean(accuracy["uniform"])
        assert said[arm] == f"{expected:+.2f} [{low:+.2f}, {high:+.2f}] {words}"
    assert said["uniform"] == "" and rows["joint"]["minus One joint loss"] == ""
    assert rows["mmpareto"]["time"] == "2.00" and rows["mmpareto"]["rate"] == "0.02"
    assert "Holm's correction over 3 arms" in trials.caption(runs)


def test_weights_of_a_sum_and_other_settings_are_compared_with_the_reference(made):
    """The sum with the best weight may be the reference; another optimizer has one of its own."""

    def arm(method, seed, value, **options):
        run = made(method, 0.02, seed, val=value, **{ACCURACY: value - seed})
        return replace(run, options=run.options | options)

    runs = [
        arm(method, seed, value, **options)
        for method, value, options in (
            ("uniform", 80, {}),
            ("mmpareto", 81, {}),
            ("uniform", 83, {"unimodal_weight": 2.0}),
            ("uniform", 86, {"optimizer": "adam"}),
            ("mmpareto", 90, {"optimizer": "adam"}),
        )
        for seed in (0, 1, 2)
    ]
    arms = trials.arms_of(runs)
    found = {arm: mean(values) for arm, values in trials.differences(arms, "uniform").items()}
    adam = " --optimizer adam"
    expected = {"mmpareto": 1, "uniform --unimodal_weight 2.0": 3}
    assert found == expected | {f"uniform{adam}": 6, f"mmpareto{adam}": 4}
    tuned = [*runs, *(arm("joint", seed, 10) for seed in (0, 1, 2))]
    tuned += [replace(run, options=run.options | {"learning_rate": 0.5}) for run in tuned]
    assert trials.best_sum(tuned, arms) == "uniform --unimodal_weight 2.0"


def test_holms_correction():
    given = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(given) == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert p_value([0.0, 0.0, 0.0]) == 1 and p_value([0.1, 0.1]) == 0
    assert p_value([1.0, 2.0, 4.0]) == pytest.approx(ttest_rel([1, 2, 4], [0, 0, 0]).pvalue)


@pytest.mark.parametrize("n", [5, 20, 50])
def test_a_difference_that_can_be_told_is_found_four_times_in_five(n):
    scatter = [1.0, -2.0, 0.5, 3.0, -1.5]
    distance = detectable(scatter, n)
    limit, shift = t.ppf(0.975, n - 1), distance / (stdev(scatter) / n**0.5)
    found = 1 - nct.cdf(limit, n - 1, shift) + nct.cdf(-limit, n - 1, shift)
    assert found == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
def test_a_trial_goes_on_after_a_kill_and_its_records_give_its_table(demo_root, tmp_path):
    """All of it, with the encoders of single modalities; ended twice in the midst of it."""
    arms = ["joint --modalities audio", "joint --modalities visual", "uniform", "g_blending"]
    arms += ["joint --init_encoders {alone}", "umt --umt_teachers {alone} --umt_weight 10"]
    runs, kept = tmp_path / "runs", tmp_path / "kept"
    command = [sys.executable, "trial.py", "--dataset", "demo", "--data_root", str(demo_root)]
    command += ["--ckpt_path", str(runs), "--rates", "0.01,0.02", "--tuning_seeds", "1"]
    command += ["--test_seeds", "2", "--epochs", "1", "--num_workers", "0", "--jobs", "2"]
    command += ["--records", str(kept)]
    for arm in arms:
        command += ["--arm", arm]
    for folder, count in (("tuning", 3), ("test", 2)):
        process = start(*command)
        while len(list(runs.glob(f"{folder}/demo-*/times.jsonl"))) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = runs.glob("tuning/demo-*/metrics.jsonl")
    before = {path: path.stat().st_mtime_ns for path in done}
    assert len(before) > 3 and not kept.exists()
    finished = shell(*command)
    assert finished.returncode == 0, finished.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    again = shell(sys.executable, "trial.py", "--from", str(kept))
    assert again.stdout.strip() and finished.stdout.endswith(again.stdout)
    head, *rows = (re.split("  +", line) for line in again.stdout.split("\n\n")[0].splitlines())
    tested = {row[0]: row for row in rows}
    names = {"audio alone", "visual alone", "uniform", "joint --init_encoders RUNS"}
    names |= {"umt --umt_weight 10.0"}
    assert tested.keys() == names | {"g_blending --val_fraction 0.2"}
    assert {row[2] for row in tested.values()} == {"2"}
    # the last two begin with the best encoders of their own seeds
    for name in ("audio", "visual"):
        for seed in (0, 1):
            linked = runs / "test" / f"alone-{name}-seed{seed}"
            assert read_run(linked).options["random_seed"] == seed
