"""Aligned-MTL: the gradients made orthogonal and of one length, near the given ones.

    G = gradients as rows = U S V^T;  aligned = sigma U V^T,  sigma = smallest singular value > 0
    .grad of a group = sum of the aligned gradients

For orthogonal gradients of equal length this is their sum; a nearly opposed or nearly parallel
pair gives a short step, as sigma is small then. A direction that may be mere rounding (`spectrum`
in _per_loss.py) has no singular value: parallel gradients have one direction together.

Source: Senushkin et al. 2023, Eq. 11 to 13, equal weights, and their code (code/optim/aligned),
which sums the aligned gradients, too. Departs: rounding is told by the cosines, there by the
singular values, which takes a short gradient for rounding; their other choices of sigma, median and
root mean square, and their scaling of the heads are not here. Cost: a backward pass per loss, 5 F
per step.
"""

import torch

from methods._per_loss import PerLoss, spectrum


class Method(PerLoss):
    needs = {"waits_for_device"}
    undoes_weights = True

    def factors(self, gram, group, losses):
        values, vectors = spectrum(gram, self.rounding[group])
        singular = values.sqrt()
        sigma = torch.where(singular > 0, singular, torch.inf).amin()
        # sigma G^(-1/2) (1, ..., 1); nothing is left of zero gradients
        shares = torch.where(singular > 0, sigma / singular, 0)
        return vectors @ (shares * vectors.sum(0))
