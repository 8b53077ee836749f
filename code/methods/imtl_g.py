"""IMTL-G: the combination whose projection on every gradient's direction has one length.

    d = sum_i a_i g_i,  sum_i a_i = 1,  <d, g_i / |g_i|> equal for all i
    .grad of a group = n d

For gradients of equal length this is their sum. Weights may be negative. Where the gradients are
exactly opposed nothing has that property: zero.

Source: Liu et al. 2021, "Towards Impartial Multi-task Learning", Sec. 3.1; computed by TorchJD,
which covers linearly dependent gradients too. Departs: the factor n (see _per_loss.py). Cost: a
backward pass per loss, 5 F per step.
"""

from methods._per_loss import TorchJD


class Method(TorchJD):
    undoes_weights = True
    weighting = "IMTLGWeighting"
