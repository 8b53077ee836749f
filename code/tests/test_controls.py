"""The controls that separate direction, magnitude and gain of the MMPareto step."""

import pytest
import torch
from steps import take_step
from torch import nn

from methods import ForwardPass, mmpareto, random_weights, uniform
from methods.random_weights import random_factors


class Two(nn.Module):
    """One encoder, so small that its two gradients are what the test wants them to be."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ParameterList([torch.zeros(2).double(), torch.zeros(3).double()])

    def groups(self, losses):
        return {"audio": list(self.encoder)}


def step(method, first, second):
    """.grad of the encoder, one vector, and diagnostics, where the losses have these gradients."""
    model = Two()
    vector = torch.cat([p for p in model.encoder])
    losses = {"multimodal": vector @ first, "audio": vector @ second}
    diagnostics = take_step(method, model, ForwardPass(losses, {}, {}, torch.zeros(1), 0))
    return torch.cat([p.grad for p in model.encoder]), diagnostics


def build(gamma=1.5, seed=0):
    method = random_weights.Method(gamma=gamma)
    method.start_epoch(0, None, {}, seed)
    return method


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(5, generator=generator).double()
    return first, -0.6 * first + 0.5 * torch.randn(5, generator=generator).double()


def test_in_conflict_the_length_is_the_sums_and_the_direction_is_drawn(pair):
    first, second = pair
    assert first @ second < 0
    method, directions = build(), []
    for _ in range(50):
        result, diagnostics = step(method, first, second)
        torch.testing.assert_close(result.norm(), 1.5 * (first + second).norm())
        assert diagnostics["cosine/audio"] < 0
        weights = torch.stack(
            [diagnostics[f"weight/audio/{name}"] for name in ("multimodal", "audio")]
        )
        torch.testing.assert_close(weights.sum(), torch.ones(()).double())
        mixture = weights[0] * first + weights[1] * second
        torch.testing.assert_close(result / result.norm(), mixture / mixture.norm())
        torch.testing.assert_close(diagnostics["norm/audio/multimodal"], first.norm())
        directions.append(float(weights[0]))
    spread = torch.tensor(directions)
    assert spread.std() > 0.2 and abs(spread.mean() - 0.5) < 0.15  # uniform on [0, 1]


def test_without_conflict_it_is_uniform_with_the_gain(pair):
    first, second = pair[0], pair[0] + 0.1 * pair[1]
    assert first @ second > 0
    control = uniform.Method(encoder_grad_scale=1.5)
    torch.testing.assert_close(step(build(), first, second)[0], step(control, first, second)[0])


def test_the_draws_follow_seed_and_epoch(pair):
    def drawn(seed, epoch):
        method = build(seed=seed)
        method.start_epoch(epoch, None, {}, seed)
        return step(method, *pair)[0]

    assert torch.equal(drawn(3, 2), drawn(3, 2))
    assert not torch.equal(drawn(3, 2), drawn(3, 1)) and not torch.equal(drawn(3, 2), drawn(4, 2))


def test_zero_and_opposed_gradients_stay_finite(pair):
    first, zero = pair[0], torch.zeros(5).double()
    torch.testing.assert_close(step(build(), first, zero)[0], 1.5 * first)
    assert (step(build(), first, -first)[0] == 0).all()  # the sum is zero, so is its length
    assert (step(build(), zero, zero)[0] == 0).all()


def test_three_losses():
    gram = torch.tensor([[1.0, -0.5, 0.2], [-0.5, 2.0, 0.1], [0.2, 0.1, 1.0]]).double()
    weights = torch.tensor([0.2, 0.5, 0.3]).double()
    factors = random_factors(gram, weights)
    torch.testing.assert_close(factors @ gram @ factors, gram.sum())
    torch.testing.assert_close(factors / factors.sum(), weights)


def test_direction_of_pareto_with_the_length_of_uniform_is_a_flag_of_mmpareto(pair):
    """`mmpareto --rescale encoder --gamma 1`: least-norm direction, |sum| long."""
    method = mmpareto.Method(gamma=1.0, rescale="encoder")
    result, diagnostics = step(method, *pair)
    torch.testing.assert_close(result.norm(), sum(pair).norm())
    assert diagnostics["descent/audio/multimodal"] > 0 and diagnostics["descent/audio/audio"] > 0


def test_a_bad_gain_is_refused():
    with pytest.raises(ValueError, match="--gamma 0: must be > 0"):
        build(gamma=0)
