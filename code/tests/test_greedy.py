"""Greedy: its speeds and held gates against the formula, its limit, a resume."""

import copy

import pytest
import torch
from steps import build_method, build_model, forward, take_step

from methods.greedy import move
from training import options
from utils.errors import BadInput

MODALITIES = ("audio", "visual")


def steps(model, method, count, epoch=5, rate=1e-2):
    """Plain descent; (diagnostics, which modality's gates were held) of every step."""
    history = []
    for seed in range(count):
        model.zero_grad()
        held = [m for m, is_held in model.fusion.is_held.items() if is_held]
        given = forward(model, seed)
        given.epoch = epoch
        diagnostics = take_step(method, model, given)
        history.append((diagnostics, held))
        with torch.no_grad():
            for p in model.parameters():
                p -= rate * p.grad
    return history


def test_with_infinite_tolerance_it_is_the_uniform_baseline():
    gradients = {}
    for name, argv in (("uniform", []), ("greedy", ["--greedy_tolerance", "inf"])):
        model = build_model("greedy")
        method = build_method(name, *argv)
        for seed in range(3):
            model.zero_grad()
            take_step(method, model, forward(model, seed))
        gradients[name] = [p.grad for p in model.parameters()]
    for a, b in zip(*gradients.values()):
        torch.testing.assert_close(a, b)


def test_the_speed_is_the_logarithm_of_two_sums_of_relative_moves():
    model = build_model("greedy").double()
    method = build_method("greedy", "--greedy_tolerance", "inf")
    sums = {m: [0.0, 0.0] for m in MODALITIES}
    for seed in range(3):
        model.zero_grad()
        diagnostics = take_step(method, model, forward(model, seed))
        for m in MODALITIES:
            of_gates = [
                p
                for n, p in model.fusion.named_parameters()
                if ".squeeze." in n or f".excite.{m}." in n
            ]
            for i, parameters in enumerate((of_gates, list(model.encoders[m].parameters()))):
                moved = sum(p.grad.square().sum() for p in parameters)
                sums[m][i] += moved / sum(p.square().sum() for p in parameters)
            expected = torch.log10(sums[m][0] / sums[m][1])
            torch.testing.assert_close(diagnostics[f"speed/{m}"], expected)


def test_gates_of_the_faster_modality_are_held_for_the_window():
    model = build_model("greedy")
    method = build_method("greedy", "--greedy_tolerance", "0", "--greedy_steps", "2")
    history = steps(model, method, 7)
    for position, (diagnostics, held) in enumerate(history):
        speeds = {m: diagnostics[f"speed/{m}"] for m in MODALITIES}
        if position % 3 == 0:  # a regular step, then two with held gates
            assert held == []
            fastest = max(speeds, key=speeds.get)
        else:
            assert held == [fastest]


def test_held_gates_are_the_mean_of_all_steps_and_cut_the_other_modality_off():
    model, method = build_model("greedy"), build_method("greedy", "--greedy_tolerance", "0")
    seen = []
    for seed in range(2):
        model.zero_grad()
        given = forward(model, seed)
        given.epoch = 5
        seen.append([{m: g.mean(0) for m, g in x.items()} for x in model.fusion.last_gates])
        take_step(method, model, given)
    (held,) = [m for m, is_held in model.fusion.is_held.items() if is_held]
    (other,) = set(MODALITIES) - {held}
    for stage, gates in enumerate(model.fusion.held_gates):
        mean = (seen[0][stage][held] + seen[1][stage][held]) / 2
        torch.testing.assert_close(gates[held], mean)
    model.zero_grad()
    forward(model).losses[held].backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoders[other].parameters())
    assert all(p.grad.any() for p in model.heads[held].parameters())
    model.eval()  # where gates are never held
    model.zero_grad()
    forward(model).losses[held].backward()
    assert any(p.grad.any() for p in model.encoders[other].parameters())


def test_nothing_is_held_in_the_first_epochs():
    model = build_model("greedy")
    method = build_method("greedy", "--greedy_tolerance", "0", "--greedy_start", "2")
    assert not any(held for _, held in steps(model, method, 4, epoch=1))
    assert any(held for _, held in steps(model, method, 4, epoch=2))


def test_a_resumed_run_goes_on_with_the_held_gates():
    model = build_model("greedy").double()
    method = build_method("greedy", "--greedy_tolerance", "0", "--greedy_steps", "3")
    steps(model, method, 2)
    other, resumed = build_model("greedy").double(), build_method("greedy", "--greedy_steps", "3")
    resumed.tolerance = 0
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    resumed.start_epoch(5, other, {})
    for (a, held_a), (b, held_b) in zip(steps(model, method, 4), steps(other, resumed, 4)):
        assert held_a == held_b
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_three_modalities_and_zero_gradients():
    model = build_model("greedy", ("audio", "visual", "flow"))
    method = build_method("greedy", "--greedy_tolerance", "0")
    assert all(len(held) < 2 for _, held in steps(model, method, 4))
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.zeros(3)
    assert move([p]) == 0


def test_a_loss_scale_does_not_weigh_the_steps():
    last_diagnostics = []
    for scales in ((1.0, 1.0), (1024.0, 1.0)):
        model = build_model("greedy").double()
        method = build_method("greedy", "--greedy_tolerance", "inf")
        for seed, scale in enumerate(scales):
            model.zero_grad()
            given = forward(model, seed)
            given.losses = {k: scale * loss for k, loss in given.losses.items()}
            given.scale = torch.tensor(scale)
            diagnostics = take_step(method, model, given)
        last_diagnostics.append(diagnostics)
    for key, value in last_diagnostics[0].items():
        torch.testing.assert_close(last_diagnostics[1][key], value)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--greedy_tolerance", "-1"], "--greedy_tolerance -1.0: must be at least 0"),
        (["--greedy_steps", "0"], "--greedy_steps 0: must be at least 1"),
        (["--greedy_start", "-1"], "--greedy_start -1: must be at least 0"),
    ],
)
def test_flags_out_of_range(argv, message):
    with pytest.raises(ValueError, match=message):
        build_method("greedy", *argv)


def test_late_fusion_has_no_gates():
    with pytest.raises(BadInput, match="--fusion concat: has no gates; --method greedy .* mmtm"):
        options.parse(["--dataset", "demo", "--method", "greedy"])
