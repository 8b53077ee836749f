"""Which loss reaches what, on graphs with a known answer; and the fusions inside the encoders."""

import pytest
import torch
from steps import build_method, build_model, forward, shapes_for, take_step
from torch import nn

from mmpareto import integrate, mmpareto_backward
from models.fusion.mmtm import Gates
from models.multimodal import MultimodalModel
from models.reach import groups_of, objectives_of, reached_by
from utils.errors import BadInput


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


def of_model(fusion, modalities=("audio", "visual")):
    torch.manual_seed(0)
    model = MultimodalModel(shapes_for(modalities), 3, fusion=fusion)
    clips = {m: torch.randn(4, 1 + (m == "visual"), 1, 32, 32) for m in modalities}
    logits, _ = model(clips)
    return model, {name: x.square().mean() for name, x in logits.items()}


def test_with_late_fusion_the_groups_are_the_encoders():
    model, losses = of_model("concat")
    groups = model.groups(losses)
    assert list(groups) == ["audio", "visual"]
    for modality, parameters in model.encoder_parameters().items():
        assert [id(p) for p in groups[modality]] == [id(p) for p in parameters]
    assert objectives_of(losses, groups) == {m: ["multimodal", m] for m in groups}


def test_with_gates_every_loss_reaches_every_encoder():
    model, losses = of_model("mmtm")
    groups = model.groups(losses)
    assert [len(members) for members in groups.values()] == [60, 60, 3 * 2 * (1 + 2)]
    objectives = objectives_of(losses, groups)
    assert objectives == dict.fromkeys(groups, ["multimodal", "audio", "visual"])
    inside = {id(p) for members in groups.values() for p in members}
    alone = [n for n, p in model.named_parameters() if id(p) not in inside]
    assert {n.split(".")[0] for n in alone} == {"heads", "fusion"} and len(alone) == 3 * 2


def test_the_control_of_the_gain_scales_what_mmpareto_scales():
    """Without conflict MMPareto is uniform with 1.5 times the gradient, shared layers included."""
    gradients = []
    for argv in (["--measure_conflict"], []):
        model = build_model("greedy").double()  # with gates
        method = build_method("uniform", "--encoder_grad_scale", "1.5", *argv)
        take_step(method, model, forward(model))
        gradients.append([p.grad for p in model.parameters()])
    for gradient, expected in zip(*gradients):
        torch.testing.assert_close(gradient, expected)
    plain = build_model("greedy").double()
    take_step(build_method("uniform"), plain, forward(plain))
    for name, members in plain.groups(forward(plain).losses).items():
        for p, scaled in zip(members, model.groups(forward(model).losses)[name]):
            torch.testing.assert_close(scaled.grad, 1.5 * p.grad)


def test_gates_follow_their_formula():
    torch.manual_seed(0)
    gates = Gates({"audio": 2, "visual": 3}, reduction=5).double()
    maps = {"audio": torch.randn(2, 2, 4, 5).double(), "visual": torch.randn(6, 3, 2, 2).double()}
    gate = gates(maps, batch=2)  # the picture has three frames
    for i in range(2):
        squeezed = torch.cat(
            [maps["audio"][i].mean((1, 2)), maps["visual"][3 * i : 3 * i + 3].mean((0, 2, 3))]
        )
        z = (gates.squeeze.weight @ squeezed + gates.squeeze.bias).relu()
        assert len(z) == 2 * 5 // 5
        for modality, layer in gates.excite.items():
            expected = 2 / (1 + torch.exp(-(layer.weight @ z + layer.bias)))
            torch.testing.assert_close(gate[modality][i], expected)


def test_open_gates_are_late_fusion():
    """With all gates at 1 the model is concat's."""
    model, _ = of_model("mmtm")
    late = MultimodalModel(shapes_for(("audio", "visual")), 3)
    late.encoders, late.heads, late.fusion.linear = model.encoders, model.heads, model.fusion.linear
    for gates in model.fusion.gates:
        for layer in gates.excite.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # 2 sigmoid(0) = 1
    clips = {"audio": torch.randn(2, 1, 32, 32), "visual": torch.randn(2, 3, 1, 32, 32)}
    gated, expected = model.eval()(clips)[0], late.eval()(clips)[0]
    for branch in expected:
        torch.testing.assert_close(gated[branch], expected[branch])


def test_encoders_that_a_fusion_cannot_run_are_refused():
    with pytest.raises(BadInput, match="--encoder mobilenet_v3: has no stages that give maps"):
        MultimodalModel(shapes_for(("audio", "visual")), 3, "mobilenet_v3", "mmtm")
    with pytest.raises(BadInput, match="--encoder cnn: has no stages that give tokens"):
        MultimodalModel(shapes_for(("audio", "visual")), 3, "cnn", "mbt")


def tokens_of(**modalities):
    """(vit_tiny's encoders, one picture of every modality) for MBT."""
    torch.manual_seed(0)
    model = MultimodalModel(shapes_for(modalities), 3, "vit_tiny", "mbt")
    clips = {m: torch.randn(2, 1, 1, *size) for m, size in modalities.items()}
    return model.eval(), clips


def test_without_a_bottleneck_layer_modalities_meet_in_the_head_alone():
    """Cut off by infinite negative attention is hard to build; a fusion after the last layer is."""
    model, clips = tokens_of(audio=(28, 20), visual=(28, 28))
    late = MultimodalModel(shapes_for(("audio", "visual")), 3, "vit_tiny").eval()
    late.encoders, late.heads, late.fusion.linear = model.encoders, model.heads, model.fusion.linear
    model.fusion.first = 6
    mixed, expected = model(clips)[0], late(clips)[0]
    for branch in expected:
        torch.testing.assert_close(mixed[branch], expected[branch], rtol=1e-4, atol=1e-5)


def test_mbt_follows_its_formula():
    model, clips = tokens_of(audio=(28, 20), visual=(28, 28))
    encoders, fusion = model.encoders, model.fusion
    x = {m: e.begin(clips[m]) for m, e in encoders.items()}
    for number in range(4):
        x = {m: e.stages[number](x[m]) for m, e in encoders.items()}
    z = fusion.bottleneck.expand(2, -1, -1)
    assert fusion.first == 4 and z.shape[1] == 4
    for number in (4, 5):
        after = {m: e.stages[number](torch.cat([x[m], z], 1)) for m, e in encoders.items()}
        x = {m: after[m][:, : x[m].shape[1]] for m in x}
        z = (after["audio"][:, -4:] + after["visual"][:, -4:]) / 2
    features = {m: e.trunk.encoder.ln(x[m])[:, 0] for m, e in encoders.items()}
    logits, fused_features = fusion(encoders, clips)
    for modality, feature in features.items():
        torch.testing.assert_close(fused_features[modality], feature)
    torch.testing.assert_close(logits, fusion.linear(torch.cat(list(features.values()), 1)))


@pytest.mark.parametrize(
    "argv, message",
    [
        (dict(mbt_layer=6), "--mbt_layer 6: the encoders have layers 0 to 5"),
        (dict(mbt_tokens=0), "--mbt_tokens 0: must be at least 1"),
    ],
)
def test_mbt_flags_out_of_range(argv, message):
    with pytest.raises(BadInput, match=message):
        MultimodalModel(shapes_for("ab"), 3, "vit_tiny", "mbt", argv)


def test_centralnet_follows_its_formula_and_leaves_the_encoders_apart():
    torch.manual_seed(0)
    model = MultimodalModel(shapes_for(("audio", "visual")), 3, "cnn", "centralnet").eval()
    clips = {"audio": torch.randn(2, 1, 48, 32), "visual": torch.randn(2, 1, 32, 32)}
    late = MultimodalModel(shapes_for(("audio", "visual")), 3, "cnn").eval()
    late.encoders = model.encoders
    logits, features = model(clips)
    for modality, expected in late(clips)[1].items():
        torch.testing.assert_close(features[modality], expected)
    alpha, c = model.fusion.alpha, None
    assert torch.allclose(alpha, torch.tensor(1 / 3))
    x = dict(clips)
    for number, layer in enumerate(model.fusion.layers):
        x = {m: e.stages[number](x[m]) for m, e in model.encoders.items()}
        size = x["visual"].shape[2:]  # the smaller
        pooled = nn.functional.adaptive_avg_pool2d(x["audio"], size)
        fed = alpha[number, 0] * pooled + alpha[number, 1] * x["visual"]
        if c is not None:
            fed = fed + alpha[number, 2] * nn.functional.adaptive_avg_pool2d(c, size)
        c = layer(fed)
    torch.testing.assert_close(logits["multimodal"], model.fusion.linear(c.mean((2, 3))))


def test_centralnet_needs_encoders_of_the_same_widths():
    with pytest.raises(BadInput, match="--fusion centralnet: needs encoders with the same widths"):
        MultimodalModel(shapes_for("ab"), 3, "a=cnn,b=resnet18", "centralnet")
