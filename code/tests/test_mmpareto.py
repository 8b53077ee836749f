"""The step alone, code/mmpareto.py: known answers, properties, limits, bad input."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import Toy

from mmpareto import LossGradients, cosines, integrate, least_norm_weights, mmpareto_backward

GOLDEN = json.loads((Path(__file__).parent / "mmpareto_cases.json").read_text())["cases"]
SHAPES = [(4, 3, 3), (4,), (5, 4), ()]
RESCALES = pytest.mark.parametrize("rescale", ["tensor", "encoder", "none"])
MODALITIES = pytest.mark.parametrize("modalities", [("audio", "visual"), ("a", "b", "c")])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
NOTHING_LEFT = {torch.float32: 1e-6, torch.float64: 1e-13}  # of sum_i |c_i g_i|


def random_gradients(n, seed, dtype=torch.float64, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
        for _ in range(n)
    ]


def conflicting(n, seed, dtype=torch.float64):
    """Gradients of which the second leans against the first."""
    gradients = random_gradients(n, seed, torch.float64)
    gradients[1] = [b - 0.7 * a for a, b in zip(gradients[0], gradients[1])]
    return [[g.to(dtype) for g in gs] for gs in gradients]


def integrated(gradients, *arguments, **named):
    """What `integrate` makes of copies: (T tensors, diagnostics)."""
    copies = [[g.clone() for g in gs] for gs in gradients]
    diagnostics = integrate(copies, *arguments, **named)
    return copies[0], diagnostics


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors]).double()


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_result_is_that_of_the_published_logic():
    close = dict(rtol=1e-12, atol=1e-14)
    for case in GOLDEN:
        gradients = [[double(t) for t in case[name]] for name in ("multimodal", "unimodal")]
        result, diagnostics = integrated(gradients, case["gamma"])
        torch.testing.assert_close(result, [double(t) for t in case["combined"]], **close)
        names = {"cosine": "cosine", "weight": "alpha", "scale": "scale_before_gamma"}
        for ours, theirs in names.items():
            torch.testing.assert_close(diagnostics[ours], double(case[theirs]), **close)
    assert {case["cosine"] > 0 for case in GOLDEN} == {True, False}


@pytest.mark.parametrize("tilt", [-0.7, 0.7])
def test_rescaled_over_the_encoder_it_is_the_papers_algorithm_1(tilt, fuzz):
    conflicts = 0
    for seed in fuzz:
        g_m, g_u = (flat(g) for g in random_gradients(2, seed))
        g_u = g_u + tilt * g_m
        in_conflict = bool(g_m @ g_u <= 0)
        alpha = ((g_u - g_m) @ g_u / (g_m - g_u).square().sum()).clamp(0, 1) if in_conflict else 0.5
        h = 2 * alpha * g_m + 2 * (1 - alpha) * g_u
        expected = h / h.norm() * 1.5 * (g_m + g_u).norm()
        parts = [list(g.split([36, 4, 20, 1])) for g in (g_m, g_u)]
        result, diagnostics = integrated(parts, 1.5, "encoder")
        torch.testing.assert_close(flat(result), expected, rtol=1e-12, atol=1e-14)
        assert (diagnostics["cosine"] <= 0) == in_conflict
        conflicts += in_conflict
    assert conflicts > 0.9 * len(fuzz) if tilt < 0 else conflicts < 0.1 * len(fuzz)


@RESCALES
def test_without_conflict_it_is_gamma_times_the_sum(rescale):
    first, second = random_gradients(2, 0)
    second = [b + 2 * a for a, b in zip(first, second)]
    result, diagnostics = integrated([first, second], 1.5, rescale)
    assert diagnostics["cosine"] > 0
    assert torch.equal(diagnostics["scale"], torch.ones(len(SHAPES), dtype=torch.float64))
    expected = 1.5 * (flat(first) + flat(second))
    torch.testing.assert_close(flat(result), expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("lean, in_conflict", [(-1e-9, True), (0.0, True), (1e-9, False)])
def test_orthogonal_gradients_are_in_conflict_as_in_the_published_code(lean, in_conflict):
    _, diagnostics = integrated([[double([1.0, 0.0])], [double([2 * lean, 2.0])]])
    expected = double([0.8, 0.2] if in_conflict else [0.5, 0.5])
    torch.testing.assert_close(diagnostics["weight"], expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_in_conflict_the_encoder_step_descends_every_loss(n, fuzz):
    for seed in fuzz:
        gradients = conflicting(n, seed)
        result, diagnostics = integrated(gradients, 1.5, "encoder")
        assert diagnostics["cosine"] <= 0
        assert all(flat(result) @ flat(g) > 0 for g in gradients)


@RESCALES
def test_descent_is_the_cosine_of_the_result_with_each_gradient(rescale, fuzz):
    for seed in fuzz:
        for gradients in (conflicting(3, seed), random_gradients(2, seed)):
            result, diagnostics = integrated(gradients, 2.0, rescale)
            for g, descent in zip(gradients, diagnostics["descent"], strict=True):
                expected = torch.cosine_similarity(flat(result), flat(g), dim=0)
                torch.testing.assert_close(descent, expected, rtol=1e-9, atol=1e-12)


def test_magnitude_is_never_below_that_of_the_sum(fuzz):
    for seed in fuzz:
        gradients = conflicting(2, seed)
        total = [a + b for a, b in zip(*gradients)]
        whole, _ = integrated(gradients, 1.0, "encoder")
        torch.testing.assert_close(flat(whole).norm(), flat(total).norm(), rtol=1e-12, atol=0)
        each, diagnostics = integrated(gradients, 1.0, "tensor")
        for h, s, scale, a, b in zip(each, total, diagnostics["scale"], *gradients):
            # |h|^2 is known to some eps of (sum_i |c_i g_i|)^2, and scale is |s| / |h|
            rounding = 1e-15 * (scale * (a.norm() + b.norm())) ** 2 / s.norm()
            assert h.norm() >= s.norm() - rounding
        assert (diagnostics["scale"] >= 1).all()


@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_neither_the_order_of_tensors_nor_that_of_losses_matters(rescale, fuzz):
    for seed in fuzz[::5]:
        gradients = conflicting(3, seed)
        result, diagnostics = integrated(gradients, 1.5, rescale)
        backwards, _ = integrated([gs[::-1] for gs in gradients], 1.5, rescale)
        permuted, of_permuted = integrated([gradients[i] for i in (2, 0, 1)], 1.5, rescale)
        torch.testing.assert_close(backwards[::-1], result, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(permuted, result, rtol=1e-10, atol=1e-14)
        expected = diagnostics["weight"][[2, 0, 1]]
        torch.testing.assert_close(of_permuted["weight"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_result_is_in_the_memory_of_the_first_gradient(dtype):
    gradients = conflicting(3, 0, dtype)
    before = [[g.clone() for g in gs] for gs in gradients]
    pointers = [g.data_ptr() for g in gradients[0]]
    integrate(gradients)
    assert [g.data_ptr() for g in gradients[0]] == pointers
    assert not torch.equal(gradients[0][0], before[0][0])
    for given, kept in zip(gradients[1:], before[1:]):
        assert all(torch.equal(a, b) for a, b in zip(given, kept))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 20])
def test_least_norm_weights_are_optimal(n, fuzz):
    """Optimality of a convex problem: <h, g_i> >= |h|^2, with equality where alpha_i > 0.

    More or less in conflict, of lengths decades apart, dependent and independent.
    """
    for seed in fuzz:
        generator = torch.Generator().manual_seed(seed)
        rank = (60, 6, 2, 1)[seed % 4]
        g = torch.randn(n, rank, generator=generator, dtype=torch.float64)
        g += 0.3 * (seed % 3)
        g *= 10 ** torch.randn(n, 1, generator=generator, dtype=torch.float64)
        weights = least_norm_weights(g @ g.T)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(), double(1.0))
        h, largest = weights @ g, g.norm(dim=1).max() ** 2
        slack = g @ h - h @ h
        assert (slack >= -1e-13 * largest).all()
        assert (slack[weights > 1e-9].abs() <= 1e-13 * largest).all()


@DTYPES
def test_no_ascent_at_any_ratio_of_the_norms(dtype, fuzz):
    decades, conflicts = 12 if dtype == torch.float32 else 30, 0
    for seed in fuzz:
        generator = torch.Generator().manual_seed(seed)
        g = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        g *= 10 ** ((torch.rand(2, 1, generator=generator, dtype=torch.float64) - 0.5) * decades)
        g = g.to(dtype)
        result, diagnostics = integrated([[g[0]], [g[1]]], 1.0, "encoder")
        assert torch.isfinite(result[0]).all()
        if diagnostics["cosine"] < -1e-3:
            conflicts += 1
            # the rounding of h itself is all that may stand against a loss
            descents = torch.cosine_similarity(result[0].double(), g.double(), dim=1)
            assert descents.min() > -4 * torch.finfo(dtype).eps
    assert conflicts > len(fuzz) / 3


@RESCALES
def test_a_zero_gradient_changes_nothing_between_the_others(rescale):
    (some, _), zero = random_gradients(2, 0), [torch.zeros(s, dtype=torch.float64) for s in SHAPES]
    for pair in ([some, zero], [zero, some]):
        result, diagnostics = integrated(pair, 1.5, rescale)
        torch.testing.assert_close(flat(result), 1.5 * flat(some))
        assert diagnostics["cosine"] == 1
    result, diagnostics = integrated([zero, zero], 1.5, rescale)
    assert all((h == 0).all() for h in result)
    assert all(torch.isfinite(v).all() for v in diagnostics.values())
    pair = conflicting(2, 0)
    expected, _ = integrated(pair, 1.5, rescale)
    result, _ = integrated([*pair, zero], 1.5, rescale)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-14)


def check_nothing_is_left(gradients, rescale):
    dtype, norms = gradients[0][0].dtype, torch.stack([flat(g).norm() for g in gradients])
    result, diagnostics = integrated(gradients, 1.5, rescale)
    counted = (norms > 0).sum() * diagnostics["weight"] @ norms  # sum_i |c_i g_i|
    assert flat(result).norm() <= NOTHING_LEFT[dtype] * counted
    assert torch.equal(diagnostics["scale"], torch.ones_like(diagnostics["scale"]))
    assert all(torch.isfinite(v).all() for v in diagnostics.values())


@DTYPES
@RESCALES
@pytest.mark.parametrize("shapes", [SHAPES, [()], [(1,)], [(7,), (0,)], [(3000, 1000)]])
def test_exactly_opposed_gradients_leave_nothing(shapes, rescale, dtype):
    """Of the largest in float32 the inner products would have four correct digits."""
    (some,) = random_gradients(1, 0, dtype, shapes)
    for factor in (0.1, 1 / 3, 1, 7):
        check_nothing_is_left([some, [-factor * g for g in some]], rescale)


@DTYPES
@pytest.mark.parametrize("n", [3, 4, 8, 20])
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_at_a_pareto_stationary_point_nothing_is_left(n, rescale, dtype, fuzz):
    """Zero in the hull of n gradients, whether all of them are needed for it or some."""
    for seed in fuzz[::5]:
        gradients = random_gradients(n, seed)
        needed = n if seed % 2 else max(2, n // 2)
        generator = torch.Generator().manual_seed(seed)
        shares = torch.rand(needed - 1, generator=generator).double() + 0.1
        gradients[needed - 1] = [
            -sum(share * g for share, g in zip(shares, column))
            for column in zip(*gradients[: needed - 1])
        ]
        check_nothing_is_left([[g.to(dtype) for g in gs] for gs in gradients], rescale)


@DTYPES
def test_a_tensor_that_is_zero_or_on_which_the_sum_cancels_stays_finite(dtype, fuzz):
    """|sum_i g_i|^2 from inner products may round below zero there."""
    for seed in fuzz:
        generator = torch.Generator().manual_seed(seed)
        a, shift = torch.rand(2, generator=generator, dtype=torch.float64) + 0.1
        first = [a[None], double([1.0, 0.0]), double([0.0])]
        second = [-a[None] * (1 + 1e-9 * shift), double([0.0, 9.0]), double([0.0])]
        result, diagnostics = integrated([[g.to(dtype) for g in gs] for gs in (first, second)])
        assert torch.isfinite(flat(result)).all() and result[2] == 0
        assert all(torch.isfinite(v).all() for v in diagnostics.values())


@pytest.mark.parametrize(
    "dtype, limit", [(torch.float64, 1e-7), (torch.float32, 1e-3), (torch.bfloat16, 3e-4**0.5)]
)
def test_what_is_shorter_than_the_documented_limit_is_not_raised(dtype, limit):
    first = double([1.0, 0.0])
    for rest, is_raised in ((1.5 * limit, True), (0.7 * limit, False)):
        second = double([-2.0, 3 * rest])  # alpha = 2/3, 1/3; |h| = 2 rest, sum |c_i g_i| = 8/3
        result, diagnostics = integrated([[first.to(dtype)], [second.to(dtype)]], 1.0, "encoder")
        assert (diagnostics["scale"] > 10).all() == is_raised
        assert (result[0].norm() > 0.9) == is_raised


@pytest.mark.parametrize("short", [0.3, 0.01, 0.0015])
def test_float32_is_as_exact_as_float32_can_be_where_little_is_left(short):
    """Down to the limit h and its magnitude have the digits that the gradients leave them."""
    first, rest = random_gradients(2, 1)
    second = [-2 * a + 4 * short * b for a, b in zip(first, rest)]
    gradients = [[g.float() for g in gs] for gs in (first, second)]
    exact, _ = integrated([[g.double() for g in gs] for gs in gradients], 1.5, "encoder")
    result, diagnostics = integrated(gradients, 1.5, "encoder")
    assert diagnostics["cosine"] < 0 and diagnostics["scale"][0] > 1
    error = (flat(result) - flat(exact)).norm() / flat(exact).norm()
    assert error < 1e-6 / short


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_more(dtype):
    gradients = conflicting(2, 5, dtype)
    result, _ = integrated(gradients)
    exact, _ = integrated([[g.double() for g in gs] for gs in gradients])
    for a, b in zip(result, exact):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@RESCALES
def test_what_is_not_finite_makes_the_result_and_its_norm_so(bad, rescale):
    """There a loss scaler looks, and the recorder of a run."""
    for position in (0, 1):
        for gradients in (random_gradients(2, 0), conflicting(2, 0), random_gradients(3, 0)):
            gradients[position][2][0, 0] = bad
            result, diagnostics = integrated(gradients, 1.5, rescale)
            assert not torch.isfinite(flat(result)).all()
            assert not torch.isfinite(diagnostics["norm"][position])


def test_squares_out_of_range_do_not_pass_for_a_step():
    first, second = conflicting(2, 0)
    result, _ = integrated([[1e160 * g for g in first], second])
    assert not torch.isfinite(flat(result)).all()
    result, diagnostics = integrated([[1e-170 * g for g in first], second])  # counts as zero
    torch.testing.assert_close(flat(result), 1.5 * flat(second))
    assert diagnostics["norm"][0] == 0


def test_memory_layout_is_kept_and_may_differ_between_the_losses():
    gradients = random_gradients(2, 6, shapes=[(2, 3, 4, 5), (6, 5, 1, 1)])
    expected, _ = integrated(gradients)
    last = [[g.to(memory_format=torch.channels_last) for g in gs] for gs in gradients]
    for variant in (last, [last[0], gradients[1]], [gradients[0], last[1]]):
        result, _ = integrated(variant)
        torch.testing.assert_close(flat(result), flat(expected), rtol=1e-13, atol=1e-15)
        assert [h.stride() for h in result] == [g.stride() for g in variant[0]]


def test_bad_arguments_are_refused_before_any_backward_pass():
    model = Toy()
    groups = model.encoder_parameters()
    for arguments, message in (
        (dict(groups=groups, gamma=float("nan")), "gamma: must be > 0, got nan"),
        (dict(groups=groups, rescale="layer"), "rescale: choose from .* got 'layer'"),
        (dict(groups=groups | {"again": groups["audio"]}), "parameter is in audio and, again, in"),
    ):
        with pytest.raises(ValueError, match=message):
            mmpareto_backward(model.losses(), **arguments)
    assert all(p.grad is None for p in model.parameters())


@MODALITIES
def test_encoders_get_the_integrated_gradient_and_heads_the_sums(modalities):
    model = Toy(modalities)
    groups, losses = model.encoder_parameters(), model.losses()
    expected, names = [], []
    for m, parameters in groups.items():
        pair = ["multimodal", m]
        gradients = [torch.autograd.grad(losses[n], parameters, retain_graph=True) for n in pair]
        expected += integrated(gradients)[0]
        names += [f"cosine/{m}", f"scale/{m}"]
        names += [f"{key}/{m}/{n}" for key in ("weight", "norm", "descent") for n in pair]
    rest = [*model.fusion.parameters(), *model.heads.parameters()]
    expected += torch.autograd.grad(sum(losses.values()), rest, retain_graph=True)

    diagnostics = mmpareto_backward(losses, groups)
    assert list(diagnostics) == names
    assert all(value.ndim == 0 for value in diagnostics.values())
    assert any(diagnostics[f"cosine/{m}"] > 0 for m in groups)
    gradients = [p.grad for p in [*model.encoders.parameters(), *rest]]
    torch.testing.assert_close(gradients, expected, rtol=1e-9, atol=1e-12)


def test_backward_is_one_pass_per_loss_and_that_of_the_first_comes_last_and_frees_the_graph():
    """Such as a trainer's own: here one that scales the loss and notes its calls."""
    model, calls = Toy(), []
    losses = model.losses()

    def backward(loss, retain_graph):
        calls.extend((name, retain_graph) for name, x in losses.items() if x is loss)
        (2 * loss).backward(retain_graph=retain_graph)

    mmpareto_backward(losses, model.encoder_parameters(), backward=backward)
    assert calls == [("visual", True), ("audio", True), ("multimodal", False)]
    doubled = [p.grad for p in model.parameters()]
    model.zero_grad()
    mmpareto_backward(model.losses(), model.encoder_parameters())
    for p, twice in zip(model.parameters(), doubled):
        torch.testing.assert_close(2 * p.grad, twice)


def test_backward_adds_in_place_to_the_gradient_that_is_there():
    model = Toy()
    groups, parameters = model.encoder_parameters(), list(model.parameters())
    mmpareto_backward(model.losses(1), groups)
    added = [p.grad for p in parameters]
    model.zero_grad()
    mmpareto_backward(model.losses(0), groups)
    held = [p.grad for p in parameters]
    expected = [a + b for a, b in zip(held, added)]
    mmpareto_backward(model.losses(1), groups)
    for p, memory, gradient in zip(parameters, held, expected):
        assert p.grad is memory
        torch.testing.assert_close(p.grad, gradient)


@MODALITIES
def test_accumulated_parts_are_the_step_of_the_whole_batch_step_after_step(modalities):
    """Parts of a batch, each loss times its share; the same LossGradients in every step."""
    model = Toy(modalities)
    groups, conflicts = model.encoder_parameters(), set()
    gradients = LossGradients(groups)

    def parts(step):
        for seed, share in enumerate([0.5, 0.375, 0.125], start=10 * step):
            yield {name: share * loss for name, loss in model.losses(seed).items()}

    for step in range(3):
        model.zero_grad()
        sums = {name: sum(part[name] for part in parts(step)) for name in model.losses()}
        of_whole = mmpareto_backward(sums, groups)
        expected = [p.grad for p in model.parameters()]
        model.zero_grad()
        for part in parts(step):
            gradients.add(part)
            assert all(p.grad is None for p in model.encoders.parameters())
        of_parts = gradients.integrate()
        torch.testing.assert_close(of_parts, of_whole, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            [p.grad for p in model.parameters()], expected, rtol=1e-12, atol=1e-15
        )
        conflicts |= {bool(of_whole[f"cosine/{m}"] <= 0) for m in groups}
    assert conflicts == {True, False}


def test_a_loss_that_is_absent_is_left_out():
    model = Toy()
    expected = mmpareto_backward(model.losses(), model.encoder_parameters())
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    losses = model.losses() | {"flow": None}
    assert mmpareto_backward(losses, model.encoder_parameters()) == expected
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients))


def test_a_rule_of_ones_is_the_sum():
    model = Toy()
    expected = torch.autograd.grad(sum(model.losses().values()), list(model.parameters()))
    ones = dict(gamma=1.0, rescale="none", rule=lambda gram: torch.ones_like(gram[0]))
    mmpareto_backward(model.losses(), model.encoder_parameters(), **ones)
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_a_loss_that_does_not_reach_a_parameter_counts_as_zero_there():
    model = Toy()
    audio = model.encoders["audio"]
    audio.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    audio.empty = nn.Parameter(torch.ones(0, 3, dtype=torch.float64))
    audio.only_multimodal = nn.Parameter(torch.ones((), dtype=torch.float64))
    model.encoders["visual"].weight.requires_grad_(False)
    losses = model.losses()
    losses["multimodal"] = losses["multimodal"] + 2 * audio.only_multimodal + audio.empty.sum()
    losses["audio"] = losses["audio"] + audio.empty.sum()
    diagnostics = mmpareto_backward(losses, model.encoder_parameters(), gamma=1.0, rescale="none")
    assert diagnostics["cosine/audio"] < 0  # so the multimodal gradient has a factor that is not 1
    assert audio.spare.grad is None and audio.empty.grad.shape == (0, 3)
    share = 2 * diagnostics["weight/audio/multimodal"]
    torch.testing.assert_close(audio.only_multimodal.grad, 2 * share)
    assert model.encoders["visual"].weight.grad is None
    assert model.encoders["visual"].bias.grad is not None


def test_a_group_that_one_loss_reaches_gets_the_plain_gradient():
    model = Toy()
    groups, loss = model.encoder_parameters(), model.losses()["audio"]
    expected = torch.autograd.grad(loss, groups["audio"], retain_graph=True)
    assert mmpareto_backward({"audio": loss}, groups) == {}
    torch.testing.assert_close([p.grad for p in groups["audio"]], list(expected))
    assert all(p.grad is None for p in groups["visual"])


@MODALITIES
def test_no_number_is_asked_for(modalities, monkeypatch):
    """On an accelerator a question would wait for the device; CUDA's own check is in test_cuda."""
    model = Toy(modalities)
    losses, gradients = model.losses(), conflicting(len(modalities), 0)

    def refuse(*args):
        raise AssertionError("asked for a value")

    for question in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, question, refuse)
    mmpareto_backward(losses, model.encoder_parameters())
    integrate(gradients)


def test_cosines_are_bounded_and_a_zero_gradient_opposes_nothing():
    g = double([[1.0, 2.0], [-3.0, -6.0], [0.0, 0.0]])
    result = cosines(g @ g.T)
    torch.testing.assert_close(result, double([[1, -1, 1], [-1, 1, 1], [1, 1, 1.0]]))
    assert result.abs().max() <= 1
