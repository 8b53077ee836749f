"""The rules that combine gradients, under the properties that TorchJD asks of its own: on matrices
of any rank, dependent and stationary ones, in float32 as in training."""

import pytest
import torch
from steps import build_method, take_step
from test_per_loss import PER_LOSS
from toy import Given

SHAPES = [(6, 10, 6), (6, 10, 3), (6, 10, 1), (4, 50, 3), (3, 4, 2), (2, 8, 2), (5, 100, 4)]
FLAGS = {"mmpareto": ["--rescale", "encoder"], "cagrad": ["--cagrad_c", "1"]}
SUMMED = "its lengths alone change, whatever opposes what"
DRAWN = "its weights are drawn"
STATIONARY = "zero is what it gives at every Pareto stationary point"
CANNOT = {  # a property: {method that cannot hold it: why}
    "the order of the losses does not matter": {
        "metabalance": "the others come near the length of the first",
        "pcgrad": "it projects in an order that is drawn",
        "torchjd": "GradVac takes the others in an order that is drawn",
        "random_in_conflict": DRAWN,
    },
    "no loss is ascended": {
        "pcgrad": "of three and more, a later projection may bring back what an earlier one took",
        "torchjd": "GradVac, as PCGrad",
        "imtl_g": "weights may be negative",
        "aligned_mtl": "the aligned gradients are others than the given ones",
        "metabalance": SUMMED,
        "gradnorm": SUMMED,
        "random_in_conflict": DRAWN,
    },
    "the step is linear in the lengths": {
        "mmpareto": "least-norm weights are not",
        "pareto": "least-norm weights are not",
        "cagrad": "the worst-off loss changes with them",
        "imtl_g": "weights that are divided by their sum are not",
        "aligned_mtl": "the smallest singular value is not",
        "nash_mtl": "lengths do not count, but for the scale",
        "random_in_conflict": DRAWN,
    },
    "the step is not zero where some loss can be descended and none need be ascended": {
        "mmpareto": STATIONARY,
        "pareto": STATIONARY,
        "cagrad": STATIONARY,
        "imtl_g": "opposed gradients have no equal projections",
        "aligned_mtl": "the smallest singular value is near zero there",
        "nash_mtl": "the gains of opposed losses are bargained away",
    },
}


def combined(name, rows):
    method = build_method(name, *FLAGS.get(name, []))
    model = Given(audio={f"loss {i}": row for i, row in enumerate(rows)})
    take_step(method, model, model.forward_pass([0] * len(rows)))
    return model.encoders["audio"].grad


def matrices():
    for seed, (m, n, rank) in enumerate(SHAPES):
        of = torch.Generator().manual_seed(seed)
        rows = torch.randn(m, rank, generator=of) @ torch.randn(rank, n, generator=of)
        yield rows, of


def unit(rows):
    return rows.norm(dim=1).mean()


def order_does_not_matter(name):
    for rows, of in matrices():
        order = torch.randperm(len(rows), generator=of)
        distance = combined(name, rows[order]) - combined(name, rows)
        yield distance.norm() < 1e-3 * unit(rows)


def ascends_nothing(name):
    for rows, _ in matrices():
        slopes = rows @ combined(name, rows)
        yield (slopes >= -4e-4 * rows.norm(dim=1) * unit(rows)).all()


def is_linear(name):
    for rows, of in matrices():
        first, second = torch.rand(2, len(rows), 1, generator=of)
        expected = combined(name, first * rows) + 2 * combined(name, second * rows)
        result = combined(name, (first + 2 * second) * rows)
        yield (result - expected).norm() < 1e-3 * unit(rows)


def improvable(rows, of, all_of_them):
    """Rows of the same rank, for which some step descends every loss, or at least one and harms no
    other."""
    step = rows.T @ torch.randn(len(rows), generator=of)
    rows = rows * (rows @ step).sign()[:, None]
    half = 0 if all_of_them else len(rows) // 2
    if half > 1:  # half of them stand on the plane, and cancel out
        rows[:half] -= (rows[:half] @ step)[:, None] * step / (step @ step)
        rows[0] = -rows[1:half].sum(0)
    return rows


def goes_on(name):
    for rows, of in matrices():
        rows = improvable(rows, of, all_of_them=False)
        yield combined(name, rows).norm() > 5e-3 * unit(rows)


HOLDS = dict(zip(CANNOT, [order_does_not_matter, ascends_nothing, is_linear, goes_on]))


@pytest.mark.parametrize("name", PER_LOSS)
@pytest.mark.parametrize("claim", CANNOT)
def test_a_property_holds_but_for_those_that_cannot_have_it(claim, name):
    """Those break it, here, on some matrix: else they would have it."""
    assert all(HOLDS[claim](name)) == (name not in CANNOT[claim])


@pytest.mark.parametrize("name", PER_LOSS)
def test_the_step_is_finite_and_no_longer_than_the_gradients_with_the_gain(name):
    for rows, _ in matrices():
        result = combined(name, rows)
        assert result.isfinite().all() and result.norm() <= 3 * len(rows) * rows.norm()


@pytest.mark.parametrize("name", PER_LOSS)
def test_the_step_is_not_zero_where_all_losses_can_be_descended(name):
    for rows, of in matrices():
        rows = improvable(rows, of, all_of_them=True)
        assert combined(name, rows).norm() > 5e-3 * unit(rows)


# What is rounding, and what is short


@pytest.mark.parametrize("name", ["aligned_mtl", "imtl_g"])
@pytest.mark.parametrize("kind", ["a seventh", "a sum", "several"])
def test_rounding_is_no_direction(name, kind, fuzz):
    """In float32, g / 7 and g differ in direction by rounding: the step is that of the exact
    vectors, in float64."""
    for seed in fuzz:
        of = torch.Generator().manual_seed(seed)
        first, second = torch.randn(2, 50, generator=of)
        exact = {
            "a seventh": [first.double(), first.double() / 7],
            "a sum": [first.double(), second.double(), first.double() + second.double()],
            "several": [first.double(), second.double(), second.double() / 3, -first.double() / 5],
        }[kind]
        expected = combined(name, torch.stack(exact))
        result = combined(name, torch.stack(exact).float())
        torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)
        assert result.norm() > 0.1


@pytest.mark.parametrize("ratio", [1, 10, 1e3, 1e4])
def test_a_short_gradient_is_no_rounding(ratio):
    """Aligned-MTL of orthogonal gradients has the length of the shortest, in float32, too."""
    rows = torch.eye(8)[:2] * torch.tensor([[ratio], [1.0]])
    torch.testing.assert_close(combined("aligned_mtl", rows), torch.eye(8)[:2].sum(0))


@pytest.mark.parametrize("n", [3, 4, 5])
def test_nash_takes_inner_products_of_float32(n, fuzz):
    """They may have eigenvalues below zero."""
    below = 0
    for seed in fuzz:
        of = torch.Generator().manual_seed(seed)
        rows = torch.randn(n, 2, generator=of) @ torch.randn(2, 9, generator=of)
        gram = (rows @ rows.T).double()
        below += bool(torch.linalg.eigvalsh(gram)[0] < -1e-9 * gram.trace())
        method = build_method("nash_mtl")
        method.rounding = {"audio": 1e-6}
        factors = method.factors(gram, "audio", [])
        assert factors.isfinite().all() and (factors > 0).all()
    assert below > len(fuzz) / 10


@pytest.mark.parametrize("ratio", [1, 10, 100, 1000])
@pytest.mark.parametrize("cosine", [-0.99, -0.9, -0.3])
def test_upgrad_ascends_nothing_at_any_ratio_of_lengths(ratio, cosine):
    first, second = torch.eye(5).double()[:2]
    rows = torch.stack([first, cosine * first + (1 - cosine**2) ** 0.5 * second])
    rows[0] *= ratio
    result = combined("upgrad", rows)
    assert (rows @ result >= -1e-7 * rows.norm(dim=1) * result.norm()).all()
    torch.testing.assert_close(result, combined("pcgrad", rows), rtol=1e-7, atol=1e-7)


def test_upgrad_ascends_nothing_where_lengths_are_20_to_1(fuzz):
    for seed in fuzz:
        of = torch.Generator().manual_seed(seed)
        rows = torch.randn(3, 6, generator=of).double() * torch.tensor([[20.0], [1.0], [4.0]])
        result = combined("upgrad", rows)
        assert (rows @ result >= -1e-7 * rows.norm(dim=1) * result.norm()).all()
