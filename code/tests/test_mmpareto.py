"""The step alone: known answers, properties, limits, bad input."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from methods import mmpareto
from methods.mmpareto import LossGradients, integrate, least_norm_weights, mmpareto_backward

GOLDEN = json.loads((Path(__file__).parent / "mmpareto_cases.json").read_text())["cases"]
SHAPES = [(4, 3, 3), (4,), (5, 4), ()]


@pytest.fixture(autouse=True, params=["cpu", "accelerator"])
def path(request, monkeypatch):
    """Everything holds on both ways through `integrate`: the one that may ask the numbers, and the
    one that never does and joins all tensors, as on a GPU."""
    if request.param == "accelerator":
        monkeypatch.setattr(mmpareto, "answers_at_once", lambda tensor: False)
    return request.param


def random_gradients(n, seed, dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
        for _ in range(n)
    ]


def conflicting(n, seed, dtype=torch.float64):
    """Gradients of which the second leans against the first."""
    gradients = random_gradients(n, seed, dtype)
    gradients[1] = [b - 0.7 * a for a, b in zip(gradients[0], gradients[1])]
    return gradients


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors]).double()


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_equals_the_published_logic(case):
    gradients = [[double(t) for t in case[name]] for name in ("multimodal", "unimodal")]
    result, found = integrate(gradients, case["gamma"])
    for ours, theirs in zip(result, case["combined"]):
        torch.testing.assert_close(ours, double(theirs), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["cosine"], double(case["cosine"]), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["weights"], double(case["alpha"]), rtol=1e-12, atol=1e-14)
    scale = double(case["scale_before_gamma"])
    torch.testing.assert_close(found["scale"], scale, rtol=1e-12, atol=1e-14)


def test_golden_cases_hold_both_kinds():
    kinds = {case["cosine"] > 0 for case in GOLDEN}
    assert kinds == {True, False}


@pytest.mark.parametrize("rescale", ["tensor", "encoder", "none"])
def test_without_conflict_gamma_times_the_sum(rescale):
    gradients = random_gradients(2, 0)
    gradients[1] = [b + 2 * a for a, b in zip(*gradients)]
    result, found = integrate(gradients, 1.5, rescale)
    assert found["cosine"] > 0
    torch.testing.assert_close(found["scale"], torch.ones(len(SHAPES), dtype=torch.float64))
    for h, a, b in zip(result, *gradients):
        torch.testing.assert_close(h, 1.5 * (a + b), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_in_conflict_the_encoder_step_descends_every_loss(n, seed):
    gradients = conflicting(n, seed)
    result, found = integrate(gradients, 1.5, "encoder")
    assert found["cosine"] <= 0
    h = flat(result)
    for i, g in enumerate(gradients):
        assert h @ flat(g) > 0
        cosine = h @ flat(g) / (h.norm() * flat(g).norm())
        torch.testing.assert_close(found["descent"][i], cosine, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_between_two_the_interior_optimum_descends_both_alike(seed):
    gradients = conflicting(2, seed)
    result, _ = integrate(gradients, 1.0, "none")
    h = flat(result)
    torch.testing.assert_close(h @ flat(gradients[0]), h @ flat(gradients[1]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(10))
def test_magnitude_is_never_below_that_of_the_sum(seed):
    gradients = conflicting(2, seed)
    total = [a + b for a, b in zip(*gradients)]
    whole, _ = integrate(gradients, 1.0, "encoder")
    torch.testing.assert_close(flat(whole).norm(), flat(total).norm(), rtol=1e-12, atol=0)
    each, found = integrate(gradients, 1.0, "tensor")
    for h, s in zip(each, total):
        assert h.norm() >= s.norm() * (1 - 1e-12)
    assert (found["scale"] >= 1).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_scaling_and_order(seed, rescale):
    gradients = conflicting(3, seed)
    result, found = integrate(gradients, 1.5, rescale)
    # a common factor comes through: a power of two to the last digit
    scaled, _ = integrate([[g * 2.0**40 for g in gs] for gs in gradients], 1.5, rescale)
    assert all(torch.equal(a * 2.0**40, b) for a, b in zip(result, scaled))
    doubled, _ = integrate(gradients, 3.0, rescale)
    for a, b in zip(result, doubled):
        torch.testing.assert_close(2 * a, b, rtol=1e-15, atol=0)
    # the order of the tensors and of the losses does not matter
    backwards, _ = integrate([gs[::-1] for gs in gradients], 1.5, rescale)
    for a, b in zip(result, backwards[::-1]):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    swapped, other = integrate([gradients[i] for i in (2, 0, 1)], 1.5, rescale)
    for a, b in zip(result, swapped):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(other["weights"], found["weights"][[2, 0, 1]], rtol=1e-9, atol=1e-12)


def test_inputs_are_left_alone():
    gradients = conflicting(2, 0)
    before = [[g.clone() for g in gs] for gs in gradients]
    integrate(gradients)
    assert all(torch.equal(a, b) for x, y in zip(gradients, before) for a, b in zip(x, y))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(10))
def test_least_norm_weights_are_optimal(n, seed):
    """Optimality of a convex problem: <h, g_i> >= |h|^2, with equality where alpha_i > 0."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    g *= 10 ** torch.randn(n, 1, generator=generator, dtype=torch.float64)
    norms = g.norm(dim=1)
    weights = least_norm_weights(norms, g @ g.T / norms.outer(norms))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(), double(1.0))
    h = weights @ g
    slack = g @ h - h @ h
    assert (slack >= -1e-9 * norms.max() ** 2).all()
    assert (slack[weights > 1e-9].abs() <= 1e-9 * norms.max() ** 2).all()


def test_two_weights_agree_with_the_general_solver():
    for seed in range(20):
        g = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        norms = g.norm(dim=1)
        cosines = g @ g.T / norms.outer(norms)
        wider = torch.ones(3, 3, dtype=torch.float64)
        wider[:2, :2] = cosines
        with_zero = least_norm_weights(torch.cat([norms, double([0.0])]), wider)
        two = least_norm_weights(norms, cosines)
        torch.testing.assert_close(with_zero[:2], two, rtol=1e-9, atol=1e-12)
        assert with_zero[2] == 0


def test_rank_deficient_gradients():
    """Copies and multiples of one gradient: the shortest point is still found."""
    g = double([1.0, 2.0])
    for rows in ([g, g, g], [g, 2 * g, 3 * g], [g, g, -g]):
        stacked = torch.stack(rows)
        norms = stacked.norm(dim=1)
        weights = least_norm_weights(norms, (stacked @ stacked.T / norms.outer(norms)).clamp(-1, 1))
        shortest = 0 if any(torch.equal(a, -b) for a in rows for b in rows) else norms.min()
        torch.testing.assert_close(
            (weights @ stacked).norm(), double(float(shortest)), atol=1e-7, rtol=0
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ascent_at_any_ratio_of_the_norms(dtype):
    generator = torch.Generator().manual_seed(1)
    decades = 12 if dtype == torch.float32 else 30
    for _ in range(1500):
        g = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        g *= 10 ** ((torch.rand(2, 1, generator=generator, dtype=torch.float64) - 0.5) * decades)
        g = g.to(dtype)
        result, found = integrate([[g[0]], [g[1]]], 1.0, "encoder")
        assert torch.isfinite(result[0]).all()
        if found["cosine"] < -1e-3:
            unit = result[0].double() / result[0].double().norm()
            # the rounding of h itself is all that may stand against a loss
            worst = min(unit @ (x.double() / x.double().norm()) for x in g)
            assert worst > -4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("rescale", ["tensor", "encoder", "none"])
def test_zero_gradients(rescale):
    (some, _), zero = random_gradients(2, 0), [torch.zeros(s, dtype=torch.float64) for s in SHAPES]
    for pair in ([some, zero], [zero, some]):
        result, found = integrate(pair, 1.5, rescale)
        for h, g in zip(result, some):
            torch.testing.assert_close(h, 1.5 * g)
        assert found["cosine"] == 1
    result, found = integrate([zero, zero], 1.5, rescale)
    assert all((h == 0).all() for h in result)
    assert all(torch.isfinite(v).all() for v in found.values())
    # a third loss that does not move the encoder changes nothing between the other two
    pair = conflicting(2, 0)
    with_third, _ = integrate([*pair, zero], 1.5, rescale)
    for a, b in zip(with_third, integrate(pair, 1.5, rescale)[0]):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rescale", ["tensor", "encoder", "none"])
def test_exactly_opposed_gradients_leave_zero(rescale):
    """h = 0: published, inf times 0. A tensor that is zero within a non-zero h stays zero too."""
    (some,) = random_gradients(1, 0)
    for factor in (1.0, 3.0):
        result, found = integrate([some, [-factor * g for g in some]], 1.5, rescale)
        assert all(torch.isfinite(h).all() for h in result)
        assert flat(result).norm() <= 1e-12 * flat(some).norm() or factor != 1
        assert all(torch.isfinite(v).all() for v in found.values())
    left, right = conflicting(2, 1)
    left[1], right[1] = torch.zeros_like(left[1]), torch.zeros_like(right[1])
    result, _ = integrate([left, right], 1.5, rescale)
    assert (result[1] == 0).all() and torch.isfinite(flat(result)).all()


@pytest.mark.parametrize("magnitudes", [(1e-30, 1e-30), (1e30, 1e30), (1e30, 1e-30), (1e-40, 1.0)])
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_tiny_and_huge_in_float32(magnitudes, rescale):
    reference = conflicting(2, 3)
    scaled = [[(g * m).float() for g in gs] for gs, m in zip(reference, magnitudes)]
    result, found = integrate(scaled, 1.5, rescale)
    assert torch.isfinite(flat(result)).all() and flat(result).norm() > 0
    exact, expected = integrate([[g.double() for g in gs] for gs in scaled], 1.5, rescale)
    for a, b in zip(result, exact):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    torch.testing.assert_close(found["cosine"], expected["cosine"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("magnitude", [1e-200, 1e150, 1e300])
def test_extremes_of_float64(magnitude):
    gradients = conflicting(2, 4)
    expected, _ = integrate(gradients)
    result, _ = integrate([[g * magnitude for g in gs] for gs in gradients])
    for a, b in zip(result, expected):
        torch.testing.assert_close(a / magnitude, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    gradients = [[g.to(dtype) for g in gs] for gs in conflicting(2, 5)]
    result, _ = integrate(gradients)
    exact, _ = integrate([[g.double() for g in gs] for gs in gradients])
    for a, b in zip(result, exact):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_is_refused_by_name(bad):
    gradients = random_gradients(2, 0)
    gradients[1][2][0, 0] = bad
    with pytest.raises(FloatingPointError, match="gradient of 1: holds inf or nan"):
        integrate(gradients)
    with pytest.raises(FloatingPointError, match="gradient of visual"):
        integrate(gradients, names=["multimodal", "visual"])
    _, found = integrate(gradients, check_finite=False)
    assert not torch.isfinite(found["norms"][1])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(gamma=0), "gamma: must be > 0, got 0"),
        (dict(gamma=float("nan")), "gamma"),
        (dict(rescale="layer"), "rescale: choose from 'tensor', 'encoder', 'none'; got 'layer'"),
        (dict(solve="maybe"), "solve: choose from"),
        (dict(gradients=[[torch.ones(2)]]), "needs 2 or more lists"),
        (dict(gradients=[[torch.ones(2)], [torch.ones(3)]]), "same tensor shapes"),
        (dict(gradients=[[], []]), "needs 2 or more lists"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        integrate(**{"gradients": random_gradients(2, 0), **change})


class TwoEncoders(nn.Module):
    """Small enough to write its gradients down with autograd.grad."""

    def __init__(self, modalities=("audio", "visual")):
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Linear(3, 4) for m in modalities})
        self.heads = nn.ModuleDict({m: nn.Linear(4, 5) for m in modalities})
        self.fusion = nn.Linear(4 * len(modalities), 5)
        self.double()

    def losses(self, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        target = torch.randint(5, (8,), generator=generator)
        features = {
            m: e(torch.randn(8, 3, generator=generator, dtype=dtype)).tanh()
            for m, e in self.encoders.items()
        }
        logits = {"multimodal": self.fusion(torch.cat(list(features.values()), 1))}
        logits |= {m: head(features[m]) for m, head in self.heads.items()}
        return {name: nn.functional.cross_entropy(x, target) for name, x in logits.items()}

    def encoder_parameters(self):
        return {m: list(e.parameters()) for m, e in self.encoders.items()}


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
def test_backward_fills_encoders_and_heads(modalities):
    model = TwoEncoders(modalities)
    groups = model.encoder_parameters()
    losses = model.losses()
    expected = {}
    for name, parameters in groups.items():
        per_loss = [
            torch.autograd.grad(losses[x], parameters, retain_graph=True)
            for x in ("multimodal", name)
        ]
        expected[name], _ = integrate(per_loss)
    heads = [p for n, p in model.named_parameters() if not n.startswith("encoders")]
    plain = torch.autograd.grad(sum(losses.values()), heads, retain_graph=True)

    diagnostics = mmpareto_backward(losses, groups)
    for name, parameters in groups.items():
        for parameter, gradient in zip(parameters, expected[name]):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-13, atol=1e-15)
        assert {f"cosine/{name}", f"norm/{name}/multimodal", f"weight/{name}/{name}"} <= set(
            diagnostics
        )
    for parameter, gradient in zip(heads, plain):
        torch.testing.assert_close(parameter.grad, gradient)


def test_backward_costs_one_pass_per_loss():
    """How often gradient flows into an encoder; the published step needs 3 each."""
    model = TwoEncoders()
    passes = dict.fromkeys(model.encoders, 0)

    def count(name):
        def hook(gradient):
            passes[name] += 1

        return hook

    for name, encoder in model.encoders.items():
        encoder.weight.register_hook(count(name))
    mmpareto_backward(model.losses(), model.encoder_parameters())
    assert passes == {"audio": 2, "visual": 2}


def test_backward_adds_to_a_gradient_that_is_there():
    model = TwoEncoders()
    mmpareto_backward(model.losses(0), model.encoder_parameters())
    first = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    mmpareto_backward(model.losses(1), model.encoder_parameters())
    second = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for seed in (0, 1):
        mmpareto_backward(model.losses(seed), model.encoder_parameters())
    for p, a, b in zip(model.parameters(), first, second):
        torch.testing.assert_close(p.grad, a + b)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
def test_the_weights_are_solved_once_on_the_accumulated_gradients(modalities):
    """Parts of a batch, each loss times its share: the step of the whole batch."""
    model = TwoEncoders(modalities)
    groups = model.encoder_parameters()

    def parts():
        for seed, share in enumerate([0.5, 0.375, 0.125]):
            yield {name: share * loss for name, loss in model.losses(seed).items()}

    sums = {name: sum(part[name] for part in parts()) for name in model.losses()}
    whole = mmpareto_backward(sums, groups)
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    gradients = LossGradients(groups)
    for part in parts():
        gradients.add(part)
        assert all(p.grad is None for ps in groups.values() for p in ps)
    found = gradients.integrate()
    for p, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-12, atol=1e-15)
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("exponent", [-20, 16, 24])
def test_the_solution_does_not_change_with_the_loss_scale(exponent):
    model = TwoEncoders().float()
    gradients = {}
    for scale in (1.0, 2.0**exponent):
        model.zero_grad()
        losses = {k: scale * v for k, v in model.losses(dtype=torch.float32).items()}
        mmpareto_backward(losses, model.encoder_parameters())
        gradients[scale] = [p.grad / scale for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(*gradients.values()))


def test_unreached_and_frozen_parameters():
    model = TwoEncoders()
    model.encoders["audio"].spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.encoders["audio"].only_multimodal = nn.Parameter(torch.ones((), dtype=torch.float64))
    model.encoders["visual"].weight.requires_grad_(False)
    losses = model.losses()
    losses["multimodal"] = losses["multimodal"] + 2 * model.encoders["audio"].only_multimodal
    mmpareto_backward(losses, model.encoder_parameters(), gamma=1.0, solve="never")
    assert model.encoders["audio"].spare.grad is None
    torch.testing.assert_close(model.encoders["audio"].only_multimodal.grad, double(2.0))
    assert model.encoders["visual"].weight.grad is None
    assert model.encoders["visual"].bias.grad is not None


def test_a_group_that_one_loss_reaches_gets_the_plain_gradient():
    model = TwoEncoders()
    loss = model.losses()["audio"]
    expected = torch.autograd.grad(loss, model.encoder_parameters()["audio"], retain_graph=True)
    assert mmpareto_backward({"audio": loss}, model.encoder_parameters()) == {}
    for parameter, gradient in zip(model.encoder_parameters()["audio"], expected):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(p.grad is None for p in model.encoder_parameters()["visual"])


def test_backward_names_the_loss_that_is_not_finite():
    model = TwoEncoders()
    losses = model.losses()
    losses["visual"] = losses["visual"] * float("nan")
    with pytest.raises(FloatingPointError, match="the visual loss in visual: holds inf or nan"):
        mmpareto_backward(losses, model.encoder_parameters())


def test_an_overflow_reaches_the_loss_scaler():
    """With check_finite=False what is not finite must arrive in `.grad`, where GradScaler looks."""
    for bad in (float("inf"), float("nan")):
        gradients = random_gradients(2, 0)
        gradients[0][2][1, 1] = bad
        result, _ = integrate(gradients, check_finite=False)
        assert not torch.isfinite(flat(result)).all()


def test_memory_layout_is_kept():
    """channels_last gradients: the same numbers, laid out like the parameters."""
    gradients = conflicting(2, 6)
    shape = (2, 3, 4, 5)
    for i, tensors in enumerate(gradients):
        tensors.append(torch.randn(shape, generator=torch.Generator().manual_seed(i)).double())
    expected, _ = integrate(gradients)
    last = [[*gs[:-1], gs[-1].to(memory_format=torch.channels_last)] for gs in gradients]
    mixed = [last[0], gradients[1]]
    for variant in (last, mixed):
        result, _ = integrate(variant)
        torch.testing.assert_close(flat(result), flat(expected), rtol=1e-13, atol=1e-15)
        assert result[-1].stride() == last[0][-1].stride()


def test_in_place_gives_the_same():
    for gradients in (conflicting(2, 8), [[g + 1 for g in gs] for gs in random_gradients(2, 8)]):
        expected, _ = integrate(gradients)
        result, _ = integrate(gradients, in_place=True)
        assert all(torch.equal(a, b) for a, b in zip(result, expected))


def test_nothing_is_asked_on_an_accelerator(path, monkeypatch):
    """Any question to a number would wait for the device; CUDA's own check is in test_cuda.py."""
    if path == "cpu":
        pytest.skip("a CPU may ask")
    models = [TwoEncoders(), TwoEncoders(("audio", "visual", "flow"))]
    losses = [model.losses() for model in models]

    def refuse(*args):
        raise AssertionError("asked for a value")

    for question in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, question, refuse)
    for model, each in zip(models, losses):
        mmpareto_backward(each, model.encoder_parameters(), check_finite=False)


def test_three_objectives_in_conflict_by_exhaustive_search():
    gradients = conflicting(3, 7)
    _, found = integrate(gradients)
    rows = torch.stack([flat(g) for g in gradients])
    grid = [
        w for w in itertools.product(torch.linspace(0, 1, 51).tolist(), repeat=2) if sum(w) <= 1
    ]
    points = torch.tensor([[a, b, 1 - a - b] for a, b in grid], dtype=torch.float64) @ rows
    assert (found["weights"] @ rows).norm() <= points.norm(dim=1).min() + 1e-12
