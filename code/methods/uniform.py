"""Uniform: the multimodal and all unimodal losses summed with weight 1, plain backward.

`--encoder_grad_scale 1.5` is the control for MMPareto's gamma: without conflict MMPareto is exactly
this, so the difference between the two is what the Pareto direction brings.

Source: Wei & Hu 2024, Sec. 3.1, published `uniform_baseline.py`. One backward pass: 3 F per step.
"""

import torch

import methods
from methods import norms_of_sum
from methods._per_loss import PerLoss
from utils import distributed
from utils.errors import check_positive


class Method(methods.Method):
    def __init__(self, encoder_grad_scale=1.0, measure_conflict=False):
        check_positive(encoder_grad_scale=encoder_grad_scale)
        self.scale, self._shared = encoder_grad_scale, set()
        # the same gradient, put together from each loss's own, which are measured
        self._measured = PerLoss() if measure_conflict else None

    @staticmethod
    def add_options(parser):
        add, factor = parser.add_argument, "factor on the encoders' gradient, > 0"
        add("--encoder_grad_scale", type=float, default=1.0, help=factor)
        add(
            "--measure_conflict",
            action="store_true",
            help="also log the cosine and norm of each loss's gradient; same result, one backward "
            "pass per loss instead of one",
        )

    def backward(self, forward, model):
        self._shared |= set(model.groups(forward.losses).get("shared", []))
        (self._measured or super()).backward(forward, model)

    def to_sum(self, model):
        # in any part of the batch and any process: each may drop layers at random
        parameters = list(model.parameters())
        shared = distributed.gather([i for i, p in enumerate(parameters) if p in self._shared])
        self._shared = {parameters[i] for i in shared}
        return (self._measured or super()).to_sum(model)

    def integrate(self, model):
        measured = self._measured.integrate(model) if self._measured else {}
        groups = model.encoder_parameters()
        if shared := [p for p in model.parameters() if p in self._shared]:
            groups["shared"] = shared
        self._shared = set()
        diagnostics = norms_of_sum(groups) | measured
        gradients = [p.grad for ps in groups.values() for p in ps if p.grad is not None]
        if self.scale != 1:
            torch._foreach_mul_(gradients, self.scale)
        return diagnostics
