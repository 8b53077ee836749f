"""The rules that combine gradients, under the properties that TorchJD asks of its own: on matrices
of any rank, dependent and stationary ones, in float32 as in training."""

import pytest
import torch
from steps import build_method, take_step
from test_per_loss import PER_LOSS
from toy import Given

SHAPES = [(6, 10, 6), (6, 10, 3), (6, 10, 1), (4, 50, 3), (3, 4, 2), (2, 8, 2), (5, 100, 4)]
FLAGS = {"mmpareto": ["--rescale", "encoder"], "cagrad": ["--cagrad_c", "1"]}
# what a property asks, and why a method cannot have it
ORDER = {
    "metabalance": "brings the others near the length of the first",
    "pcgrad": "projects in an order that is drawn",
    "torchjd": "GradVac goes through the others in an order that is drawn",
    "random_in_conflict": "its weights are drawn, one by one",
}
HARMS_NOTHING = {"mmpareto", "pareto", "upgrad", "cagrad", "nash_mtl"}
# of the others: the sums of projections of n >= 3 meet again what was projected away; lengths or
# random numbers alone decide
LINEAR = {"upgrad"}  # the others: lengths enter the direction, or a branch
ENDS_ONLY_WHERE_ALL_AGREE = {"upgrad", "pcgrad"}


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


@pytest.mark.parametrize("name", PER_LOSS)
def test_the_step_is_finite_and_no_longer_than_the_gradients_with_the_gain(name):
    for rows, _ in matrices():
        result = combined(name, rows)
        assert result.isfinite().all() and result.norm() <= 3 * len(rows) * rows.norm()


@pytest.mark.parametrize("name", sorted({*PER_LOSS} - ORDER.keys()))
def test_the_order_of_the_losses_does_not_matter(name):
    for rows, of in matrices():
        order = torch.randperm(len(rows), generator=of)
        expected, tolerance = combined(name, rows), 1e-4 * unit(rows).item()
        torch.testing.assert_close(combined(name, rows[order]), expected, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("name", sorted(HARMS_NOTHING))
def test_no_loss_is_ascended(name):
    for rows, _ in matrices():
        slopes = rows @ combined(name, rows)
        assert (slopes >= -4e-4 * rows.norm(dim=1) * unit(rows)).all()


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_the_step_is_linear_in_the_lengths(name):
    for rows, of in matrices():
        first, second = torch.rand(2, len(rows), 1, generator=of)
        expected = combined(name, first * rows) + 2 * combined(name, second * rows)
        result = combined(name, (first + 2 * second) * rows)
        assert (result - expected).norm() < 1e-3 * unit(rows)


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


@pytest.mark.parametrize("name", PER_LOSS)
def test_the_step_is_not_zero_where_all_losses_can_be_descended(name):
    for rows, of in matrices():
        rows = improvable(rows, of, all_of_them=True)
        assert combined(name, rows).norm() > 5e-3 * unit(rows)


@pytest.mark.parametrize("name", sorted(ENDS_ONLY_WHERE_ALL_AGREE))
def test_the_step_is_not_zero_where_some_loss_can_be_descended(name):
    """The others stop at a point that is Pareto stationary: where some of the losses cancel out."""
    for rows, of in matrices():
        rows = improvable(rows, of, all_of_them=False)
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
