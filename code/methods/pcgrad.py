"""PCGrad: of every gradient what opposes another is projected away, then all are summed.

    g_i' = g_i;  for every other j, in random order:
        if <g_i', g_j> < 0:  g_i' -= <g_i', g_j> / |g_j|^2 g_j
    .grad of a group = sum_i g_i'

Without conflict this is the uniform baseline.

Source: Yu et al. 2020, Algorithm 1. Any number of losses; with two the order does not matter. Cost:
a backward pass per loss, 5 F per step.
"""

import torch

from methods._per_loss import PerLoss


def projected(gram, orders):
    """(n,) factors of the gradients in the sum of the projected ones.

    gram: (n, n) inner products; orders: (n, n) order in which each gradient meets the others.
    """
    total = torch.zeros_like(gram[0])
    for i, order in enumerate(orders.tolist()):
        c = torch.zeros_like(gram[0])  # g_i' = sum_j c_j g_j
        c[i] = 1
        for j in order:
            if j != i:
                product = gram[j] @ c
                opposed = (product < 0) & (gram[j, j] > 0)
                c[j] -= torch.where(opposed, product / gram[j, j], 0)
        total += c
    return total


class Method(PerLoss):
    def factors(self, gram, group, losses):
        n = len(gram)
        orders = torch.stack([torch.randperm(n, generator=self._generator) for _ in range(n)])
        return projected(gram, orders)
