"""multitask.py: its pictures, its methods, its table and figure from real (small) trainings."""

import json
import math

import numpy as np
import pytest
import torch
from steps import take_step
from torch.nn.functional import cross_entropy

import multitask
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
        multitask.main([*flags, "--output", str(tmp_path), "--figure", str(tmp_path / "plane")])
        return capsys.readouterr().out.splitlines()

    return of


def test_pictures_hold_a_digit_for_each_task_under_its_noise():
    digits, labels = (torch.tensor(x) for x in multitask.mnist("train", None, None))
    noise = [0.0, 0.5, 2.0]
    pictures, targets = multitask.make_pictures(digits, labels.long(), noise, 300, seed=1)
    assert pictures.shape == (300, 1, 28, 84) and targets.shape == (300, 3)
    for task, level in enumerate(noise):
        column = pictures[:, 0, :, 28 * task : 28 * task + 28]
        rest = column - digits[targets[:, task]].float() / 255
        assert rest.std() == pytest.approx(level, rel=0.02) and abs(rest.mean()) <= 0.02 * level
    agree = (targets[:, 0] == targets[:, 1]).float().mean()
    assert abs(agree - 0.1) < 0.06  # drawn independently
    again, _ = multitask.make_pictures(digits, labels.long(), noise, 300, seed=1)
    assert torch.equal(again, pictures)


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
    argv = ["--train_size", "320", "--test_size", "60", "--epochs", "4", "--noise", "0,0.6"]
    argv += ["--batch_size", "16", "--methods", "mmpareto", "--seeds", "1"]
    lines = compare(*argv)
    row = next(line for line in lines if line.startswith("mmpareto")).split()
    clean, noisy = float(row[2]), float(row[3])
    assert clean > 80 and clean > noisy + 10  # the noise is what makes the difficulty
    assert (tmp_path / "plane.svg").is_file()
    stored = json.loads((tmp_path / "mmpareto-0-1-seed1.json").read_text())
    assert stored["settings"]["noise"] == [0, 0.6] and stored["environment"]["torch"]
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
