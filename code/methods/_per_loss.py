"""Shared by methods that look at each loss's own gradient: .grad of a group of parameters is
sum_i c_i g_i, the factors c computed from nothing but the inner products <g_i, g_j> of n losses.

A method that gives a mean or a convex combination gets c = n times its weights, so that equal
weights are the uniform baseline and all methods run at one learning rate; each file says so. A
common factor on all gradients (a loss scale) must not change c. What is not finite, and gradients
that are zero, are as in ../mmpareto.py. Every loss is back-propagated once: 5 F per step for two
encoders, each with two losses.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from methods import Method, norms_of_sum
from mmpareto import LossGradients


def in_units_of_the_longest(gram: Tensor) -> Tensor:
    """Inner products (n, n) over the largest squared norm: free of the loss scale."""
    longest = gram.diagonal().amax()
    return gram / torch.where(longest > 0, longest, 1)


def torchjd_weighting(name: str, install: str = "torchjd", **settings):
    """A weighting of the library TorchJD: inner products (n, n) -> weights (n,).

    Raises ValueError with the command that installs what is missing.
    """
    try:
        from torchjd import aggregation
    except ImportError as missing:
        raise ValueError(f"needs TorchJD, pip install '{install}' ({missing})") from None
    try:
        return vars(aggregation)[name](**settings)
    except (ImportError, KeyError) as missing:
        raise ValueError(f"needs TorchJD, pip install '{install}' ({missing})") from None


class PerLoss(Method):
    """A method is its `factors`; MMPareto also has a gain and a rescaling, see `integrate`."""

    gamma, rescale = 1.0, "none"

    def __init__(self, groups: str = "encoder"):
        self._together, self._gradients = groups == "together", None

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--groups",
            choices=("encoder", "together"),
            default="encoder",
            help="combine the gradients of each encoder by itself, or of all encoders together; "
            "losses that reach no common encoder have cosine 0 there",
        )

    def factors(self, gram: Tensor, group: str, losses: list[str]) -> Tensor:
        """(n,) factors of the gradients of n `losses` on `group`, from inner products (n, n)."""
        raise NotImplementedError

    def backward(self, forward, model):
        if self._gradients is None:
            groups = model.groups(forward.losses)
            if self._together:
                groups = {"encoders": [p for parameters in groups.values() for p in parameters]}
            self._gradients = LossGradients(groups)
        self._gradients.add(forward.losses)

    def to_sum(self, model):
        gathered = [g for sums in self._gradients.sums.values() for g in sums.values()]
        return gathered + super().to_sum(model)

    def integrate(self, model):
        gradients, self._gradients = self._gradients, None
        rules = {}
        for group in gradients.groups:
            losses = gradients.losses_of(group)
            rules[group] = partial(self.factors, group=group, losses=losses)
        diagnostics = gradients.integrate(self.gamma, self.rescale, rules)
        return diagnostics or norms_of_sum(gradients.groups)  # with one loss alone nothing is told


class TorchJD(PerLoss):
    """n times the weights that a weighting of TorchJD gives, see `torchjd_weighting`."""

    needs = {"waits_for_device"}

    def __init__(self, groups: str, name: str, install: str = "torchjd", **settings):
        super().__init__(groups)
        self._weighting = torchjd_weighting(name, install, **settings)

    def factors(self, gram, group, losses):
        return len(gram) * self._weighting(in_units_of_the_longest(gram))
