"""Whole training steps against the published procedure, in float64 with momentum SGD."""

import pytest
import torch
from steps import build_method, shapes_for, take_step
from torch import nn
from torch.nn.functional import cross_entropy

from methods import ForwardPass
from mmpareto import LossGradients, mmpareto_backward
from models.multimodal import MultimodalModel


def batches(modalities, pixels, steps):
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        inputs = {
            m: torch.randn(6, 1, pixels, pixels, generator=generator, dtype=torch.float64)
            for m in modalities
        }
        yield inputs, torch.randint(4, (6,), generator=torch.Generator().manual_seed(100 + step))


def losses_of(model, inputs, target):
    logits, _ = model(inputs)
    return {name: cross_entropy(x, target) for name, x in logits.items()}


def whole_batch(backward):
    """A step on the whole batch at once, with `backward(losses, model) -> cosines`."""
    return lambda model, inputs, target: backward(losses_of(model, inputs, target), model)


def ours(losses, model):
    found = mmpareto_backward(losses, model.encoder_parameters())
    return [float(v) for k, v in found.items() if k.startswith("cosine/")]


def published(losses, model):
    given = ForwardPass(losses, {}, {}, torch.zeros(0), 0)
    found = take_step(build_method("published"), model, given)
    return [float(v) for k, v in found.items() if k.startswith("cosine/")]


def ours_in_parts(model, inputs, target):
    gradients = LossGradients(model.encoder_parameters())
    for rows in (slice(0, 3), slice(3, 5), slice(5, 6)):
        part = losses_of(model, {m: x[rows] for m, x in inputs.items()}, target[rows])
        gradients.add({k: v * len(target[rows]) / len(target) for k, v in part.items()})
    return [float(v) for k, v in gradients.integrate().items() if k.startswith("cosine/")]


def train(modalities, step, pixels=32, steps=6, change=None, clip=None):
    """(parameters after every step, cosines of every step and encoder)."""
    torch.manual_seed(1)
    model = MultimodalModel(shapes_for(modalities), 4).double()
    if change:
        change(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    cosines, history = [], []
    for inputs, target in batches(modalities, pixels, steps):
        optimizer.zero_grad()
        cosines += step(model, inputs, target)
        if clip:
            norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
            assert norm > clip
        optimizer.step()
        history.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return history, cosines


def check_equal(one, other, both_kinds=True):
    (history, cosines), (expected, expected_cosines) = one, other
    if both_kinds:
        assert min(expected_cosines) <= 0 < max(expected_cosines), "needs steps of both kinds"
    torch.testing.assert_close(cosines, expected_cosines, rtol=1e-9, atol=1e-11)
    for ours_now, theirs_now in zip(history, expected):
        assert (ours_now - theirs_now).norm() <= 1e-12 * theirs_now.norm()


THREE = pytest.param(("audio", "visual", "flow"), marks=pytest.mark.slow)


@pytest.mark.parametrize("modalities", [("audio", "visual"), THREE])
def test_parameters_after_every_step_equal_the_published_ones(modalities):
    check_equal(
        train(modalities, whole_batch(ours), pixels=64),
        train(modalities, whole_batch(published), pixels=64),
    )


def test_with_clipping():
    clip = dict(clip=0.5, steps=4)
    pair = ("audio", "visual")
    check_equal(train(pair, whole_batch(ours), **clip), train(pair, whole_batch(published), **clip))


def freeze_normalisation(model):
    """Evaluation mode, so that a sample does not depend on those beside it."""
    model.eval()


def test_accumulated_parts_equal_the_published_step_on_the_whole_batch():
    pair, frozen = ("audio", "visual"), dict(change=freeze_normalisation, steps=4)
    check_equal(
        train(pair, ours_in_parts, **frozen),
        train(pair, whole_batch(published), **frozen),
        both_kinds=False,
    )


def freeze_first_layers(model):
    """The published procedure cannot (it clones a gradient that is None), so it sees only the
    others."""
    for encoder in model.encoders.values():
        encoder.trunk.conv1.requires_grad_(False)
        encoder.trunk.layer1.requires_grad_(False)
    every = model.encoder_parameters
    model.encoder_parameters = lambda: {
        m: [p for p in ps if p.requires_grad] for m, ps in every().items()
    }


def test_with_frozen_parameters():
    pair, frozen = ("audio", "visual"), dict(change=freeze_first_layers, steps=4)
    check_equal(
        train(pair, whole_batch(ours), **frozen), train(pair, whole_batch(published), **frozen)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_gradients_equal_the_published_ones(dtype):
    torch.manual_seed(2)
    model = MultimodalModel(shapes_for(("audio", "visual")), 4)
    inputs = {m: torch.randn(6, 1, 32, 32) for m in model.encoders}
    target = torch.randint(4, (6,))
    gradients = {}
    for name, backward in (("ours", ours), ("published", published)):
        model.zero_grad()
        with torch.autocast("cpu", dtype):
            losses = losses_of(model, inputs, target)
        backward(losses, model)
        gradients[name] = [p.grad for p in model.parameters()]
    for a, b in zip(gradients["ours"], gradients["published"]):
        assert a.dtype == torch.float32  # so inner products are, too
        # the published fourth pass sums the losses' gradients in half precision on their way down
        assert (a - b).norm() <= torch.finfo(dtype).eps * b.norm()
