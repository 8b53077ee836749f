"""Control for MMPareto: in conflict the weights are drawn at random, the magnitude is the sum's.

    conflict, some cos(g_i, g_j) <= 0:   h = sum_i a_i g_i, a uniform on the simplex
                                         .grad = gamma |sum_i g_i| / |h| h
    otherwise:                           .grad = gamma sum_i g_i

What MMPareto gains over this is due to the least-norm direction: neither to leaving the direction
of the sum nor to the length of the step. Not in the paper. A backward pass per loss: 5 F per step.
"""

import torch

from methods._per_loss import PerLoss


def random_factors(gram, weights):
    """(n,) factors of the gradients: ones without conflict, else `weights` (n,), which sum to 1,
    times |sum_i g_i| / |sum_i a_i g_i|. gram: (n, n) inner products."""
    lengths = gram.diagonal().sqrt()
    opposed = ((gram <= 0) & (lengths.outer(lengths) > 0)).any()
    size, size_of_sum = (weights @ gram @ weights).sqrt(), gram.sum().clamp(min=0).sqrt()
    factors = torch.where(size > 0, weights * size_of_sum / size, 0)
    return torch.where(opposed, factors, 1)


class Method(PerLoss):
    def __init__(self, gamma=1.5, groups="encoder"):
        super().__init__(groups)
        if not gamma > 0:
            raise ValueError(f"--gamma {gamma}: must be > 0")
        self.gamma, self._generator = gamma, torch.Generator().manual_seed(0)

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        parser.add_argument(
            "--gamma", type=float, default=1.5, help="magnitude gain of the encoders' gradient, > 0"
        )

    def start_epoch(self, epoch, model, loaders, seed=0):
        # its own generator: the same numbers in every process and after a resume
        self._generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)

    def factors(self, gram, group, losses):
        drawn = torch.empty(len(gram), dtype=gram.dtype).exponential_(generator=self._generator)
        weights = (drawn / drawn.sum()).to(gram.device, non_blocking=True)
        return random_factors(gram, weights)
