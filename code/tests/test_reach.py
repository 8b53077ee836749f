"""Which loss reaches what, on graphs with a known answer; the groups of the step."""

import torch
from steps import build_method, build_model, forward, take_step

from mmpareto import leaves_of
from models.reach import groups_of, objectives_of


def leaves(*names):
    return {name: torch.full((2,), i + 1.0, requires_grad=True) for i, name in enumerate(names)}


def ids_of(groups):
    return {name: [id(p) for p in parameters] for name, parameters in groups.items()}


def test_a_loss_reaches_what_its_backward_pass_fills():
    p = leaves("a", "b", "c", "d")
    loss = (p["a"] * p["b"].exp()).sum() + (p["c"].detach() * p["a"]).sum()
    assert leaves_of([loss]) == {p["a"], p["b"]}
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
    shared = [p["between"]]  # but not the head, which the multimodal loss alone reaches
    assert ids_of(groups) == ids_of({"audio": [p["ear"]], "visual": [p["eye"]], "shared": shared})
    assert objectives_of(losses, groups) == {
        "audio": ["multimodal", "audio"],
        "visual": ["multimodal", "audio", "visual"],
        "shared": ["multimodal", "audio"],
    }


def test_with_gates_every_loss_reaches_every_encoder_and_the_gates_are_shared():
    model = build_model("greedy")
    losses = forward(model).losses
    groups = model.groups(losses)
    shared = {"shared": list(model.fusion.gates.parameters())}
    assert ids_of(groups) == ids_of(model.encoder_parameters() | shared)
    assert objectives_of(losses, groups) == dict.fromkeys(groups, ["multimodal", "audio", "visual"])


def test_the_control_of_the_gain_scales_what_mmpareto_scales():
    """Without conflict MMPareto is uniform with 1.5 times the gradient, shared layers included."""
    model, gradients = build_model("greedy").double(), []  # with gates
    for argv in ([], ["--encoder_grad_scale", "1.5"]):
        model.zero_grad()
        take_step(build_method("uniform", *argv), model, forward(model))
        gradients.append([p.grad for p in model.parameters()])
    groups = model.groups(forward(model).losses)
    in_a_group = {p for parameters in groups.values() for p in parameters}
    for p, plain, scaled in zip(model.parameters(), *gradients):
        torch.testing.assert_close(scaled, 1.5 * plain if p in in_a_group else plain)
