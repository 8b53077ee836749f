"""GradNorm: loss weights, learnt so that losses which train slower get the longer gradient.

    G_i = w_i |g_i|,  r_i = (L_i / log K) / mean_j (L_j / log K)
    target_i = mean_j G_j r_i^alpha, held fixed
    w <- w - eta d/dw sum_i |G_i - target_i|, then scaled to sum_i w_i = n
    .grad of a group = sum_i w_i g_i

With equal norms and losses the weights stay 1: the uniform baseline.

Source: Chen et al. 2018, Eq. 1 and 2, Algorithm 1; alpha = 1.5 and eta = 0.025 as in their NYU-v2
runs; log K stands for the loss before training, as they advise for cross-entropy. Departs: weights
for every group, where the paper has one set for its shared layers; norms divided by their mean, so
that a loss scale does not matter; plain gradient descent on w, kept at least 0.01. Cost: a backward
pass per loss, 5 F per step.
"""

from math import log

import torch

from methods._per_loss import PerLoss
from utils.errors import check_at_least

LEAST = 0.01  # a weight that reached 0 would stay there


class Method(PerLoss):
    def __init__(self, gradnorm_alpha=1.5, gradnorm_lr=0.025, groups="encoder"):
        super().__init__(groups)
        check_at_least(0, gradnorm_alpha=gradnorm_alpha, gradnorm_lr=gradnorm_lr)
        self.alpha, self.eta = gradnorm_alpha, gradnorm_lr
        self.memory = {}  # {group: {loss: its weight}}; which losses reach it may change
        self._totals = {}  # {loss: its value so far in this batch, over log K}

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        add = parser.add_argument
        add("--gradnorm_alpha", type=float, default=1.5, help="force towards equal training rates")
        add("--gradnorm_lr", type=float, default=0.025, help="learning rate of the loss weights")

    def backward(self, forward, model):
        for name, loss in forward.losses.items():  # a loss scale is in all, and only ratios count
            value = loss.detach().double() / log(forward.logits[name].shape[1])
            self._totals[name] = self._totals.get(name, 0) + value
        super().backward(forward, model)

    def to_sum(self, model):
        return [*self._totals.values(), *super().to_sum(model)]

    def integrate(self, model):
        diagnostics = super().integrate(model)
        self._totals = {}
        return diagnostics

    def factors(self, gram, group, losses):
        norms = gram.diagonal().sqrt()
        memory = self.memory.setdefault(group, {})
        one = torch.ones_like(norms[0])
        w = torch.stack([memory.get(name, one).to(norms) for name in losses])
        values = torch.stack([self._totals[name] for name in losses]).to(norms)
        memory.update(zip(losses, updated(w, norms, values, self.alpha, self.eta)))
        return w


def updated(w, norms, losses, alpha, eta):
    """(n,) weights after one step. All (n,); losses in any common unit."""
    norms = norms / norms.mean().clamp(min=torch.finfo(norms.dtype).tiny)
    G = w * norms
    r = torch.where(losses.mean() > 0, losses / losses.mean(), 1)
    target = G.mean() * r**alpha
    w = (w - eta * (G - target).sign() * norms).clamp(min=LEAST)
    return w * len(w) / w.sum()
