"""Encoders that are frozen, in whole or in part, that have nothing to train, or that leave layers
out of a step: every method trains what there is, and reports only finite numbers."""

import random

import pytest
import torch
from steps import build_method, fusion_for, load_method, take_step
from torch import nn
from torch.nn.functional import cross_entropy
from toy import CLASSES, Given, Toy

from methods._per_loss import PerLoss
from models.encoders import Encoder
from models.metrics import check_trained
from utils import registry
from utils.errors import BadInput

METHODS = registry.names("methods")
PER_LOSS = [name for name in METHODS if issubclass(load_method(name), PerLoss)]
MODALITIES = ("audio", "visual", "flow")
KINDS = ("whole", "frozen", "half frozen", "some layers left out", "all left out", "no parameters")
WIDTH = 4


class Layer(nn.Module):
    """x + tanh(convolution of x), or x alone where it is left out of a step, as by LayerDrop."""

    def __init__(self):
        super().__init__()
        self.convolution, self.is_left_out = nn.Conv2d(WIDTH, WIDTH, 1), False

    def forward(self, x):
        return x if self.is_left_out else x + self.convolution(x).tanh()


class Layers(Encoder):
    """Three layers, or stages without parameters; features are means over the picture."""

    stage_widths, feature_dim = (WIDTH,) * 3, WIDTH

    def __init__(self, has_parameters=True):
        super().__init__()
        self.stages = nn.ModuleList(Layer() if has_parameters else nn.Tanh() for _ in range(3))

    def pool(self, x, batch):
        return x.mean((2, 3))


class Model(Toy):
    """kinds: {modality: one of KINDS}."""

    def __init__(self, kinds, fusion, draw):
        super().__init__(list(kinds))
        layers = {m: Layers(kind != "no parameters") for m, kind in kinds.items()}
        self.encoders, self.draw, self.kinds = nn.ModuleDict(layers), draw, kinds
        self.heads = nn.ModuleDict({m: nn.Linear(WIDTH, CLASSES) for m in kinds})
        build = registry.load_class("models/fusion", fusion, "")
        given = self.encoders if fusion == "mmtm" else dict.fromkeys(kinds, WIDTH)
        self.fusion = build(given, CLASSES) if len(kinds) > 1 else None
        self.double()
        for m, kind in kinds.items():
            if kind == "frozen" and self.fusion is not None:  # then its loss needs no gradient
                self.heads[m].requires_grad_(False)
            if "frozen" in kind:
                parameters = list(self.encoders[m].parameters())
                count = len(parameters) if kind == "frozen" else draw.randint(1, 5)
                for p in draw.sample(parameters, count):
                    p.requires_grad_(False)

    def forward(self, inputs):
        if self.fusion is None:
            (modality,) = self.encoders
            features = {modality: self.encoders[modality](inputs[modality])}
            return {modality: self.heads[modality](features[modality])}, features
        return super().forward(inputs)

    def draw_layers(self):
        """Which layers the step to come leaves out."""
        for m, kind in self.kinds.items():
            for layer in self.encoders[m].stages if "left out" in kind else ():
                layer.is_left_out = kind == "all left out" or self.draw.random() < 0.5

    def batch(self, seed=0, size=8):
        generator = torch.Generator().manual_seed(seed)
        size = (size, WIDTH, 2, 2)
        inputs = {m: torch.randn(size, generator=generator).double() for m in self.encoders}
        return inputs, torch.arange(size[0]) % CLASSES


def gradients(loss, parameters):
    """None where the loss does not reach a parameter."""
    trained = [p for p in parameters if p.requires_grad]
    options = dict(retain_graph=True, allow_unused=True)
    of = dict(zip(trained, torch.autograd.grad(loss, trained, **options) if trained else ()))
    return [of.get(p) for p in parameters]


def factors_of_ogm(scores):
    """alpha = 0.1, see methods/ogm.py."""
    factors = {}
    for m, score in scores.items():
        ratio = score / torch.stack([v for k, v in scores.items() if k != m]).mean()
        factors[m] = 1 - (0.1 * ratio).tanh() if ratio > 1 else 1
    return factors


def pairwise(multimodal, own):
    """MMPareto's rule for two gradients, each a list with None where a tensor is not reached."""
    reached = [i for i, g in enumerate(multimodal) if g is not None]
    if not reached:
        return multimodal
    a, b = (torch.cat([gs[i].flatten() for i in reached]) for gs in (multimodal, own))
    share = 0.5 if a @ b > 0 else ((b - a) @ b / (a - b).square().sum()).clamp(0, 1)
    result = list(multimodal)
    for i in reached:
        h = 2 * share * multimodal[i] + 2 * (1 - share) * own[i]
        length = (multimodal[i] + own[i]).norm()
        result[i] = 1.5 * h * (length / h.norm() if length > h.norm() else 1)
    return result


def expected_gradients(name, model, forward, average):
    """{parameter: gradient} by an independent formula; None for methods that have none here."""
    parameters, losses = dict(model.named_parameters()), forward.losses
    loss = sum(losses.values()) if load_method(name).trains_unimodal_heads else forward.joint_loss
    plain = dict(zip(parameters, gradients(loss, parameters.values())))
    if name in ("uniform", "joint"):
        return plain
    if name in ("ogm", "agm") and model.fusion is not None:
        parts = model.fusion.unimodal(forward.features)
        target = forward.target
        if name == "ogm":
            scores = {m: x.softmax(1)[range(len(x)), target].sum() for m, x in parts.items()}
            factors = factors_of_ogm(scores)
        else:
            scores = torch.stack([cross_entropy(x, target) for x in parts.values()]).detach()
            average.append(scores)
            mean, n = torch.stack(average).mean(0), len(scores) - 1
            usual, now = (((x.sum() - x) / n - x).exp() for x in (mean, scores))
            factors = dict(zip(parts, (usual - now).clamp(max=10).exp()))
        for key, gradient in plain.items():
            room, modality, *_ = key.split(".")
            if room == "encoders" and gradient is not None:
                plain[key] = factors[modality] * gradient
        if name == "agm":  # the parts of the head as well, the bias by the mean
            parts = plain["fusion.linear.weight"].split([*model.fusion.widths.values()], 1)
            scaled = [factor * part for factor, part in zip(factors.values(), parts)]
            plain["fusion.linear.weight"] = torch.cat(scaled, 1)
            mean = sum(factors.values()) / len(factors)
            plain["fusion.linear.bias"] = mean * plain["fusion.linear.bias"]
        return plain
    if name in ("published", "mmpareto") and model.fusion is not None:
        for m in model.encoders:
            own = {k: p for k, p in parameters.items() if k.startswith(f"encoders.{m}.")}
            pair = [gradients(losses[branch], own.values()) for branch in ("multimodal", m)]
            plain |= dict(zip(own, pairwise(*pair)))
        return plain
    return None


def check(name, kinds, fusion, draw, steps=2):
    model, method = Model(kinds, fusion, draw), build_method(name)
    loaders = dict.fromkeys(("train", "train_plain", "val"), [model.batch(seed=9)])
    method.start_epoch(2, model, loaders)
    model.train()
    average = []
    for seed in range(steps):
        model.zero_grad()
        model.draw_layers()
        forward = model.forward_pass(model.batch(seed), epoch=2)
        is_late = fusion != "mmtm"
        expected = expected_gradients(name, model, forward, average) if is_late else None
        of_all = load_method(name).trains_unimodal_heads
        loss = sum(forward.losses.values()) if of_all else forward.joint_loss
        reached = gradients(loss, list(model.parameters()))
        diagnostics = take_step(method, model, forward)
        for key, value in diagnostics.items():
            assert value.ndim == 0 and value.isfinite() and not value.requires_grad, key
        for (key, p), by_autograd in zip(model.named_parameters(), reached):
            assert (p.grad is None) == (by_autograd is None), key
            assert p.grad is None or p.grad.isfinite().all(), key
        if expected is not None:
            given = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
            expected = {k: g for k, g in expected.items() if g is not None}
            torch.testing.assert_close(given, expected)
        with torch.no_grad():
            for p in (p for p in model.parameters() if p.grad is not None):
                p -= 0.1 * p.grad
    method.load_state_dict(method.state_dict())


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_whatever_kind_one_or_all_encoders_are_of(name, count):
    for kind in KINDS:
        for others in {"whole", kind}:
            kinds = dict(zip(MODALITIES, [kind] + [others] * (count - 1)))
            check(name, kinds, fusion_for(name), random.Random(kind))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_any_mixture_of_kinds(name, fuzz):
    late_only = {"late_fusion", "unimodal_logits"} & load_method(name).needs
    for seed in fuzz[::4]:
        draw = random.Random(seed)
        kinds = {m: draw.choice(KINDS) for m in MODALITIES[: draw.randint(2, 3)]}
        fusion = "mmtm" if draw.random() < 0.5 and not late_only else fusion_for(name)
        check(name, kinds, fusion, draw)


@pytest.mark.parametrize("name", PER_LOSS)
def test_which_losses_reach_an_encoder_may_change_from_step_to_step(name):
    """What a method remembers of a loss is of that loss, not of a place in a list."""
    rows = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).double()
    of_all = dict(zip(("multimodal", "audio", "visual"), rows))
    method = build_method(name)
    for left_out in ("audio", "", "visual", "multimodal", "audio"):
        given = {loss: row for loss, row in of_all.items() if loss != left_out}
        model = Given(audio=given)
        diagnostics = take_step(method, model, model.forward_pass())
        assert all(value.isfinite() for value in diagnostics.values())
        assert {f"norm/audio/{loss}" for loss in given} <= diagnostics.keys()
        assert model.encoders["audio"].grad.isfinite().all()


def test_metabalance_averages_the_norms_of_the_steps_in_which_a_loss_was_there():
    method, g = build_method("metabalance", "--metabalance_beta", "0.5"), torch.ones(1).double()
    steps = [dict(multimodal=g, audio=2 * g, visual=4 * g), dict(multimodal=g, visual=8 * g)]
    for given in steps:
        model = Given(audio=given)
        take_step(method, model, model.forward_pass())
    averages = {"multimodal": 0.75, "audio": 1.0, "visual": 5.0}
    assert method.memory == {"audio": averages}


def test_a_run_of_which_nothing_is_trained_is_refused():
    with pytest.raises(BadInput, match="multimodal loss reaches no parameter that is trained"):
        check_trained({"multimodal": torch.ones(()), "audio": torch.ones((), requires_grad=True)})
    check_trained({"multimodal": torch.ones((), requires_grad=True)})
