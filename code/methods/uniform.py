"""Uniform baseline: the multimodal and all unimodal losses summed with weight 1, plain backward.

`--encoder_grad_scale 1.5` is the control for MMPareto's gamma: without conflict MMPareto is exactly
this, so the difference between the two is what the Pareto direction brings.

Source: Wei & Hu 2024, Sec. 3.1, published `uniform_baseline.py`. One backward pass: 3 F per step.
"""

import torch
from torch.nn.utils import get_total_norm

from methods import reduced
from methods._per_loss import PerLoss


class MeasuredSum(PerLoss):
    """The same gradient as the sum's, put together from each loss's own, which are measured."""

    def __init__(self, encoder_grad_scale: float):
        self.gamma, self.together = encoder_grad_scale, False

    def factors(self, gram, group, losses):
        return torch.ones_like(gram[0])


class Method:
    def __init__(self, options):
        if not options.encoder_grad_scale > 0:
            raise ValueError(f"--encoder_grad_scale {options.encoder_grad_scale}: must be > 0")
        self.scale, self.measured = options.encoder_grad_scale, None
        if options.measure_conflict:
            self.measured = MeasuredSum(self.scale)

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--encoder_grad_scale",
            type=float,
            default=1.0,
            help="factor on the encoders' gradient, > 0",
        )
        parser.add_argument(
            "--measure_conflict",
            action="store_true",
            help="also log the cosine and norm of each loss's gradient; same result, one backward "
            "pass per loss instead of one",
        )

    def backward(self, forward_pass, model):
        if self.measured and len(forward_pass.losses) > 1:
            return self.measured.backward(forward_pass, model)
        sum(forward_pass.losses.values()).backward()
        diagnostics = {}
        if not reduced(model, forward_pass):
            return diagnostics
        for modality, parameters in model.groups(forward_pass.losses).items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            diagnostics[f"norm/{modality}/sum"] = get_total_norm(gradients)
            if self.scale != 1:
                torch._foreach_mul_(gradients, self.scale)
        return diagnostics
