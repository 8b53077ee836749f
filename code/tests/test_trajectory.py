"""Whole training steps against the published procedure, in float64 with momentum SGD."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from methods.mmpareto import mmpareto_backward
from models.multimodal import MultimodalModel
from utils.published import published_backward

PIXELS, STEPS = 32, 6


def batches(modalities):
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        inputs = {
            m: torch.randn(6, 1, PIXELS, PIXELS, generator=generator, dtype=torch.float64)
            for m in modalities
        }
        yield inputs, torch.randint(4, (6,), generator=torch.Generator().manual_seed(100 + step))


def train(modalities, backward):
    torch.manual_seed(1)
    model = MultimodalModel(dict.fromkeys(modalities, 1), 4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    cosines, history = [], []
    for inputs, target in batches(modalities):
        logits, _ = model(inputs)
        losses = {name: cross_entropy(x, target) for name, x in logits.items()}
        optimizer.zero_grad()
        cosines += backward(losses, model)
        optimizer.step()
        history.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    return history, cosines


def ours(losses, model):
    found = mmpareto_backward(losses, model.encoder_parameters())
    return [float(v) for k, v in found.items() if k.startswith("cosine/")]


def published(losses, model):
    return list(published_backward(losses, model).values())


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
def test_parameters_after_every_step_equal_the_published_ones(modalities):
    history, cosines = train(modalities, ours)
    expected, expected_cosines = train(modalities, published)
    assert min(expected_cosines) <= 0 < max(expected_cosines), "needs steps of both kinds"
    torch.testing.assert_close(cosines, expected_cosines, rtol=1e-9, atol=1e-11)
    for ours_now, theirs_now in zip(history, expected):
        assert (ours_now - theirs_now).norm() <= 1e-12 * theirs_now.norm()
