"""Methods that look at each loss's gradient: formulas on small cases, limits, zero gradients."""

import sys

import pytest
import torch
from steps import build_method, shapes_for, take_step
from torch import nn
from torch.nn.functional import cross_entropy

from methods import ForwardPass, gradnorm, nash_mtl, pcgrad
from methods._per_loss import PerLoss
from mmpareto import cosines, least_norm_weights
from models.multimodal import MultimodalModel
from utils import registry

PER_LOSS = [
    name
    for name in registry.names("methods")
    if issubclass(registry.load_class("methods", name, ""), PerLoss)
]


class Encoders(nn.Module):
    """Encoders that are one vector each; the losses are linear in them, so gradients are given."""

    def __init__(self, **gradients):
        super().__init__()
        self.rows = gradients  # {modality: {loss: gradient}}
        self.encoders = nn.ParameterDict(
            {m: torch.zeros_like(next(iter(rows.values()))) for m, rows in gradients.items()}
        )

    def groups(self, losses):
        return {m: [p] for m, p in self.encoders.items()}

    def losses(self):
        names = dict.fromkeys(name for rows in self.rows.values() for name in rows)
        return {
            name: sum(
                p @ self.rows[m][name] for m, p in self.encoders.items() if name in self.rows[m]
            )
            for name in names
        }


def step(method, *gradients, values=(0, 0, 0)):
    """.grad of one encoder on which the losses have these gradients, and these values."""
    names = ["multimodal", "audio", "other"][: len(gradients)]
    model = Encoders(audio=dict(zip(names, gradients)))
    target = torch.zeros(4, dtype=torch.long)
    logits = {name: torch.zeros(4, 3) for name in names}
    losses = {name: loss + value for (name, loss), value in zip(model.losses().items(), values)}
    diagnostics = take_step(method, model, ForwardPass(losses, logits, {}, target, 0))
    assert all(torch.isfinite(v) for v in diagnostics.values())
    return model.encoders["audio"].grad


def vectors(n, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator).double() for _ in range(n)]


def conflicting(seed=1):
    first, second = vectors(2, seed)
    return first, -0.7 * first + 0.5 * second


ORTHOGONAL = [torch.eye(6).double()[i] * 2 for i in range(3)]


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", PER_LOSS)
def test_a_common_factor_comes_through(name, n):
    given = vectors(n, 3)
    unscaled = step(build_method(name), *given)
    assert unscaled.isfinite().all() and unscaled.norm() > 0
    for factor in (2.0**-14, 2.0**40):
        scaled = step(build_method(name), *(factor * g for g in given))
        torch.testing.assert_close(scaled / factor, unscaled, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted({*PER_LOSS} - {"random_weights"}))
def test_for_orthogonal_gradients_of_equal_length_every_method_is_the_uniform_baseline(name):
    argv = {"cagrad": ["--cagrad_c", "0"], "mmpareto": ["--gamma", "1"]}.get(name, [])
    for n in (2, 3):
        given = ORTHOGONAL[:n]
        result = step(build_method(name, *argv), *given)
        torch.testing.assert_close(result, sum(given), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PER_LOSS)
def test_zero_and_opposed_gradients_stay_finite(name):
    first = vectors(1)[0]
    zero = torch.zeros_like(first)
    beside_zero = step(build_method(name), first, zero)
    assert beside_zero.isfinite().all() and (beside_zero @ first) >= 0
    for given in ((zero, first), (zero, zero), (first, -first), (zero, zero, first)):
        assert step(build_method(name), *given).isfinite().all()
    assert (step(build_method(name), zero, zero) == 0).all()


@pytest.mark.parametrize("name", PER_LOSS)
def test_together_is_one_decision_for_all_encoders(name):
    one, two, three, four = vectors(4, 5)
    zero = torch.zeros_like(one)
    model = Encoders(
        audio={"multimodal": one, "audio": two}, visual={"multimodal": three, "visual": four}
    )
    target, logits = (
        torch.zeros(4, dtype=torch.long),
        dict.fromkeys(model.losses(), torch.zeros(4, 3)),
    )
    argv = ["--groups", "together"]
    argv += ["--rescale", "encoder"] if name == "mmpareto" else []
    diagnostics = take_step(
        build_method(name, *argv), model, ForwardPass(model.losses(), logits, {}, target, 0)
    )
    assert [k for k in diagnostics if k.startswith("cosine")] == ["cosine/encoders"]
    whole = step(
        build_method(name, *argv),
        torch.cat([one, three]),
        torch.cat([two, zero]),
        torch.cat([zero, four]),
    )
    given = torch.cat([p.grad for p in model.encoders.values()])
    torch.testing.assert_close(given, whole)


# PCGrad


def test_pcgrad_without_conflict_is_the_sum_and_with_it_the_formula():
    first, second = vectors(2, 0)
    second = second if first @ second > 0 else -second
    torch.testing.assert_close(step(build_method("pcgrad"), first, second), first + second)
    first, second = conflicting()
    expected = (
        first
        - (first @ second) / (second @ second) * second
        + second
        - (first @ second) / (first @ first) * first
    )
    torch.testing.assert_close(step(build_method("pcgrad"), first, second), expected)


def test_pcgrad_of_three_follows_the_order_and_the_order_follows_seed_and_epoch():
    gradients = torch.stack([*conflicting(2), vectors(1, 9)[0]])
    gram = gradients @ gradients.T
    orders = torch.tensor([[2, 1, 0], [0, 1, 2], [1, 0, 2]])
    expected = torch.zeros(6).double()
    for i, order in enumerate(orders.tolist()):
        projected = gradients[i].clone()
        for j in order:
            product = projected @ gradients[j]
            if j != i and product < 0:
                projected -= product / (gradients[j] @ gradients[j]) * gradients[j]
        expected += projected
    torch.testing.assert_close(pcgrad.projected(gram, orders) @ gradients, expected)
    method = build_method("pcgrad")
    given = [step(method, *gradients) for _ in range(20)]
    method.start_epoch(0, None, {})
    again = [step(method, *gradients) for _ in range(20)]
    assert all(torch.equal(a, b) for a, b in zip(given, again))


# UPGrad


@pytest.mark.parametrize("n, seed", [(2, 1), (2, 4), (3, 5), (3, 6), (3, 7)])
def test_upgrad_never_ascends(n, seed):
    given = vectors(n, seed, size=3)
    result = step(build_method("upgrad"), *given)
    assert all(result @ g >= -1e-3 * result.norm() * g.norm() for g in given)


def test_upgrad_of_two_is_pcgrad():
    for given in (conflicting(1), conflicting(8), vectors(2, 2)):
        torch.testing.assert_close(
            step(build_method("upgrad"), *given),
            step(build_method("pcgrad"), *given),
            rtol=1e-3,
            atol=1e-3,
        )


# CAGrad


def test_cagrad_with_c_0_is_the_mean_here_n_times_it():
    given = conflicting()
    result = step(build_method("cagrad", "--cagrad_c", "0"), *given)
    torch.testing.assert_close(result, sum(given), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("c", [0.3, 0.8])
def test_cagrad_is_the_best_point_of_its_ball(c):
    given = torch.stack(conflicting(3))
    mean = given.mean(0)
    result = step(build_method("cagrad", "--cagrad_c", str(c)), *given) / 2
    assert (result - mean).norm() <= c * mean.norm() * (1 + 1e-4)
    worst = (given @ result).amin()
    generator = torch.Generator().manual_seed(0)
    ways = torch.randn(20000, 6, generator=generator).double()
    others = mean + c * mean.norm() * ways / ways.norm(dim=1, keepdim=True)
    assert worst >= (others @ given.T).amin(1).amax() - 1e-6


def test_cagrad_for_large_c_points_where_mgda_points():
    given = torch.stack(conflicting(3))
    result = step(build_method("cagrad", "--cagrad_c", "1e4"), *given)
    weights = least_norm_weights(given @ given.T)
    assert torch.cosine_similarity(result, weights @ given, dim=0) > 0.999


# IMTL-G


@pytest.mark.parametrize("n", [2, 3])
def test_imtl_g_projects_alike_on_every_direction(n):
    given = vectors(n, 4)
    result = step(build_method("imtl_g"), *given)
    projections = torch.stack([result @ g / g.norm() for g in given])
    torch.testing.assert_close(projections, projections[:1].expand(n), rtol=1e-6, atol=1e-6)
    weights = torch.linalg.lstsq(torch.stack(given).T, result[:, None]).solution
    assert weights.sum() == pytest.approx(n, abs=1e-6)


def test_imtl_g_of_two_is_the_papers_closed_form():
    a, b = vectors(2, 6)
    difference, directions = a - b, a / a.norm() - b / b.norm()
    share = (a @ directions) / (difference @ directions)  # alpha_2 of the paper
    expected = (1 - share) * a + share * b
    torch.testing.assert_close(
        step(build_method("imtl_g"), a, b), 2 * expected, rtol=1e-6, atol=1e-6
    )


# Aligned-MTL


@pytest.mark.parametrize("n", [2, 3])
def test_aligned_mtl_sums_rows_that_are_orthogonal_and_as_short_as_the_shortest_component(n):
    given = torch.stack(vectors(n, 7))
    u, s, vt = torch.linalg.svd(given, full_matrices=False)
    expected = (s[-1] * u @ vt).sum(0)
    torch.testing.assert_close(
        step(build_method("aligned_mtl"), *given), expected, rtol=1e-6, atol=1e-6
    )


# Nash-MTL


@pytest.mark.parametrize("n, seed", [(2, 0), (2, 1), (3, 2), (3, 3)])
def test_nash_solves_its_equation(n, seed):
    given = torch.stack(vectors(n, seed))
    lengths = given.norm(dim=1)
    b = nash_mtl.bargained(cosines(given @ given.T))
    a = b / lengths
    torch.testing.assert_close(given @ given.T @ a, 1 / a, rtol=1e-6, atol=1e-6)
    result = step(build_method("nash_mtl"), *given)
    torch.testing.assert_close(result, n * (a / a.sum()) @ given, rtol=1e-6, atol=1e-6)
    assert (given @ result > 0).all()  # every loss gains


def test_nash_of_two_weighs_by_length_alone():
    first, second = conflicting()
    result = step(build_method("nash_mtl"), first, second)
    wanted = first / first.norm() + second / second.norm()
    torch.testing.assert_close(result / result.norm(), wanted / wanted.norm())
    torch.testing.assert_close(step(build_method("nash_mtl"), first, 0 * first), first)


# MetaBalance


def test_metabalance_follows_its_formula_over_two_steps():
    method = build_method("metabalance", "--metabalance_relax", "0.6", "--metabalance_beta", "0.8")
    averages = torch.zeros(3).double()
    for seed in (0, 1):
        given = vectors(3, seed)
        averages = 0.8 * averages + 0.2 * torch.stack([g.norm() for g in given])
        factors = [1] + [float(0.6 * averages[0] / a + 0.4) for a in averages[1:]]
        result = step(method, *given)
        torch.testing.assert_close(result, sum(f * g for f, g in zip(factors, given)))
    copy = build_method("metabalance", "--metabalance_relax", "0.6", "--metabalance_beta", "0.8")
    copy.load_state_dict(method.state_dict())
    given = vectors(3, 2)
    assert torch.equal(step(copy, *given), step(method, *given))


def test_metabalance_limits():
    first, second = conflicting()
    equal = second / second.norm() * first.norm()
    torch.testing.assert_close(step(build_method("metabalance"), first, equal), first + equal)
    idle = build_method("metabalance", "--metabalance_relax", "0")
    torch.testing.assert_close(step(idle, first, second), first + second)
    full = build_method("metabalance", "--metabalance_relax", "1")
    torch.testing.assert_close((step(full, first, 9 * second) - first).norm(), first.norm())


# GradNorm


def test_gradnorm_moves_the_weights_by_its_formula():
    weights = gradnorm.updated(
        torch.ones(2).double(),
        torch.tensor([3.0, 1.0]).double(),
        torch.tensor([1.0, 1.0]).double(),
        alpha=1.5,
        eta=0.1,
    )
    # norms over their mean: 1.5 and 0.5, both targets 1: 1 - 0.1 * 1.5 = 0.85, 1 + 0.1 * 0.5 = 1.05
    torch.testing.assert_close(weights, torch.tensor([0.85, 1.05]).double() * 2 / 1.9)
    slow = gradnorm.updated(
        torch.ones(2).double(), torch.ones(2).double(), torch.tensor([2.0, 1.0]).double(), 1.0, 0.1
    )
    assert slow[0] > 1 > slow[1] and slow.sum() == pytest.approx(2)


def test_gradnorm_uses_and_keeps_its_weights():
    first, second = conflicting()
    method = build_method("gradnorm", "--gradnorm_lr", "0.1")
    torch.testing.assert_close(step(method, first, 4 * second), first + 4 * second)  # weights 1
    weights = method.state_dict()["audio"]
    assert weights[0] > weights[1]  # the long gradient is held back
    copy = build_method("gradnorm", "--gradnorm_lr", "0.1")
    copy.load_state_dict(method.state_dict())
    result = step(copy, first, second)
    torch.testing.assert_close(result, weights[0] * first + weights[1] * second)
    frozen = build_method("gradnorm", "--gradnorm_lr", "0")
    for _ in range(2):
        torch.testing.assert_close(step(frozen, first, second), first + second)


def test_gradnorm_gives_the_slower_loss_the_longer_gradient():
    first, second = ORTHOGONAL[:2]
    method = build_method("gradnorm")
    for _ in range(50):
        result = step(method, first, second, values=(1.1, 0.1))
    assert result @ first > 1.2 * result @ second


# MGDA-UB


class Linear(nn.Module):
    """Encoders that are matrices times the input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({m: nn.Linear(4, 5).double() for m in ("audio", "visual")})
        self.heads = nn.ModuleDict({m: nn.Linear(5, 3).double() for m in self.encoders})
        self.fusion = nn.Linear(10, 3).double()

    def forward(self, inputs):
        features = {m: encoder(inputs[m]) for m, encoder in self.encoders.items()}
        logits = {"multimodal": self.fusion(torch.cat(list(features.values()), 1))}
        return logits | {m: self.heads[m](f) for m, f in features.items()}, features

    def encoder_parameters(self):
        return {m: list(e.parameters()) for m, e in self.encoders.items()}

    def groups(self, losses):
        return self.encoder_parameters()


def mgda_ub_step(model, inputs, target):
    logits, features = model(inputs)
    losses = {name: cross_entropy(x, target) for name, x in logits.items()}
    method = build_method("mgda_ub")
    diagnostics = take_step(method, model, ForwardPass(losses, logits, features, target, 0))
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return gradients, diagnostics


def test_mgda_ub_is_the_weighted_sum_with_weights_of_least_norm_at_the_features():
    model, target = Linear(), torch.tensor([0, 1, 2, 1])
    inputs = {m: torch.randn(4, 4).double() for m in model.encoders}
    gradients, diagnostics = mgda_ub_step(model, inputs, target)
    logits, features = model(inputs)
    losses = {name: cross_entropy(x, target) for name, x in logits.items()}
    for m in model.encoders:
        a, b = (
            torch.autograd.grad(losses[k], features[m], retain_graph=True)[0].flatten()
            for k in ("multimodal", m)
        )
        share = (((b - a) @ b) / (a - b).square().sum()).clamp(0, 1)
        torch.testing.assert_close(diagnostics[f"weight/{m}/multimodal"], share)
        expected = torch.autograd.grad(
            2 * share.detach() * losses["multimodal"] + 2 * (1 - share.detach()) * losses[m],
            list(model.encoders[m].parameters()),
            retain_graph=True,
        )
        for p, wanted in zip(("weight", "bias"), expected):
            torch.testing.assert_close(gradients[f"encoders.{m}.{p}"], wanted)
    total = sum(losses.values())
    for name in ("fusion.weight", "heads.audio.weight"):
        wanted = torch.autograd.grad(total, model.get_parameter(name), retain_graph=True)[0]
        torch.testing.assert_close(gradients[name], wanted)


def test_mgda_ub_equals_pareto_where_the_jacobian_is_orthogonal():
    """One sample whose features are free parameters: d features / d bias is the identity."""
    model, target = Linear(), torch.tensor([1])
    for encoder in model.encoders.values():
        encoder.weight.requires_grad_(False)
    inputs = {m: torch.randn(1, 4).double() for m in model.encoders}
    logits, features = model(inputs)
    losses = {name: cross_entropy(x, target) for name, x in logits.items()}
    take_step(build_method("pareto"), model, ForwardPass(losses, logits, features, target, 0))
    exact = {m: e.bias.grad.clone() for m, e in model.encoders.items()}
    model.zero_grad()
    logits, features = model(inputs)
    losses = {name: cross_entropy(x, target) for name, x in logits.items()}
    method = build_method("mgda_ub")
    take_step(method, model, ForwardPass(losses, logits, features, target, 0))
    for m, encoder in model.encoders.items():
        torch.testing.assert_close(encoder.bias.grad, exact[m])


# Bad input


@pytest.mark.parametrize(
    "name, argv, message",
    [
        ("cagrad", ["--cagrad_c", "-1"], "--cagrad_c -1.0: must be at least 0"),
        ("metabalance", ["--metabalance_relax", "2"], "--metabalance_relax 2.0: must be within"),
        ("metabalance", ["--metabalance_beta", "1"], "--metabalance_beta 1.0: must be within"),
        ("gradnorm", ["--gradnorm_alpha", "-1"], "--gradnorm_alpha -1.0: must be at least 0"),
        ("gradnorm", ["--gradnorm_lr", "nan"], "--gradnorm_lr nan: must be at least 0"),
    ],
)
def test_flags_out_of_range_are_named(name, argv, message):
    with pytest.raises(ValueError, match=message):
        build_method(name, *argv)


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ValueError, match=r"needs TorchJD, pip install 'torchjd\[cagrad\]'"):
        build_method("cagrad")


def test_three_modalities_train():
    torch.manual_seed(0)
    for name in PER_LOSS:
        model = MultimodalModel(shapes_for(("audio", "visual", "flow")), 3)
        inputs = {m: torch.randn(4, 1, 32, 32) for m in model.encoders}
        target = torch.tensor([0, 1, 2, 0])
        logits, features = model(inputs)
        losses = {k: cross_entropy(x, target) for k, x in logits.items()}
        diagnostics = take_step(
            build_method(name), model, ForwardPass(losses, logits, features, target, 0)
        )
        assert {f"cosine/{m}" for m in model.encoders} <= diagnostics.keys()
