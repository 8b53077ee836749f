"""The step alone, code/mmpareto.py: known answers, properties, limits, bad input."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mmpareto import LossGradients, cosines, integrate, least_norm_weights, mmpareto_backward

GOLDEN = json.loads((Path(__file__).parent / "mmpareto_cases.json").read_text())["cases"]
SHAPES = [(4, 3, 3), (4,), (5, 4), ()]
RESCALES = pytest.mark.parametrize("rescale", ["tensor", "encoder", "none"])
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


def gram_of(rows):
    return rows @ rows.T


# Known answers


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_equals_the_published_logic(case):
    gradients = [[double(t) for t in case[name]] for name in ("multimodal", "unimodal")]
    result, found = integrated(gradients, case["gamma"])
    close = dict(rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(result, case["combined"]):
        torch.testing.assert_close(ours, double(theirs), **close)
    torch.testing.assert_close(found["cosine"], double(case["cosine"]), **close)
    torch.testing.assert_close(found["weight"], double(case["alpha"]), **close)
    torch.testing.assert_close(found["scale"], double(case["scale_before_gamma"]), **close)


def test_golden_cases_hold_both_kinds():
    assert {case["cosine"] > 0 for case in GOLDEN} == {True, False}


@pytest.mark.parametrize("tilt", [-0.7, 0.7])
@pytest.mark.parametrize("seed", range(10))
def test_rescaled_over_the_encoder_it_is_the_papers_algorithm_1(seed, tilt):
    g_m, g_u = (flat(g) for g in random_gradients(2, seed))
    g_u = g_u + tilt * g_m
    alpha = ((g_u - g_m) @ g_u / (g_m - g_u).square().sum()).clamp(0, 1) if g_m @ g_u < 0 else 0.5
    h = 2 * alpha * g_m + 2 * (1 - alpha) * g_u
    expected = h / h.norm() * 1.5 * (g_m + g_u).norm()
    parts = [list(g.split([36, 4, 20, 1])) for g in (g_m, g_u)]
    result, found = integrated(parts, 1.5, "encoder")
    torch.testing.assert_close(flat(result), expected, rtol=1e-12, atol=1e-14)
    assert (found["cosine"] <= 0) == (g_m @ g_u <= 0)


# Properties


@RESCALES
def test_without_conflict_it_is_gamma_times_the_sum(rescale):
    first, second = random_gradients(2, 0)
    second = [b + 2 * a for a, b in zip(first, second)]
    result, found = integrated([first, second], 1.5, rescale)
    assert found["cosine"] > 0
    assert torch.equal(found["scale"], torch.ones(len(SHAPES), dtype=torch.float64))
    for h, a, b in zip(result, first, second):
        torch.testing.assert_close(h, 1.5 * (a + b), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("lean, in_conflict", [(-1e-9, True), (0.0, True), (1e-9, False)])
def test_orthogonal_gradients_are_in_conflict_as_in_the_published_code(lean, in_conflict):
    _, found = integrated([[double([1.0, 0.0])], [double([2 * lean, 2.0])]])
    expected = double([0.8, 0.2] if in_conflict else [0.5, 0.5])
    torch.testing.assert_close(found["weight"], expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("seed", range(20))
def test_in_conflict_the_encoder_step_descends_every_loss(n, seed):
    gradients = conflicting(n, seed)
    result, found = integrated(gradients, 1.5, "encoder")
    assert found["cosine"] <= 0
    h = flat(result)
    for i, g in enumerate(gradients):
        cosine = h @ flat(g) / (h.norm() * flat(g).norm())
        assert cosine > 0
        torch.testing.assert_close(found["descent"][i], cosine, rtol=1e-9, atol=1e-12)


@RESCALES
def test_descent_is_the_cosine_of_the_result_with_each_gradient(rescale):
    for gradients in (conflicting(3, 2), random_gradients(2, 3)):
        result, found = integrated(gradients, 2.0, rescale)
        for i, g in enumerate(gradients):
            expected = torch.cosine_similarity(flat(result), flat(g), dim=0)
            torch.testing.assert_close(found["descent"][i], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_between_two_the_interior_optimum_descends_both_alike(seed):
    first, second = conflicting(2, seed)
    h = flat(integrated([first, second], 1.0, "none")[0])
    torch.testing.assert_close(h @ flat(first), h @ flat(second), rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", range(10))
def test_magnitude_is_never_below_that_of_the_sum(seed):
    gradients = conflicting(2, seed)
    total = [a + b for a, b in zip(*gradients)]
    whole, _ = integrated(gradients, 1.0, "encoder")
    torch.testing.assert_close(flat(whole).norm(), flat(total).norm(), rtol=1e-12, atol=0)
    each, found = integrated(gradients, 1.0, "tensor")
    for h, s in zip(each, total):
        assert h.norm() >= s.norm() * (1 - 1e-12)
    assert (found["scale"] >= 1).all()


@DTYPES
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
@pytest.mark.parametrize("seed", range(5))
def test_a_power_of_two_in_all_gradients_comes_through_to_the_last_digit(seed, rescale, dtype):
    gradients = conflicting(3, seed, dtype)
    result, _ = integrated(gradients, 1.5, rescale)
    scaled, _ = integrated([[g * 2.0**16 for g in gs] for gs in gradients], 1.5, rescale)
    assert all(torch.equal(a * 2.0**16, b) for a, b in zip(result, scaled))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_gamma_is_a_factor_and_neither_order_of_tensors_nor_of_losses_matters(seed, rescale):
    gradients = conflicting(3, seed)
    result, found = integrated(gradients, 1.5, rescale)
    doubled, _ = integrated(gradients, 3.0, rescale)
    for a, b in zip(result, doubled):
        torch.testing.assert_close(2 * a, b, rtol=1e-15, atol=0)
    backwards, _ = integrated([gs[::-1] for gs in gradients], 1.5, rescale)
    swapped, other = integrated([gradients[i] for i in (2, 0, 1)], 1.5, rescale)
    for a, b, c in zip(result, backwards[::-1], swapped):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(other["weight"], found["weight"][[2, 0, 1]], rtol=1e-9, atol=1e-12)


def test_the_result_is_in_the_memory_of_the_first_gradient():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        gradients = conflicting(3, 0, dtype)
        before = [[g.clone() for g in gs] for gs in gradients]
        pointers = [g.data_ptr() for g in gradients[0]]
        integrate(gradients)
        assert [g.data_ptr() for g in gradients[0]] == pointers
        assert not torch.equal(gradients[0][0], before[0][0])
        for given, kept in zip(gradients[1:], before[1:]):
            assert all(torch.equal(a, b) for a, b in zip(given, kept))


# The weights of least norm


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 20, 40])
@pytest.mark.parametrize("seed", range(10))
def test_least_norm_weights_are_optimal(n, seed):
    """Optimality of a convex problem: <h, g_i> >= |h|^2, with equality where alpha_i > 0."""
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(n, 6 if seed % 2 else 60, generator=generator, dtype=torch.float64)
    g += 0.3 * (seed % 3)  # more or less in conflict
    g *= 10 ** torch.randn(n, 1, generator=generator, dtype=torch.float64)
    weights = least_norm_weights(gram_of(g))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(), double(1.0))
    h, largest = weights @ g, g.norm(dim=1).max() ** 2
    slack = g @ h - h @ h
    assert (slack >= -1e-13 * largest).all()
    assert (slack[weights > 1e-9].abs() <= 1e-13 * largest).all()


def test_two_weights_agree_with_the_general_solver():
    for seed in range(20):
        g = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        g[2] = 0
        with_zero, two = least_norm_weights(gram_of(g)), least_norm_weights(gram_of(g[:2]))
        torch.testing.assert_close(with_zero[:2], two, rtol=1e-9, atol=1e-12)
        assert with_zero[2] == 0


def test_of_copies_and_multiples_of_one_gradient_the_shortest_point_is_found():
    g = double([1.0, 2.0])
    for rows, shortest in (
        ([g, g, g], g.norm()),
        ([g, 2 * g, 3 * g], g.norm()),
        ([g, g, -g], double(0.0)),
        ([3 * g, g, -2 * g], double(0.0)),
    ):
        h = least_norm_weights(gram_of(torch.stack(rows))) @ torch.stack(rows)
        torch.testing.assert_close(h.norm(), shortest, atol=1e-14, rtol=1e-14)


@DTYPES
def test_no_ascent_at_any_ratio_of_the_norms(dtype):
    generator = torch.Generator().manual_seed(1)
    decades, conflicts = 12 if dtype == torch.float32 else 30, 0
    for _ in range(1500):
        g = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        g *= 10 ** ((torch.rand(2, 1, generator=generator, dtype=torch.float64) - 0.5) * decades)
        g = g.to(dtype)
        result, found = integrated([[g[0]], [g[1]]], 1.0, "encoder")
        assert torch.isfinite(result[0]).all()
        if found["cosine"] < -1e-3:
            conflicts += 1
            unit = result[0].double() / result[0].double().norm()
            # the rounding of h itself is all that may stand against a loss
            worst = min(unit @ (x.double() / x.double().norm()) for x in g)
            assert worst > -4 * torch.finfo(dtype).eps
    assert conflicts > 500


# Zero gradients, and zero in the hull of the gradients


@RESCALES
def test_zero_gradients(rescale):
    (some, _), zero = random_gradients(2, 0), [torch.zeros(s, dtype=torch.float64) for s in SHAPES]
    for pair in ([some, zero], [zero, some]):
        result, found = integrated(pair, 1.5, rescale)
        for h, g in zip(result, some):
            torch.testing.assert_close(h, 1.5 * g)
        assert found["cosine"] == 1
    result, found = integrated([zero, zero], 1.5, rescale)
    assert all((h == 0).all() for h in result)
    assert all(torch.isfinite(v).all() for v in found.values())
    # a third loss that does not move the encoder changes nothing between the other two
    pair = conflicting(2, 0)
    with_third, _ = integrated([*pair, zero], 1.5, rescale)
    for a, b in zip(with_third, integrated(pair, 1.5, rescale)[0]):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


def check_nothing_is_left(gradients, rescale):
    dtype, norms = gradients[0][0].dtype, torch.stack([flat(g).norm() for g in gradients])
    result, found = integrated(gradients, 1.5, rescale)
    counted = (norms > 0).sum() * found["weight"] @ norms  # sum_i |c_i g_i|
    assert flat(result).norm() <= NOTHING_LEFT[dtype] * counted
    assert torch.equal(found["scale"], torch.ones_like(found["scale"]))
    assert all(torch.isfinite(v).all() for v in found.values())


@DTYPES
@RESCALES
@pytest.mark.parametrize("factor", [0.1, 1 / 3, 1, 3, 7, 10])
def test_exactly_opposed_gradients_leave_nothing(factor, rescale, dtype):
    for seed, shapes in enumerate([SHAPES, [()], [(1,)], [(300, 200)], [(7,), (0,)]]):
        (some,) = random_gradients(1, seed, dtype, shapes)
        check_nothing_is_left([some, [-factor * g for g in some]], rescale)


@DTYPES
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_of_millions_of_numbers_nothing_is_left_either(rescale, dtype):
    """In float32 the inner products of so many would have four correct digits."""
    (some,) = random_gradients(1, 0, dtype, [(3000, 1000)])
    check_nothing_is_left([some, [-3 * g for g in some]], rescale)


@DTYPES
@pytest.mark.parametrize("n", [3, 4, 8, 20])
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_at_a_pareto_stationary_point_nothing_is_left(n, rescale, dtype):
    """Zero in the hull of n gradients, whether all of them are needed for it or some."""
    for seed in range(25):
        gradients = random_gradients(n, seed)
        needed = n if seed % 2 else max(2, n // 2)
        shares = (
            torch.rand(needed - 1, generator=torch.Generator().manual_seed(seed)).double() + 0.1
        )
        gradients[needed - 1] = [
            -sum(share * g for share, g in zip(shares, column))
            for column in zip(*gradients[: needed - 1])
        ]
        check_nothing_is_left([[g.to(dtype) for g in gs] for gs in gradients], rescale)


def test_a_tensor_that_is_zero_within_a_step_stays_zero():
    left, right = conflicting(2, 1)
    left[1], right[1] = torch.zeros_like(left[1]), torch.zeros_like(right[1])
    result, _ = integrated([left, right])
    assert (result[1] == 0).all() and torch.isfinite(flat(result)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_on_which_the_sum_cancels_stays_finite(dtype):
    """|sum_i g_i|^2 from inner products may round below zero there."""
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        a, shift = torch.rand(2, generator=generator, dtype=torch.float64) + 0.1
        first = [a[None], double([1.0, 0.0])]
        second = [-a[None] * (1 + 1e-9 * shift), double([0.0, 9.0])]
        pair = [[g.to(dtype) for g in gs] for gs in (first, second)]
        result, found = integrated(pair)
        assert torch.isfinite(flat(result)).all()
        assert all(torch.isfinite(v).all() for v in found.values())


def test_opposed_bfloat16_gradients_are_not_raised_from_their_rounding():
    for seed in range(20):
        first = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
        _, found = integrated([[first.bfloat16()], [(-0.7 * first).bfloat16()]])
        assert found["scale"] == 1


def test_a_parameter_in_two_groups_or_twice_in_one_is_refused():
    model = TwoEncoders()
    weights = list(model.encoders["audio"].parameters())
    for groups in ({"audio": weights * 2}, {"audio": weights, "visual": weights[:1]}):
        with pytest.raises(ValueError, match="groups: one parameter is in audio and, again, in"):
            mmpareto_backward(model.losses(), groups)
    assert all(p.grad is None for p in model.parameters())


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        integrate([[torch.ones(2), torch.ones(3)], [torch.ones(2)]])


def test_the_result_is_added_to_the_gradient_that_is_there_in_place():
    model = TwoEncoders()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    held = [p.grad for p in model.parameters()]
    mmpareto_backward(model.losses(), model.encoder_parameters())
    assert all(p.grad is kept and kept.any() for p, kept in zip(model.parameters(), held))


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-3), (torch.float64, 1e-7)])
def test_what_is_shorter_than_the_documented_limit_is_not_raised(dtype, limit):
    first = double([1.0, 0.0])
    for rest, raised in ((1.5 * limit, True), (0.7 * limit, False)):
        second = double([-2.0, 3 * rest])  # alpha = 2/3, 1/3; |h| = 2 rest, sum |c_i g_i| = 8/3
        result, found = integrated([[first.to(dtype)], [second.to(dtype)]], 1.0, "encoder")
        assert (found["scale"] > 100).all() == raised
        torch.testing.assert_close(result[0].norm() > 0.9, torch.tensor(raised))


@pytest.mark.parametrize("short", [0.3, 0.01, 0.0015])
def test_float32_is_as_exact_as_float32_can_be_where_little_is_left(short):
    """Down to the limit h and its magnitude have the digits that the gradients leave them."""
    (first, rest) = random_gradients(2, 1)
    second = [-2 * a + 4 * short * b for a, b in zip(first, rest)]
    gradients = [[g.float() for g in gs] for gs in (first, second)]
    exact, _ = integrated([[g.double() for g in gs] for gs in gradients], 1.5, "encoder")
    result, found = integrated(gradients, 1.5, "encoder")
    assert found["cosine"] < 0 and found["scale"][0] > 1
    error = (flat(result) - flat(exact)).norm() / flat(exact).norm()
    assert error < 1e-6 / short


def row_sets():
    """Matrices of the kinds and sizes on which TorchJD tests its aggregators, rows = gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(m, n, rank):
        return torch.randn(m, rank, generator=generator) @ torch.randn(rank, n, generator=generator)

    def stationary(m, n, rank, needed):
        """Zero is a convex combination of the first `needed` rows."""
        rows = normal(m, n, rank)
        shares = torch.rand(needed, 1, generator=generator) + 0.05
        rows[:needed] -= shares * (shares * rows[:needed]).sum(0) / shares.square().sum()
        return rows

    def improvable(m, n, rank):
        """There is a direction that descends all."""
        rows = normal(m, n, rank)
        return rows * torch.sign(rows @ rows.sum(0))[:, None]

    for m, n, rank in [(4, 3, 1), (4, 3, 2), (4, 3, 3), (9, 11, 5), (9, 11, 9)]:
        rows = normal(m, n, rank)
        for scale in (0.0, 1e-10, 1.0, 1e3, 1e5, 1e10, 1e15):
            yield scale * rows
    for m, n, rank in [(20, 10, 10), (20, 10, 5), (20, 10, 1), (20, 100, 1), (20, 100, 19)]:
        yield stationary(m, n, rank, m)
        yield stationary(m, n, rank, max(2, m // 3))
        yield improvable(m, n, rank)


@pytest.mark.parametrize("rows", list(row_sets()), ids=lambda rows: "x".join(map(str, rows.shape)))
def test_no_loss_ascends_and_the_order_of_the_losses_does_not_matter(rows):
    """TorchJD's properties "non-conflicting" and "permutation invariant"."""
    (result,), _ = integrated([[row] for row in rows], 1.0, "encoder")
    longest = rows.norm(dim=1).max()
    assert torch.isfinite(result).all()
    assert (rows.double() @ result.double() >= -1e-6 * longest.double() ** 2 * len(rows)).all()
    for seed in range(5):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        (permuted,), _ = integrated([[row] for row in rows[order]], 1.0, "encoder")
        torch.testing.assert_close(permuted, result, rtol=1e-4, atol=float(1e-5 * longest))


# Number formats and memory layouts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_more(dtype):
    gradients = conflicting(2, 5, dtype)
    result, _ = integrated(gradients)
    exact, _ = integrated([[g.double() for g in gs] for gs in gradients])
    for a, b in zip(result, exact):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@RESCALES
def test_what_is_not_finite_makes_the_result_and_its_norm_so(bad, rescale):
    """There a loss scaler looks, and the recorder of a run."""
    for at in (0, 1):
        for gradients in (random_gradients(2, 0), conflicting(2, 0), random_gradients(3, 0)):
            gradients[at][2][0, 0] = bad
            result, found = integrated(gradients, 1.5, rescale)
            assert not torch.isfinite(flat(result)).all()
            assert not torch.isfinite(found["norm"][at])


def test_squares_out_of_range_do_not_pass_for_a_step():
    gradients = conflicting(2, 0)
    for factor in (1e160, 1e-170):
        result, found = integrated([[factor * g for g in gradients[0]], gradients[1]])
        if factor > 1:
            assert not torch.isfinite(flat(result)).all()
        else:  # counts as zero
            torch.testing.assert_close(flat(result), 1.5 * flat(gradients[1]))
            assert found["norm"][0] == 0


def test_memory_layout_is_kept_and_may_differ_between_the_losses():
    gradients = conflicting(2, 6)
    for i, tensors in enumerate(gradients):
        generator = torch.Generator().manual_seed(i)
        tensors.append(torch.randn(2, 3, 4, 5, generator=generator).double())
        tensors.append(torch.randn(6, 5, 1, 1, generator=generator).double())
    expected, _ = integrated(gradients)
    last = [
        [g.to(memory_format=torch.channels_last) if g.ndim == 4 else g for g in gs]
        for gs in gradients
    ]
    for variant in (last, [last[0], gradients[1]], [gradients[0], last[1]]):
        result, _ = integrated(variant)
        torch.testing.assert_close(flat(result), flat(expected), rtol=1e-13, atol=1e-15)
        for h, given in zip(result, variant[0]):
            assert h.stride() == given.stride()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(gamma=0), "gamma: must be > 0, got 0"),
        (dict(gamma=float("nan")), "gamma: must be > 0, got nan"),
        (dict(rescale="layer"), "rescale: choose from 'tensor', 'encoder', 'none'; got 'layer'"),
    ],
)
def test_bad_arguments_are_refused_before_any_backward_pass(change, message):
    model = TwoEncoders()
    with pytest.raises(ValueError, match=message):
        mmpareto_backward(model.losses(), model.encoder_parameters(), **change)
    assert all(p.grad is None for p in model.parameters())


# The step in a loop


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
    groups, losses = model.encoder_parameters(), model.losses()
    expected = {}
    for name, parameters in groups.items():
        per_loss = [
            torch.autograd.grad(losses[x], parameters, retain_graph=True)
            for x in ("multimodal", name)
        ]
        expected[name], _ = integrated(per_loss)
    heads = [p for n, p in model.named_parameters() if not n.startswith("encoders")]
    plain = torch.autograd.grad(sum(losses.values()), heads, retain_graph=True)

    diagnostics = mmpareto_backward(losses, groups)
    for name, parameters in groups.items():
        for parameter, gradient in zip(parameters, expected[name]):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-13, atol=1e-15)
    for parameter, gradient in zip(heads, plain):
        torch.testing.assert_close(parameter.grad, gradient)
    assert list(diagnostics)[:8] == [
        "cosine/audio",
        "scale/audio",
        "weight/audio/multimodal",
        "weight/audio/audio",
        "norm/audio/multimodal",
        "norm/audio/audio",
        "descent/audio/multimodal",
        "descent/audio/audio",
    ]
    assert all(value.ndim == 0 for value in diagnostics.values())


def test_backward_costs_one_pass_per_loss_and_the_first_loss_comes_last():
    """The published step needs 3 passes of every encoder."""
    model, order = TwoEncoders(), []
    for name, encoder in model.encoders.items():
        encoder.weight.register_hook(lambda gradient, name=name: order.append(name))
    for head in (model.fusion, *model.heads.values()):
        head.weight.register_hook(lambda gradient: order.append("head"))
    mmpareto_backward(model.losses(), model.encoder_parameters())
    assert order[:4] == ["head", "visual", "head", "audio"]
    assert order[4] == "head" and sorted(order[5:]) == ["audio", "visual"]


def test_the_graph_is_freed_although_the_losses_live_on():
    model = TwoEncoders()
    losses = model.losses()
    mmpareto_backward(losses, model.encoder_parameters())
    with pytest.raises(RuntimeError, match="second time"):
        losses["multimodal"].backward()
    for name, encoder in model.encoders.items():
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(losses[name], encoder.weight)


def test_backward_adds_to_a_gradient_that_is_there():
    model = TwoEncoders()
    apart = []
    for seed in (0, 1):
        model.zero_grad()
        mmpareto_backward(model.losses(seed), model.encoder_parameters())
        apart.append([p.grad.clone() for p in model.parameters()])
    model.zero_grad()
    for seed in (0, 1):
        mmpareto_backward(model.losses(seed), model.encoder_parameters())
    for p, a, b in zip(model.parameters(), *apart):
        torch.testing.assert_close(p.grad, a + b)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
def test_accumulated_parts_are_the_step_of_the_whole_batch_step_after_step(modalities):
    """Parts of a batch, each loss times its share; the same LossGradients in every step."""
    model = TwoEncoders(modalities)
    groups = model.encoder_parameters()
    gradients = LossGradients(groups)

    def parts(step):
        for seed, share in enumerate([0.5, 0.375, 0.125], start=10 * step):
            yield {name: share * loss for name, loss in model.losses(seed).items()}

    for step in range(3):
        model.zero_grad()
        sums = {name: sum(part[name] for part in parts(step)) for name in model.losses()}
        whole = mmpareto_backward(sums, groups)
        expected = [p.grad for p in model.parameters()]
        model.zero_grad()
        for part in parts(step):
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


def test_a_loss_that_is_absent_is_left_out():
    results = []
    for absent in (dict(flow=None), dict()):
        torch.manual_seed(0)
        model = TwoEncoders()
        found = mmpareto_backward(model.losses() | absent, model.encoder_parameters())
        assert not any("flow" in name for name in found)
        results.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_reports_keep_the_order_of_the_losses_where_a_part_lacks_one():
    model = TwoEncoders()
    gradients = LossGradients(
        {"all": [p for ps in model.encoder_parameters().values() for p in ps]}
    )
    losses = model.losses()
    gradients.add({"multimodal": losses["multimodal"], "audio": None, "visual": losses["visual"]})
    gradients.add(model.losses(1))
    names = [name for name in gradients.integrate() if name.startswith("weight")]
    assert names[0] == "weight/all/multimodal" and len(names) == 3


def test_backward_may_be_what_a_trainer_has_in_its_place():
    """Such as Fabric's: here one that scales the loss and counts its calls."""
    model, calls = TwoEncoders(), []

    def backward(loss, retain_graph):
        calls.append(retain_graph)
        (2 * loss).backward(retain_graph=retain_graph)

    mmpareto_backward(model.losses(), model.encoder_parameters(), backward=backward)
    assert calls == [True, True, False]
    doubled = [p.grad for p in model.parameters()]
    model.zero_grad()
    mmpareto_backward(model.losses(), model.encoder_parameters())
    for p, twice in zip(model.parameters(), doubled):
        torch.testing.assert_close(2 * p.grad, twice)


def test_a_rule_of_ones_is_the_sum():
    model = TwoEncoders()
    expected = torch.autograd.grad(sum(model.losses().values()), list(model.parameters()))
    ones = dict(gamma=1.0, rescale="none", rule=lambda gram: torch.ones_like(gram[0]))
    mmpareto_backward(model.losses(), model.encoder_parameters(), **ones)
    for p, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(p.grad, gradient)


def test_unreached_frozen_and_empty_parameters():
    model = TwoEncoders()
    audio = model.encoders["audio"]
    audio.spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    audio.empty = nn.Parameter(torch.ones(0, 3, dtype=torch.float64))
    audio.only_multimodal = nn.Parameter(torch.ones((), dtype=torch.float64))
    model.encoders["visual"].weight.requires_grad_(False)
    losses = model.losses()
    losses["multimodal"] = losses["multimodal"] + 2 * audio.only_multimodal + audio.empty.sum()
    losses["audio"] = losses["audio"] + audio.empty.sum()
    found = mmpareto_backward(losses, model.encoder_parameters(), gamma=1.0, rescale="none")
    assert audio.spare.grad is None and audio.empty.grad.shape == (0, 3)
    share = 2 * found["weight/audio/multimodal"]
    torch.testing.assert_close(audio.only_multimodal.grad, 2 * share)
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


def test_no_number_is_asked_for(monkeypatch):
    """On an accelerator a question would wait for the device; CUDA's own check is in test_cuda."""
    models = [TwoEncoders(), TwoEncoders(("audio", "visual", "flow"))]
    losses = [model.losses() for model in models]
    three = conflicting(3, 0)

    def refuse(*args):
        raise AssertionError("asked for a value")

    for question in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, question, refuse)
    for model, each in zip(models, losses):
        mmpareto_backward(each, model.encoder_parameters())
    integrate(three)


def test_cosines_are_bounded_and_a_zero_gradient_opposes_nothing():
    g = double([[1.0, 2.0], [-3.0, -6.0], [0.0, 0.0]])
    torch.testing.assert_close(cosines(gram_of(g)), double([[1, -1, 1], [-1, 1, 1], [1, 1, 1.0]]))
    assert cosines(gram_of(g)).abs().max() <= 1
