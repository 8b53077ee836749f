"""Aligned-MTL: the gradients made orthogonal and of one length, near the given ones.

    G = gradients as rows = U S V^T;  aligned = sigma U V^T,  sigma = smallest singular value > 0
    .grad of a group = sum of the aligned gradients

For orthogonal gradients of equal length this is their sum; a nearly opposed or nearly parallel
pair gives a short step, as sigma is small then.

Source: Senushkin et al. 2023, Eq. 11 to 13, equal weights; computed by TorchJD. Departs: the factor
n (see _per_loss.py). Cost: a backward pass per loss, 5 F per step.
"""

from methods._per_loss import TorchJD


class Method(TorchJD):
    undoes_weights = True
    weighting = "AlignedMTLWeighting"
