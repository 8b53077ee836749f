"""multitask.py: its pictures, its methods, its table and figure from real (small) trainings."""

import json
import math
import re

import numpy as np
import pytest
import torch
from steps import take_step
from torch.nn.functional import cross_entropy

import multitask
from analysis import tasks
from mmpareto import integrate
from utils import registry
from utils.errors import BadInput

QUICK = ["--train_size", "96", "--test_size", "40", "--epochs", "1", "--batch_size", "32"]


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """Digits that are easy: one random pattern for each class."""
    patterns = np.random.default_rng(0).integers(0, 256, (10, 28, 28), dtype=np.uint8)

    def mnist(split, source, downloads):
        labels = np.arange(200, dtype=np.uint8) % 10
        return patterns[labels], labels

    monkeypatch.setattr(multitask, "mnist", mnist)


@pytest.fixture
def compare(tmp_path, capsys):
    """(flags, ...) -> the lines that multitask.py prints."""

    def of(*flags):
        capsys.readouterr()
        multitask.main(["--output", str(tmp_path), "--figure", str(tmp_path / "plane"), *flags])
        return capsys.readouterr().out.splitlines()

    return of


def test_a_rate_that_diverges_is_not_chosen_and_none_is_reported(compare, tmp_path):
    protocol = ["--methods", "uniform", "--seeds", "0", "--tuning_seeds", "100"]
    compare(*QUICK, *protocol, "--rates", "0.01,1e30,1e31,1e32")
    (stored,) = tmp_path.glob("tuning/uniform-*rate-1e+30-*.json")
    assert set(json.loads(stored.read_text())["accuracy"].values()) == {0.0}
    reported = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(reported) == 3
    assert max(run["settings"]["learning_rate"] for run in reported) <= 0.01
    with pytest.raises(BadInput, match=r"alone, seed 1: diverges at rate 1e\+30; name smaller"):
        compare(*QUICK, "--methods", "uniform", "--seeds", "1", "--learning_rate", "1e30")


def test_pictures_hold_a_digit_for_each_task_under_its_noise():
    digits, labels = (torch.tensor(x) for x in multitask.mnist("train", None, None))
    noise = [0.0, 0.5, 2.0]
    drawn = (digits, labels.long(), "gaussian", noise, 300)
    pictures, targets = multitask.make_pictures(*drawn, seed=1)
    assert pictures.shape == (300, 1, 28, 84) and targets.shape == (300, 3)
    for task, level in enumerate(noise):
        column = pictures[:, 0, :, 28 * task : 28 * task + 28]
        rest = column - digits[targets[:, task]].float() / 255
        assert rest.std() == pytest.approx(level, rel=0.02) and abs(rest.mean()) <= 0.02 * level
    agree = (targets[:, 0] == targets[:, 1]).float().mean()
    assert abs(agree - 0.1) < 0.06  # drawn independently
    again, _ = multitask.make_pictures(*drawn, seed=1)
    assert torch.equal(again, pictures)


def test_salt_and_pepper_takes_the_place_of_a_share_of_the_pixels():
    digits = torch.full((1, 28, 28), 51, dtype=torch.uint8)  # 0.2 everywhere
    drawn = (digits, torch.zeros(1).long(), "salt_and_pepper", [0.0, 0.5, 1.0], 200)
    pictures, _ = multitask.make_pictures(*drawn, seed=1)
    for task, level in enumerate([0.0, 0.5, 1.0]):
        column = pictures[:, 0, :, 28 * task : 28 * task + 28]
        white, black = (column == 1).float().mean(), (column == 0).float().mean()
        assert white + black + (column - 0.2).abs().lt(1e-6).float().mean() == 1
        assert white.item() == pytest.approx(level / 2, abs=0.005)
        assert black.item() == pytest.approx(level / 2, abs=0.005)


@pytest.mark.parametrize("tasks", [2, 3])
def test_the_trunk_gets_what_integrate_makes_of_the_tasks_gradients(tasks):
    torch.manual_seed(0)
    names = [f"task {t}" for t in range(tasks)]
    model = multitask.SharedTrunk("cnn", tasks, names)
    pictures, target = torch.randn(6, 1, 28, 28 * tasks), torch.randint(10, (6, tasks))
    logits, features = model(pictures)
    losses = {n: cross_entropy(x, y) for (n, x), y in zip(logits.items(), target.T)}
    trunk = model.encoder_parameters()["trunk"]
    of_heads = [
        torch.autograd.grad(loss, head.weight, retain_graph=True)[0]
        for head, loss in zip(model.heads, losses.values())
    ]
    rows = [list(torch.autograd.grad(x, trunk, retain_graph=True)) for x in losses.values()]
    expected = integrate(rows)  # in place, into the first row
    forward = multitask.ForwardPass(losses, logits, {"trunk": features}, target, 0)
    diagnostics = take_step(multitask.build_method("mmpareto"), model, forward)
    assert list(model.groups(losses)) == ["trunk"]
    for p, gradient in zip(trunk, rows[0]):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(diagnostics["cosine/trunk"], expected["cosine"])
    for head, gradient in zip(model.heads, of_heads):
        assert torch.equal(head.weight.grad, gradient)


def test_the_table_tells_the_tasks_apart_and_no_run_is_trained_again(
    compare, tmp_path, monkeypatch
):
    argv = ["--train_size", "320", "--test_size", "60", "--epochs", "4", "--noise", "0,0.9"]
    argv += ["--batch_size", "16", "--methods", "mmpareto", "--seeds", "1"]
    lines = compare(*argv)
    row = next(line for line in lines if line.startswith("mmpareto")).split()
    clean, noisy = (float(cell) for cell in row[3:5])  # after "1 (few)"
    assert clean > 80 and clean > noisy + 10  # the noise is what makes the difficulty
    assert (tmp_path / "plane.svg").is_file()
    stored = json.loads((tmp_path / "mmpareto-0-1-seed1.json").read_text())
    assert stored["settings"]["noise"] == [0, 0.9] and stored["environment"]["torch"]
    steps = 4 * 320 / 16
    assert math.isclose(stored["conflict"] * steps % 1, 0, abs_tol=1e-9)  # a share of the steps

    def train_run(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(multitask, "train_run", train_run)
    assert compare(*argv) == lines
    with pytest.raises(BadInput, match="has other settings; choose another --output"):
        compare(*argv, "--epochs", "5")
    with pytest.raises(BadInput, match="--methods ogm: needs modalities, not tasks alone"):
        compare(*argv, "--methods", "ogm")
    with pytest.raises(BadInput, match="a share of the pixels must be at most 1"):
        compare(*argv, "--noise", "0,2")


def test_what_is_recorded_gives_the_same_lines_and_an_edit_is_refused(compare, tmp_path):
    kept = tmp_path / "records"
    argv = ["--methods", "uniform,mmpareto,mmpareto --gamma 1", "--seeds", "1,2"]
    lines = compare(*QUICK, *argv, "--records", str(kept))
    assert compare("--from", str(kept)) == lines
    assert sum("87.72 / 80.64" in line for line in lines) == 1  # the paper's cell, of its settings
    other = ["--noise", "0,0.4", "--output", str(tmp_path / "other")]
    of_others = compare(*QUICK, "--methods", "mmpareto", "--seeds", "1", *other)
    assert not any("the paper" in line for line in of_others)
    file = kept / "tasks.csv"
    text = file.read_text()
    head, first, second, *rest = text.splitlines()
    *cells, accuracy, other, conflict = first.split(",")  # of a task alone
    assert accuracy and not other and not conflict

    def with_accuracy(cell):
        return text.replace(first, ",".join([*cells, cell, other, conflict]))

    edits = {
        "is there twice": "\n".join([head, first, first, second, *rest]),
        "0 to 100": with_accuracy("101"),
        "is no number": with_accuracy("high"),
        "has other settings": text.replace(",96,", ",97,", 1),
        "records are of one commit": text.replace(first.split(",")[1], "abc", 1),
        "columns run": text.replace("run,", "name,", 1),
    }
    for fault, edited in edits.items():
        file.write_text(edited)
        with pytest.raises(BadInput, match=fault):
            compare("--from", str(kept))


def test_each_method_has_its_best_rate_chosen_on_digits_that_no_training_run_saw(
    compare, tmp_path, monkeypatch
):
    """As trial.py; runs at the same time give the same lines."""
    argv = [*QUICK, "--methods", "uniform,mmpareto", "--seeds", "1,2", "--tuning_seeds", "100"]
    argv += ["--rates", "0.001,0.002", "--schedule", "cosine"]
    made, make_pictures = [], multitask.make_pictures

    def remember(digits, *others, **more):
        made.append(digits)
        return make_pictures(digits, *others, **more)

    monkeypatch.setattr(multitask, "make_pictures", remember)
    head, *lines = compare(*argv, "--records", str(tmp_path / "kept"))
    sizes = [len(digits) for digits in made]
    assert sizes == [167, 33, 200, 200]  # tuning: of the training digits; then both splits
    tuned = tasks.read(tmp_path / "kept" / "tuning")
    for arm, row in {"uniform": "uniform", "mmpareto": "mmpareto"}.items():
        by_rate = {run.rate: run.validation for run in tuned if run.arm == arm}
        best = max(sorted(by_rate), key=by_rate.get)
        cells = next(re.split("  +", line) for line in lines if line.startswith(row))
        assert cells[1] == f"{best:g}"
        assert min(by_rate) < best < max(by_rate) or len(by_rate) == 2 + 4
    assert "rate" in head.split() and compare("--from", str(tmp_path / "kept")) == [head, *lines]
    other = ["--records", str(tmp_path / "others"), "--output", str(tmp_path / "other")]
    assert compare(*argv, *other) == [head, *lines]
    for path in ("tasks.csv", "tuning/tasks.csv"):
        assert (tmp_path / "kept" / path).read_text() == (tmp_path / "others" / path).read_text()


def test_all_methods_of_losses_train_and_flags_and_tasks_are_told_apart(compare, tmp_path):
    names = registry.names("methods")
    classes = {name: registry.load_class("methods", name, "--methods") for name in names}
    suited = [name for name in names if issubclass(classes[name], multitask.FAMILIES)]
    assert {"uniform", "pareto", "mmpareto", "gradnorm", "pcgrad", "mgda_ub"} < set(suited)
    scales = ["uniform --encoder_grad_scale 50", "uniform --encoder_grad_scale 1"]
    arms = [*suited, *scales]
    argv = ["--seeds", "3", "--noise", "0,0.5,1", "--methods", ",".join(arms)]
    head, *lines = compare(*QUICK, *argv)
    assert all(name in head for name in multitask.task_names([0, 0.5, 1]))
    assert {*arms, "digit 3 (noise 1) alone"} <= {line.split("  ")[0] for line in lines}
    files = [arm.replace(" --", "-").replace(" ", "-") for arm in ("uniform", *scales)]
    stored = [json.loads((tmp_path / f"{file}-0-1-2-seed3.json").read_text()) for file in files]
    plain, scaled, same = (content["accuracy"] for content in stored)
    assert plain == same != scaled
