"""Whole training steps against the published procedure, in float64 with momentum SGD."""

import pytest
import torch
from steps import build_method, build_model, forward, shapes_for, take_step

from mmpareto import mmpareto_backward
from models.multimodal import MultimodalModel


def ours(batch, model):
    return mmpareto_backward(batch.losses, model.encoder_parameters())


def published(batch, model):
    return take_step(build_method("published"), model, batch)


def train(modalities, backward, pixels, steps):
    """(parameters after every step, cosines of every step and encoder)."""
    torch.manual_seed(1)
    model = MultimodalModel(shapes_for(modalities), 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    cosines, history = [], []
    for seed in range(steps):
        optimizer.zero_grad()
        diagnostics = backward(forward(model, seed, pixels=pixels), model)
        optimizer.step()
        cosines += [float(v) for k, v in diagnostics.items() if k.startswith("cosine/")]
        history.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return history, cosines


@pytest.mark.parametrize(
    "modalities, pixels, steps",
    [
        (("audio", "visual"), 32, 3),
        pytest.param(("audio", "visual"), 64, 6, marks=pytest.mark.slow),
        pytest.param(("audio", "visual", "flow"), 64, 6, marks=pytest.mark.slow),
    ],
)
def test_parameters_after_every_step_equal_the_published_ones(modalities, pixels, steps):
    history, cosines = train(modalities, ours, pixels, steps)
    expected, expected_cosines = train(modalities, published, pixels, steps)
    assert min(expected_cosines) <= 0 < max(expected_cosines), "needs steps of both kinds"
    torch.testing.assert_close(cosines, expected_cosines, rtol=1e-9, atol=1e-11)
    for parameters, theirs in zip(history, expected, strict=True):
        assert (parameters - theirs).norm() <= 1e-12 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_gradients_equal_the_published_ones(dtype):
    model = build_model("mmpareto")
    gradients = []
    for backward in (ours, published):
        model.zero_grad()
        backward(forward(model, autocast=dtype), model)
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        assert a.dtype == torch.float32  # so inner products are, too
        # the published fourth pass sums the losses' gradients in half precision on their way down
        assert (a - b).norm() <= torch.finfo(dtype).eps * b.norm()
