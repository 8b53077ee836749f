"""RLW: random loss weighting, with weights drawn anew in every step.

    w = softmax(z), z ~ N(0, 1)^n
    .grad = gradient of n sum_i w_i L_i

On average this is the uniform baseline. What a method that weighs losses gains over it is due to
how it weighs them, not to their weights' moving about.

Source: Lin et al. 2022, "Reasonable Effectiveness of Random Weighting", Sec. 3, normal weights.
Departs: the factor n, so that on average every loss has weight 1. Cost: 3 F per step.
"""

import torch

import methods


class Method(methods.Method):
    def __init__(self):
        self._generator = methods.generator_of(seed=0, epoch=0)
        self._weights = None  # {loss: 0-d} of a batch, the same in all its parts and processes

    def start_epoch(self, epoch, model, loaders, seed=0):
        self._generator = methods.generator_of(seed, epoch)

    def backward(self, forward, model):
        if self._weights is None:
            drawn = torch.randn(len(forward.losses), generator=self._generator).softmax(0)
            drawn = (len(drawn) * drawn).to(forward.joint_loss.device, non_blocking=True)
            self._weights = dict(zip(forward.losses, drawn))
        sum(self._weights[name] * loss for name, loss in forward.losses.items()).backward()

    def integrate(self, model):
        weights, self._weights = self._weights, None
        return super().integrate(model) | {f"weight/{name}": w for name, w in weights.items()}
