"""GradNorm: loss weights, learnt so that losses which train slower get the longer gradient.

    G_i = w_i |g_i|,  r_i = (L_i / log K) / mean_j (L_j / log K)
    target_i = mean_j G_j r_i^alpha, held fixed
    w <- w - eta d/dw sum_i |G_i - target_i|, then scaled to sum_i w_i = n
    .grad of a group = sum_i w_i g_i

With equal norms and losses the weights stay 1: the uniform baseline.

Source: Chen et al. 2018, Eq. 1 and 2, Algorithm 1; alpha = 1.5 and eta = 0.025 as in their NYU-v2
runs; log K stands for the loss before training, as they advise for cross-entropy. Departs: weights
for every group, where the paper has one set for its shared layers; norms divided by their mean, so
that a loss scale does not matter; plain gradient descent on w, kept at least 0.01. Any number of
losses. Unimodal heads: yes, with weight 1. Cost: a backward pass per loss, 5 F per step.
"""

from math import log

import torch

from methods._per_loss import PerLoss

LEAST = 0.01  # a weight that reached 0 would stay there


class Method(PerLoss):
    def __init__(self, options):
        super().__init__(options)
        if not options.gradnorm_alpha >= 0:
            raise ValueError(f"--gradnorm_alpha {options.gradnorm_alpha}: must be at least 0")
        if not options.gradnorm_lr >= 0:
            raise ValueError(f"--gradnorm_lr {options.gradnorm_lr}: must be at least 0")
        self.alpha, self.rate = options.gradnorm_alpha, options.gradnorm_lr
        self.weights = {}  # {group: (n,)}
        self.totals = None  # of the parts of a batch: a loss each

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        parser.add_argument(
            "--gradnorm_alpha", type=float, default=1.5, help="force towards equal training rates"
        )
        parser.add_argument(
            "--gradnorm_lr", type=float, default=0.025, help="learning rate of the loss weights"
        )

    def backward(self, forward_pass, model):
        logits = forward_pass.logits
        own = [
            x.detach().double() / log(logits[k].shape[1]) for k, x in forward_pass.losses.items()
        ]
        own = torch.stack(own)  # a loss scale is in all of them, and only their ratios count
        self.totals = own if self.totals is None else self.totals + own
        if forward_pass.ends_step:
            forward_pass.reduce([self.totals])()
            self.relative = dict(zip(logits, self.totals))
            self.totals = None
        return super().backward(forward_pass, model)

    def factors(self, gram, group, losses):
        norms = gram.diagonal().sqrt()
        weights = self.weights.get(group, torch.ones_like(norms)).to(norms)
        values = torch.stack([self.relative[name] for name in losses]).to(norms)
        self.weights[group] = updated(weights, norms, values, self.alpha, self.rate)
        return weights

    def state_dict(self):
        return dict(self.weights)

    def load_state_dict(self, state):
        self.weights = dict(state)


def updated(weights, norms, losses, alpha, rate):
    """(n,) weights after one step. All (n,); losses in any common unit."""
    norms = norms / norms.mean().clamp(min=torch.finfo(norms.dtype).tiny)
    lengths = weights * norms
    slowness = torch.where(losses.mean() > 0, losses / losses.mean(), 1)
    target = lengths.mean() * slowness**alpha
    weights = (weights - rate * (lengths - target).sign() * norms).clamp(min=LEAST)
    return weights * len(weights) / weights.sum()
