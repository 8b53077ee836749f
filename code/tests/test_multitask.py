"""multitask.py: its pictures, its methods, its table and figure from real (small) trainings."""

import json

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


def test_pictures_hold_a_digit_for_each_task_under_its_noise():
    digits, labels = (torch.tensor(x) for x in multitask.mnist("train", None, None))
    pictures, targets = multitask.make_pictures(digits, labels.long(), [0.0, 0.5, 2.0], 300, seed=1)
    assert pictures.shape == (300, 1, 28, 84) and targets.shape == (300, 3)
    clean = pictures[:, 0, :, :28]
    assert torch.equal(clean, digits[targets[:, 0]].float() / 255)
    for task, level in ((1, 0.5), (2, 2.0)):
        own = pictures[:, 0, :, 28 * task : 28 * task + 28]
        rest = own - digits[targets[:, task]].float() / 255
        assert rest.std() == pytest.approx(level, rel=0.02) and abs(rest.mean()) < 0.02 * level
    agree = (targets[:, 0] == targets[:, 1]).float().mean()
    assert abs(agree - 0.1) < 0.06  # drawn independently
    again, _ = multitask.make_pictures(digits, labels.long(), [0.0, 0.5, 2.0], 300, seed=1)
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
    found = integrate(rows)
    method = multitask.build_method("mmpareto")
    forward = multitask.ForwardPass(losses, logits, {"trunk": features}, target, 0)
    diagnostics = take_step(method, model, forward)
    assert list(model.groups(losses)) == ["trunk"]
    for p, gradient in zip(trunk, rows[0]):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(diagnostics["cosine/trunk"], found["cosine"])
    for head, gradient in zip(model.heads, of_heads):
        assert torch.equal(head.weight.grad, gradient)


def suited():
    names = registry.names("methods")
    build = {n: registry.load_class("methods", n, "") for n in names}
    return [n for n in names if issubclass(build[n], multitask.FAMILIES)]


def test_every_method_that_needs_losses_only_trains(tmp_path, capsys):
    assert {"uniform", "pareto", "mmpareto", "gradnorm", "pcgrad", "mgda_ub"} < set(suited())
    argv = [*QUICK, "--output", str(tmp_path), "--figure", str(tmp_path / "p"), "--seeds", "0"]
    multitask.main([*argv, "--methods", ",".join(suited())])
    lines = capsys.readouterr().out.splitlines()
    told = {line.split("  ")[0] for line in lines}
    assert set(suited()) <= told and "digit 2 (noise 1) alone" in told


def test_a_run_tells_the_tasks_apart_and_is_not_trained_again(tmp_path, capsys, monkeypatch):
    argv = ["--train_size", "320", "--test_size", "60", "--epochs", "4", "--noise", "0,0.6"]
    argv += ["--batch_size", "16", "--methods", "uniform,mmpareto", "--seeds", "1"]
    argv += ["--output", str(tmp_path)]
    argv += ["--figure", str(tmp_path / "plane")]
    multitask.main(argv)
    told = capsys.readouterr().out
    row = next(line for line in told.splitlines() if line.startswith("uniform")).split()
    clean, noisy = float(row[2]), float(row[3])
    assert clean > 80 and clean > noisy + 10  # the noise is what makes the difficulty
    assert (tmp_path / "plane.png").is_file() and (tmp_path / "plane.svg").is_file()
    stored = json.loads((tmp_path / "mmpareto-0-1-seed1.json").read_text())
    assert stored["settings"]["noise"] == [0, 0.6] and stored["environment"]["torch"]
    assert 0 <= stored["conflict"] <= 1

    def never(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(multitask, "train_run", never)
    multitask.main(argv)
    assert capsys.readouterr().out == told
    with pytest.raises(BadInput, match="has other settings; choose another --output"):
        multitask.main([*argv, "--epochs", "5"])


def test_a_method_may_have_flags(tmp_path, capsys):
    arms = ["uniform", "uniform --encoder_grad_scale 50", "uniform --encoder_grad_scale 1"]
    argv = [*QUICK, "--output", str(tmp_path), "--figure", str(tmp_path / "p"), "--seeds", "3"]
    multitask.main([*argv, "--methods", ",".join(arms)])
    shown = {
        arm: tmp_path / f"{arm.replace(' --', '-').replace(' ', '-')}-0-1-seed3.json"
        for arm in arms
    }
    accuracy = [json.loads(shown[arm].read_text())["accuracy"] for arm in arms]
    assert accuracy[0] == accuracy[2] != accuracy[1]
    assert arms[1] in capsys.readouterr().out


def test_three_tasks_have_three_planes(tmp_path, capsys):
    argv = [*QUICK, "--output", str(tmp_path), "--figure", str(tmp_path / "p"), "--seeds", "0"]
    multitask.main([*argv, "--noise", "0,0.5,1", "--methods", "uniform,mmpareto"])
    head = capsys.readouterr().out.splitlines()[0]
    assert all(name in head for name in multitask.task_names([0, 0.5, 1]))


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--methods", "ogm"], "--methods ogm: needs modalities, not tasks alone"),
        (["--methods", "uniform --gamma 2"], "uniform --gamma 2: uniform has no --gamma 2"),
        (["--methods", "mmpareto --gamma x"], "mmpareto --gamma x: --gamma invalid float"),
        (["--methods", "mmpareto --gamma 0"], "mmpareto --gamma 0: --gamma 0.0: must be > 0"),
        (["--methods", "nothing"], "--methods nothing: no file methods/nothing.py"),
        (["--noise", "1"], "--noise .1.0.: give two or more numbers"),
        (["--noise", "0,-1"], "give two or more numbers of at least 0"),
        (["--seeds", "a"], "--seeds invalid list of int value: .a."),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--encoder", "mobilenet_v3"], "--encoder mobilenet_v3: has no stages"),
    ],
)
def test_bad_input_is_refused(argv, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        multitask.main([*QUICK, "--output", str(tmp_path), *argv])
    assert not list(tmp_path.glob("*.json"))
