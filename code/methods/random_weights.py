"""Control for MMPareto: in conflict the weights are drawn at random, the magnitude is the sum's.

    conflict, some cos(g_i, g_j) <= 0:   h = sum_i a_i g_i, a uniform on the simplex
                                         .grad = gamma |sum_i g_i| / |h| h
    otherwise:                           .grad = gamma sum_i g_i

What MMPareto gains over this is due to the least-norm direction: neither to leaving the direction
of the sum nor to the length of the step. Not in the paper. A backward pass per loss: 5 F per step.
"""

import torch

from methods import mmpareto


def random_shares(gram, generator):
    """(n,) factors of the gradients with the inner products `gram` (n, n): ones without conflict,
    else random weights times |sum_i g_i| / |sum_i a_i g_i|."""
    drawn = torch.empty(len(gram), dtype=torch.float64).exponential_(generator=generator)
    weights = (drawn / drawn.sum()).to(gram.device, non_blocking=True)
    lengths = gram.diagonal().sqrt()
    opposed = ((gram <= 0) & (lengths.outer(lengths) > 0)).any()
    size, size_of_sum = (weights @ gram @ weights).sqrt(), gram.sum().clamp(min=0).sqrt()
    shares = torch.where(size > 0, weights * size_of_sum / size, 0)
    return torch.where(opposed, shares, 1), weights


class Method(mmpareto.Method):
    rescale, solve = "none", "never"

    def __init__(self, options):
        if not options.gamma > 0:
            raise ValueError(f"--gamma {options.gamma}: must be > 0")
        self.gamma, self.seed = options.gamma, getattr(options, "random_seed", 0)
        self.start_epoch(0)

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--gamma", type=float, default=1.5, help="magnitude gain of the encoders' gradient, > 0"
        )

    def start_epoch(self, epoch):
        # its own generator: the same numbers in every process and after a resume
        self.generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)

    def integrate(self):
        replaced = {}
        for group, by_loss in self.gradients.sums.items():
            n, vectors = len(by_loss), list(by_loss.values())
            if n < 2:
                continue
            gram = torch.zeros(n, n, dtype=torch.float64, device=vectors[0][0].device)
            for tensors in zip(*vectors):
                rows = [g if g is None else g.flatten().double() for g in tensors]
                for i in range(n):
                    for j in range(n):
                        if rows[i] is not None and rows[j] is not None:
                            gram[i, j] += rows[i].dot(rows[j])
            shares, weights = random_shares(gram, self.generator)
            for name, tensors, share, weight, squared in zip(
                by_loss, vectors, shares, weights, gram.diagonal()
            ):
                torch._foreach_mul_([g for g in tensors if g is not None], share)
                replaced[f"weight/{group}/{name}"] = torch.where((shares == 1).all(), 1 / n, weight)
                replaced[f"norm/{group}/{name}"] = squared.sqrt()
        return super().integrate() | replaced
