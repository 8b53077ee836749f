"""Which loss reaches what, on graphs with a known answer; the groups of the step."""

import pytest
import torch
from steps import build_method, build_model, forward, take_step
from torch.nn.functional import cross_entropy

from mmpareto import (
    LossGradients,
    integrate,
    mmpareto_backward,
    mmpareto_factors,
)
from models.reach import groups_of, objectives_of, reached_by


def leaves(*names):
    return {name: torch.full((2,), i + 1.0, requires_grad=True) for i, name in enumerate(names)}


def ids_of(groups):
    return {name: [id(p) for p in parameters] for name, parameters in groups.items()}


def test_a_loss_reaches_what_its_backward_pass_fills():
    p = leaves("a", "b", "c", "d")
    loss = (p["a"] * p["b"].exp()).sum() + (p["c"].detach() * p["a"]).sum()
    assert reached_by(loss) == {p["a"], p["b"]}
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


class Meeting(torch.nn.Module):
    """Two encoders that meet: each feature is gated by the other, so every loss reaches both."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = {m: torch.nn.Linear(4, 3) for m in ("audio", "visual")}
        self.encoders = torch.nn.ModuleDict(layers).double()
        self.groups = {m: list(encoder.parameters()) for m, encoder in self.encoders.items()}

    def losses(self, detached=False):
        """detached: the feature of the other modality, in a unimodal branch."""
        x = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(1)).double()
        audio, visual = self.encoders["audio"](x[0]), self.encoders["visual"](x[1])
        target = torch.arange(8) % 3
        multimodal = audio * visual.sigmoid() + visual * audio.sigmoid()
        gates = {m: f.detach() if detached else f for m, f in dict(a=audio, v=visual).items()}
        return {
            "multimodal": cross_entropy(
                multimodal, (target + 1) % 3
            ),  # in conflict with the others
            "audio": cross_entropy(audio * gates["v"].sigmoid(), target),
            "visual": cross_entropy(visual * gates["a"].sigmoid(), target),
        }

    def gradients(self, loss, group):
        found = torch.autograd.grad(self.losses()[loss], self.groups[group])
        return [gradient.clone() for gradient in found]

    def step_of_two(self, group, **arguments):
        """MMPareto's on the gradients of the multimodal and the group's own loss."""
        rows = [self.gradients(loss, group) for loss in ("multimodal", group)]
        assert integrate(rows, **arguments)["cosine"] < 0
        return rows[0]

    def assert_gradients(self, expected):
        for group, parameters in self.groups.items():
            torch.testing.assert_close([p.grad for p in parameters], expected[group])


OTHER = {"audio": "visual", "visual": "audio"}


def test_where_the_other_feature_is_detached_a_unimodal_loss_trains_its_encoder_alone():
    model = Meeting()
    assert objectives_of(model.losses(), model.groups) == {
        group: ["multimodal", "audio", "visual"] for group in OTHER
    }
    losses = model.losses(detached=True)
    assert objectives_of(losses, model.groups) == {group: ["multimodal", group] for group in OTHER}
    mmpareto_backward(losses, model.groups)
    model.assert_gradients({group: model.step_of_two(group) for group in OTHER})


@pytest.mark.parametrize("is_added", [False, True])
def test_backward_may_fill_the_parameters_that_a_loss_is_an_objective_of(is_added):
    """What a loss gives an encoder beforehand is added, without a part in the decision."""
    model = Meeting()
    losses = model.losses()
    own = {losses[group]: model.groups[group] for group in OTHER}

    def backward(loss, retain_graph):
        loss.backward(retain_graph=retain_graph, inputs=own.get(loss))

    if is_added:
        for loss, other in OTHER.items():
            losses[loss].backward(retain_graph=True, inputs=model.groups[other])
    mmpareto_backward(losses, model.groups, backward=backward)
    expected = {group: model.step_of_two(group) for group in OTHER}
    if is_added:
        for group, other in OTHER.items():
            pairs = zip(expected[group], model.gradients(other, group))
            expected[group] = [h + g for h, g in pairs]
    model.assert_gradients(expected)


def ignoring(row):
    """MMPareto's rule on all gradients but this one."""

    def rule(gram):
        kept = torch.tensor([i for i in range(len(gram)) if i != row])
        return torch.zeros_like(gram[0]).index_put((kept,), mmpareto_factors(gram[kept][:, kept]))

    return rule


@pytest.mark.parametrize("rescale", ["none", "tensor"])
def test_a_rule_may_ignore_a_gradient_but_the_magnitude_is_that_of_all(rescale):
    model = Meeting()
    gradients = LossGradients(model.groups)
    gradients.add(model.losses())
    gradients.integrate(rescale=rescale, rules={"audio": ignoring(2), "visual": ignoring(1)})
    expected = {}
    for group in OTHER:
        expected[group] = model.step_of_two(group, rescale="none")
        if rescale == "tensor":
            rows = [model.gradients(loss, group) for loss in ("multimodal", "audio", "visual")]
            lengths = [1.5 * sum(of_tensor).norm() for of_tensor in zip(*rows)]
            pairs = zip(expected[group], lengths)
            expected[group] = [h * (length / h.norm()).clamp(min=1) for h, length in pairs]
    model.assert_gradients(expected)
