"""Random in conflict: MMPareto's control, whose weights in conflict are drawn at random.

    conflict, some cos(g_i, g_j) <= 0:   h = sum_i a_i g_i, a uniform on the simplex
                                         .grad = gamma |sum_i g_i| / |h| h
    otherwise:                           .grad = gamma sum_i g_i

What MMPareto gains over this is due to the least-norm direction: neither to leaving the direction
of the sum nor to the length of the step. Not in the paper, and not RLW (rlw.py), which draws
weights in every step. A backward pass per loss: 5 F per step.
"""

import torch

from methods._per_loss import PerLoss
from utils.errors import check_positive


def random_factors(gram, a):
    """(n,) factors of the gradients: ones without conflict, else a (n,), which sum to 1,
    times |sum_i g_i| / |sum_i a_i g_i|. gram: (n, n) inner products."""
    lengths = gram.diagonal().sqrt()
    in_conflict = ((gram <= 0) & (lengths.outer(lengths) > 0)).any()
    length_of_h, length_of_sum = (a @ gram @ a).sqrt(), gram.sum().clamp(min=0).sqrt()
    factors = torch.where(length_of_h > 0, a * length_of_sum / length_of_h, 0)
    return torch.where(in_conflict, factors, 1)


class Method(PerLoss):
    def __init__(self, gamma=1.5, groups="encoder"):
        super().__init__(groups)
        check_positive(gamma=gamma)
        self.gamma = gamma

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        add = parser.add_argument
        add("--gamma", type=float, default=1.5, help="magnitude gain of encoders' gradients, > 0")

    def factors(self, gram, group, losses):
        drawn = torch.empty(len(gram), dtype=gram.dtype).exponential_(generator=self._generator)
        return random_factors(gram, (drawn / drawn.sum()).to(gram.device, non_blocking=True))
