"""IMTL-G: the combination whose projection on every gradient's direction has one length.

    d = sum_i a_i g_i,  sum_i a_i = 1,  <d, g_i / |g_i|> equal for all i
    .grad of a group = n d

For gradients of equal length this is their sum. Weights may be negative. Of linearly dependent
gradients the weights are the shortest ones, before they are divided by their sum; where gradients
are exactly opposed nothing has that property, and a sum of 0 gives zero.

Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", Sec. 3.1; of dependent gradients
Quinton & Rey 2024, by the pseudo-inverse of the inner products. Departs: the factor n (see
_per_loss.py). Cost: a backward pass per loss, 5 F per step.
"""

import torch

from methods._per_loss import PerLoss, inverse_where_positive, spectrum


class Method(PerLoss):
    needs = {"waits_for_device"}
    undoes_weights = True

    def factors(self, gram, group, losses):
        norms = gram.diagonal().sqrt()
        values, vectors = spectrum(gram, self.rounding[group])
        a = vectors @ (inverse_where_positive(values) * (norms @ vectors))
        # of the projections, which add up to n where all are equal: 0 means opposed
        is_found = a @ norms > self.rounding[group]
        total = torch.where(is_found, a.sum(), torch.inf)
        return len(gram) * a / total
