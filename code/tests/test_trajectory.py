"""Whole training steps against the published procedure, in float64 with momentum SGD."""

import pytest
import torch
from steps import build_method, shapes_for, take_step
from torch.nn.functional import cross_entropy

from methods import ForwardPass
from mmpareto import mmpareto_backward
from models.multimodal import MultimodalModel


def losses_of(model, inputs, target):
    logits, _ = model(inputs)
    return {name: cross_entropy(x, target) for name, x in logits.items()}


def ours(losses, model):
    return mmpareto_backward(losses, model.encoder_parameters())


def published(losses, model):
    return take_step(
        build_method("published"), model, ForwardPass(losses, {}, {}, torch.zeros(0), 0)
    )


def train(modalities, backward, pixels, steps):
    """(parameters after every step, cosines of every step and encoder)."""
    torch.manual_seed(1)
    model = MultimodalModel(shapes_for(modalities), 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    cosines, history = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        size = (6, 1, pixels, pixels)
        inputs = {m: torch.randn(size, generator=generator).double() for m in modalities}
        target = torch.randint(4, (6,), generator=generator)
        optimizer.zero_grad()
        diagnostics = backward(losses_of(model, inputs, target), model)
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
    torch.manual_seed(2)
    model = MultimodalModel(shapes_for(("audio", "visual")), 4, "cnn")
    inputs = {m: torch.randn(6, 1, 32, 32) for m in model.encoders}
    target = torch.randint(4, (6,))
    gradients = []
    for backward in (ours, published):
        model.zero_grad()
        with torch.autocast("cpu", dtype):
            losses = losses_of(model, inputs, target)
        backward(losses, model)
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients):
        assert a.dtype == torch.float32  # so inner products are, too
        # the published fourth pass sums the losses' gradients in half precision on their way down
        assert (a - b).norm() <= torch.finfo(dtype).eps * b.norm()
