"""Greedy: its speeds and held gates against the formula, its limit, a resume."""

import copy
import math

import torch
from steps import build_method, build_model, forward, take_step

MODALITIES = ("audio", "visual")


def step(method, model, seed=0, epoch=5, scale=1.0):
    """Diagnostics of one step, after which `.grad` is of this step alone."""
    model.zero_grad()
    given = forward(model, seed)
    given.epoch, given.scale = epoch, torch.tensor(scale)
    given.losses = {name: scale * loss for name, loss in given.losses.items()}
    return take_step(method, model, given)


def is_held(model):
    return [m for m, is_held in model.fusion.is_held.items() if is_held]


def descend(method, model, steps, epoch=5):
    """Plain descent; (diagnostics, which modality's gates were held) of every step."""
    history = []
    for seed in range(steps):
        held = is_held(model)
        history.append((step(method, model, seed, epoch), held))
        with torch.no_grad():
            for p in (p for p in model.parameters() if p.grad is not None):
                p -= 1e-2 * p.grad
    return history


def test_with_infinite_tolerance_it_is_the_uniform_baseline():
    gradients = []
    for method in (build_method("uniform"), build_method("greedy", "--greedy_tolerance", "inf")):
        model = build_model("greedy")
        for seed in range(3):
            step(method, model, seed)
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_speed_is_the_logarithm_of_two_sums_of_relative_moves_whatever_the_loss_scale():
    model = build_model("greedy").double()
    method = build_method("greedy", "--greedy_tolerance", "inf")
    gates, sums = dict(model.fusion.named_parameters()), {m: [0.0, 0.0] for m in MODALITIES}
    for seed, scale in enumerate((1.0, 1024.0, 1.0)):
        diagnostics = step(method, model, seed, scale=scale)
        for m in MODALITIES:
            of_gates = [p for n, p in gates.items() if ".squeeze." in n or f".excite.{m}." in n]
            for i, parameters in enumerate((of_gates, list(model.encoders[m].parameters()))):
                moved = sum((p.grad / scale).square().sum() for p in parameters)
                sums[m][i] += moved / sum(p.square().sum() for p in parameters)
            expected = torch.log10(sums[m][0] / sums[m][1])
            torch.testing.assert_close(diagnostics[f"speed/{m}"], expected)


def test_gates_of_the_faster_modality_are_held_for_the_window():
    method = build_method("greedy", "--greedy_tolerance", "0", "--greedy_steps", "2")
    history = descend(method, build_model("greedy"), 7)
    for position, (diagnostics, held) in enumerate(history):
        speeds = {m: diagnostics[f"speed/{m}"] for m in MODALITIES}
        if position % 3 == 0:  # a regular step, then two with held gates
            assert held == []
            fastest = max(speeds, key=speeds.get)
        else:
            assert held == [fastest]


def test_held_gates_are_the_mean_of_all_steps_and_cut_the_other_modality_off():
    model, method = build_model("greedy"), build_method("greedy", "--greedy_tolerance", "0")
    gates_of_steps = []
    for seed in range(2):
        step(method, model, seed)
        gates_of_steps.append(
            [{m: g.mean(0) for m, g in x.items()} for x in model.fusion.last_gates]
        )
    (held,) = is_held(model)
    (other,) = set(MODALITIES) - {held}
    for held_gates, first, second in zip(model.fusion.held_gates, *gates_of_steps, strict=True):
        torch.testing.assert_close(held_gates[held], (first[held] + second[held]) / 2)
    for is_training in (True, False):  # in evaluation gates are never held
        model.train(is_training).zero_grad()
        forward(model).losses[held].backward()
        gradients = [p.grad for p in model.encoders[other].parameters() if p.grad is not None]
        assert any(g.any() for g in gradients) != is_training
        assert all(p.grad.any() for p in model.heads[held].parameters())


class Published:
    """The rule of the published code for two modalities, by its account: epochs count from 1, sums
    of |g|^2 / |theta|^2 over its regular steps, and 5 steps with the gates of one modality held."""

    def __init__(self):
        self.sums = {(m, part): 0.0 for m in MODALITIES for part in ("gates", "encoder")}
        self.held, self.steps, self.difference = None, 0, 0.0

    def after_backward(self, model, epoch):
        if self.held is not None:
            self.steps += 1
            self.held = None if self.steps == 5 else self.held
            return
        for m, part in self.sums:
            begin = "fusion.gates" if part == "gates" else f"encoders.{m}."
            own = (".squeeze.", f".{m}.")  # the squeeze counts for both
            named = [(n, p) for n, p in model.named_parameters() if n.startswith(begin)]
            chosen = [p.detach() for n, p in named if any(x in n for x in own)]
            moved = sum((p.grad**2).sum() for n, p in named if any(x in n for x in own))
            self.sums[m, part] += float(moved / sum((p**2).sum() for p in chosen))
        speeds = [math.log10(self.sums[m, "gates"] / self.sums[m, "encoder"]) for m in MODALITIES]
        self.difference = speeds[0] - speeds[1]
        if epoch >= 2 and abs(self.difference) > 0.01:
            self.held, self.steps = MODALITIES[int(self.difference < 0)], 0


def test_by_default_it_holds_what_the_published_code_holds_step_by_step():
    model, method, published = build_model("greedy").double(), build_method("greedy"), Published()
    history = []
    for number in range(27):
        epoch = number // 9  # counted from 0
        assert is_held(model) == ([published.held] if published.held else [])
        history.append(published.held)
        diagnostics = step(method, model, number, epoch)
        published.after_backward(model, epoch + 1)
        difference = diagnostics["speed/audio"] - diagnostics["speed/visual"]
        assert abs(float(difference) - published.difference) < 1e-12
        with torch.no_grad():
            for p in (p for p in model.parameters() if p.grad is not None):
                p -= 1e-2 * p.grad
    assert not any(history[:10]) and history[10:15] == 5 * [history[10]] != 5 * [None]


def test_nothing_is_held_in_the_first_epochs():
    model = build_model("greedy")
    method = build_method("greedy", "--greedy_tolerance", "0", "--greedy_start", "2")
    assert not any(held for _, held in descend(method, model, 4, epoch=1))
    assert any(held for _, held in descend(method, model, 4, epoch=2))


def test_a_resumed_run_goes_on_with_the_held_gates():
    argv = ["--greedy_tolerance", "0", "--greedy_steps", "3"]
    model, method = build_model("greedy").double(), build_method("greedy", *argv)
    descend(method, model, 2)
    other, resumed = build_model("greedy").double(), build_method("greedy", *argv)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(method.state_dict()))
    resumed.start_epoch(5, other, {})
    assert is_held(other) == is_held(model) != []
    for (a, held_a), (b, held_b) in zip(descend(method, model, 4), descend(resumed, other, 4)):
        assert held_a == held_b
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_of_three_modalities_at_most_one_is_held():
    model = build_model("greedy", ("audio", "visual", "flow"))
    history = descend(build_method("greedy", "--greedy_tolerance", "0"), model, 4)
    assert {len(held) for _, held in history} == {0, 1}


def test_a_frozen_encoder_is_neither_compared_nor_held():
    for frozen, others in (("audio", {"visual"}), ("visual", {"audio", "flow"})):
        model = build_model("greedy", sorted({frozen, *others}))
        model.encoders[frozen].requires_grad_(False)
        history = descend(build_method("greedy", "--greedy_tolerance", "0"), model, 4)
        held = {m for _, of_step in history for m in of_step}
        assert bool(held) == (len(others) > 1) and held <= others
        assert all(diagnostics[f"speed/{frozen}"] == 0 for diagnostics, _ in history)


def test_a_step_that_overflowed_does_not_count():
    """With fp16 the scaler leaves such a step out; what is remembered stays finite."""
    model, method = build_model("greedy"), build_method("greedy")
    step(method, model, scale=float("inf"))
    assert step(method, model)["speed/audio"].isfinite() and method.memory["moves"].min() > 0
