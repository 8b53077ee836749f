"""Fusions: their formulas, their limits, and which encoders they refuse."""

import pytest
import torch
from steps import shapes_for
from torch import nn
from toy import Toy

from models.fusion.cosine import Fusion as CosineFusion
from models.fusion.mmtm import Gates
from models.multimodal import MultimodalModel
from utils import registry
from utils.errors import BadInput

PAIR = ("audio", "visual")
PICTURES = {"audio": torch.randn(2, 1, 28, 20), "visual": torch.randn(2, 1, 28, 28)}


def build(encoder, fusion):
    torch.manual_seed(0)
    return MultimodalModel(shapes_for(PAIR), 3, encoder, fusion).eval()


def late_with_layers_of(model, encoder):
    """The same encoders and head, modalities meeting in the head alone."""
    late = build(encoder, "concat")
    late.encoders, late.heads, late.fusion.linear = model.encoders, model.heads, model.fusion.linear
    return late


def test_unimodal_parts_add_up_to_the_fused_logits():
    model = Toy(("audio", "visual", "flow"))
    features = model.forward_pass(model.batch()).features
    parts = model.fusion.unimodal(features)
    torch.testing.assert_close(sum(parts.values()), model.fusion(features))
    alone = model.fusion({m: f if m == "visual" else 0 * f for m, f in features.items()})
    bias = model.fusion.linear.bias
    torch.testing.assert_close(parts["visual"], alone - bias + bias / 3)


def test_the_cosine_fusion_knows_no_lengths():
    torch.manual_seed(0)
    fusion = CosineFusion({"audio": 4, "visual": 6}, 3)
    features = {"audio": torch.randn(5, 4), "visual": torch.randn(5, 6)}
    parts = {
        m: 10 * torch.cosine_similarity(fusion.weights[m].weight, x[:, None], dim=2)
        for m, x in features.items()
    }
    torch.testing.assert_close(fusion.unimodal(features), parts)
    torch.testing.assert_close(fusion(features), sum(parts.values()))
    features["audio"] *= 7
    torch.testing.assert_close(fusion(features), sum(parts.values()))


def test_gates_follow_their_formula():
    torch.manual_seed(0)
    gates = Gates({"audio": 2, "visual": 3}, reduction=5).double()
    maps = {"audio": torch.randn(2, 2, 4, 5).double(), "visual": torch.randn(6, 3, 2, 2).double()}
    clips = maps["visual"].view(2, 3, 3, 2, 2)  # the picture has three frames
    squeezed = torch.cat([maps["audio"].mean((2, 3)), clips.mean((1, 3, 4))], 1)
    z = (squeezed @ gates.squeeze.weight.T + gates.squeeze.bias).relu()
    assert z.shape == (2, 2 * 5 // 5)
    for modality, gate in gates(maps, batch=2).items():
        layer = gates.excite[modality]
        expected = 2 / (1 + torch.exp(-(z @ layer.weight.T + layer.bias)))
        torch.testing.assert_close(gate, expected)


def test_open_gates_are_late_fusion():
    """With all gates at 1 the model is concat's."""
    model = build("cnn", "mmtm")
    late = late_with_layers_of(model, "cnn")
    for gates in model.fusion.gates:
        for layer in gates.excite.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # 2 sigmoid(0) = 1
    clips = {"audio": torch.randn(2, 1, 32, 32), "visual": torch.randn(2, 3, 1, 32, 32)}
    gated, expected = model(clips)[0], late(clips)[0]
    torch.testing.assert_close(gated, expected)


def test_without_a_bottleneck_layer_modalities_meet_in_the_head_alone():
    """With the exchange put behind the last layer the model is concat's."""
    model = build("vit_tiny", "mbt")
    late = late_with_layers_of(model, "vit_tiny")
    model.fusion.first = 6
    mixed, expected = model(PICTURES)[0], late(PICTURES)[0]
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


def test_mbt_follows_its_formula():
    model = build("vit_tiny", "mbt")
    encoders, fusion = model.encoders, model.fusion
    x = {m: e.begin(PICTURES[m]) for m, e in encoders.items()}
    for number in range(4):
        x = {m: e.stages[number](x[m]) for m, e in encoders.items()}
    z = fusion.bottleneck.expand(2, -1, -1)
    assert fusion.first == 4 and z.shape[1] == 4
    for number in (4, 5):
        after = {m: e.stages[number](torch.cat([x[m], z], 1)) for m, e in encoders.items()}
        x = {m: after[m][:, : x[m].shape[1]] for m in x}
        z = (after["audio"][:, -4:] + after["visual"][:, -4:]) / 2
    features = {m: e.trunk.encoder.ln(x[m])[:, 0] for m, e in encoders.items()}
    logits, fused_features = fusion(encoders, PICTURES)
    torch.testing.assert_close(fused_features, features)
    torch.testing.assert_close(logits, fusion.linear(torch.cat(list(features.values()), 1)))


def test_the_last_layers_of_mbt_have_the_bottleneck():
    encoders = build("vit_tiny", "concat").encoders  # of 6 layers
    fusion = registry.load_class("models/fusion", "mbt", "--fusion")
    assert [fusion(encoders, 5, mbt_layers=n).first for n in (1, 2, 6, None)] == [5, 4, 0, 4]
    for layers in (0, 7):
        with pytest.raises(ValueError, match=f"--mbt_layers {layers}: must be 1 to 6, as many"):
            fusion(encoders, 5, mbt_layers=layers)


def test_centralnet_follows_its_formula_and_leaves_the_encoders_apart():
    model = build("cnn", "centralnet")
    alpha, c = model.fusion.alpha, None
    assert torch.allclose(alpha, torch.tensor(1 / 3))
    nn.init.uniform_(alpha)
    logits, features = model(PICTURES)
    expected = {m: encoder(PICTURES[m]) for m, encoder in model.encoders.items()}
    torch.testing.assert_close(features, expected)
    x = PICTURES
    for number, layer in enumerate(model.fusion.layers):
        x = {m: e.stages[number](x[m]) for m, e in model.encoders.items()}
        size = x["audio"].shape[2:]  # the smaller
        pooled = nn.functional.adaptive_avg_pool2d(x["visual"], size)
        fed = alpha[number, 0] * x["audio"] + alpha[number, 1] * pooled
        if c is not None:
            fed = fed + alpha[number, 2] * nn.functional.adaptive_avg_pool2d(c, size)
        c = layer(fed)
    torch.testing.assert_close(logits["multimodal"], model.fusion.linear(c.mean((2, 3))))


def test_encoders_without_stages_for_the_fusion_are_refused():
    with pytest.raises(BadInput, match="--encoder cnn: has no stages that give tokens"):
        build("cnn", "mbt")


def late(name, widths, **flags):
    torch.manual_seed(0)
    return registry.load_class("models/fusion", name, "")(widths, 3, **flags).double()


@pytest.mark.parametrize("by, other", [PAIR, PAIR[::-1]])
def test_conditioned_by_one_modality_film_and_gated_are_those_of_ogm(by, other):
    """By what stands in its models/fusion_modules.py: x_film, x_gate where x is audio."""
    widths = {"audio": 4, "visual": 6}
    features = {m: torch.randn(5, d).double() for m, d in widths.items()}
    x, y = features[by], features[other]
    film, gated = late("film", widths, film_by=by), late("gated", widths, gated_by=by)
    shapes = {n: tuple(p.shape) for n, p in film.named_parameters()}
    assert shapes["film.weight"] == (2 * widths[other], widths[by])
    assert film.film.weight.abs().min() > 0 and len(shapes) == 4
    conditions = x @ film.film.weight.T + film.film.bias
    scale, shift = conditions[:, : widths[other]], conditions[:, widths[other] :]
    expected = (scale * y + shift) @ film.linear.weight.T + film.linear.bias
    torch.testing.assert_close(film(features), expected)

    assert {n.split(".")[1] for n, _ in gated.values.named_parameters(prefix="v")} == {other}
    U, G = gated.values[other], gated.gates[by]
    gate = 1 / (1 + (-(x @ G.weight.T + G.bias)).exp())
    expected = ((y @ U.weight.T + U.bias) * gate) @ gated.linear.weight.T + gated.linear.bias
    torch.testing.assert_close(gated(features), expected)


@pytest.mark.parametrize("modalities", [PAIR, ("audio", "visual", "flow")])
def test_gated_follows_its_formula_in_all_directions(modalities):
    gated = late("gated", dict.fromkeys(modalities, 4))
    features = {m: torch.randn(5, 4).double() for m in modalities}
    gates = {m: gated.gates[m](features[m]).sigmoid() for m in modalities}
    total = 0
    for m in modalities:
        others = [gates[j] for j in modalities if j != m]
        total = total + gated.values[m](features[m]) * sum(others) / len(others)
    torch.testing.assert_close(gated(features), gated.linear(total / len(modalities)))


@pytest.mark.parametrize("name", ["film", "gated"])
@pytest.mark.parametrize("by, modalities", [("flow", PAIR), ("audio", ("audio", "visual", "flow"))])
def test_one_modality_conditions_just_one_other(name, by, modalities):
    flags, rule = {f"{name}_by": by}, f"--{name}_by {by}: needs two modalities, this one and anothe"
    with pytest.raises(BadInput, match=rule):
        MultimodalModel(shapes_for(modalities), 3, "cnn", name, flags)
