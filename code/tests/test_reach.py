"""Which loss reaches what, on graphs with a known answer; the groups of the step."""

import torch
from steps import build_method, build_model, forward, take_step

from mmpareto import integrate, mmpareto_backward
from models.reach import groups_of, objectives_of, reached_by


def leaves(*names):
    return {name: torch.full((2,), i + 1.0, requires_grad=True) for i, name in enumerate(names)}


def test_a_loss_reaches_what_its_backward_pass_fills():
    p = leaves("a", "b", "c", "d")
    loss = (p["a"] * p["b"].exp()).sum() + (p["c"].detach() * p["a"]).sum()
    assert reached_by(loss) == {id(p["a"]), id(p["b"])}
    loss.backward()
    assert [x.grad is not None for x in p.values()] == [True, True, False, False]


def test_encoders_are_groups_and_what_several_losses_share_is_one():
    p = leaves("eye", "ear", "between", "head", "frozen", "unused")
    p["frozen"].requires_grad_(False)
    visual = p["eye"] * p["frozen"]
    audio = p["ear"] * (p["between"] * visual).sigmoid()  # the picture gates the sound
    losses = {
        "multimodal": ((visual + audio) * p["head"]).sum(),
        "audio": audio.sum(),
        "visual": visual.sum(),
    }
    groups = groups_of(losses, {"audio": [p["ear"]], "visual": [p["eye"]]}, p.values())
    assert {name: [id(x) for x in members] for name, members in groups.items()} == {
        "audio": [id(p["ear"])],
        "visual": [id(p["eye"])],
        "shared": [id(p["between"])],  # the head: the multimodal loss alone
    }
    assert objectives_of(losses, groups) == {
        "audio": ["multimodal", "audio"],
        "visual": ["multimodal", "audio", "visual"],
        "shared": ["multimodal", "audio"],
    }


def test_a_group_is_integrated_with_as_many_objectives_as_reach_it():
    p = leaves("eye", "ear", "between")
    visual, audio = p["eye"] * 1.0, p["ear"] * p["between"] * (3 - p["eye"])
    losses = {
        "multimodal": (visual + audio).sum(),
        "audio": -audio.sum(),
        "visual": (visual**3).sum(),
    }
    encoders = {"audio": [p["ear"]], "visual": [p["eye"]]}
    groups = groups_of(losses, encoders, p.values())
    expected = {}
    for group, names in objectives_of(losses, groups).items():
        rows = [
            list(torch.autograd.grad(losses[n], groups[group], retain_graph=True)) for n in names
        ]
        diagnostics = integrate(rows)
        expected[group] = rows[0]
        assert len(diagnostics["weight"]) == len(names) == {"visual": 3}.get(group, 2)
    mmpareto_backward(losses, groups)
    for group, members in groups.items():
        for x, gradient in zip(members, expected[group]):
            torch.testing.assert_close(x.grad, gradient)


def test_with_late_fusion_the_groups_are_the_encoders():
    model = build_model("uniform")
    losses = forward(model).losses
    groups = model.groups(losses)
    assert list(groups) == ["audio", "visual"]
    for modality, parameters in model.encoder_parameters().items():
        assert [id(p) for p in groups[modality]] == [id(p) for p in parameters]
    assert objectives_of(losses, groups) == {m: ["multimodal", m] for m in groups}


def test_with_gates_every_loss_reaches_every_encoder_and_the_gates_are_shared():
    model = build_model("greedy")
    losses = forward(model).losses
    groups = model.groups(losses)
    expected = model.encoder_parameters() | {"shared": list(model.fusion.gates.parameters())}
    assert {g: [id(p) for p in ps] for g, ps in groups.items()} == {
        g: [id(p) for p in ps] for g, ps in expected.items()
    }
    assert objectives_of(losses, groups) == dict.fromkeys(groups, ["multimodal", "audio", "visual"])


def test_the_control_of_the_gain_scales_what_mmpareto_scales():
    """Without conflict MMPareto is uniform with 1.5 times the gradient, shared layers included."""

    def gradients(*argv):
        model = build_model("greedy").double()  # with gates
        take_step(build_method("uniform", *argv), model, forward(model))
        groups = model.groups(forward(model).losses)
        scaled = {p for members in groups.values() for p in members}
        return [(p.grad, p in scaled) for p in model.parameters()]

    plain = gradients()
    for argv in ([], ["--measure_conflict"]):
        for (scaled, is_in_group), (gradient, _) in zip(
            gradients("--encoder_grad_scale", "1.5", *argv), plain
        ):
            torch.testing.assert_close(scaled, 1.5 * gradient if is_in_group else gradient)
