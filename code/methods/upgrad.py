"""UPGrad: every gradient is projected onto the steps that harm no loss, then all are summed.

    cone = {d: <d, g_j> >= 0 for all j}
    .grad of a group = sum_i (the point of the cone nearest to g_i)

Without conflict this is the uniform baseline; the step never ascends a loss. For two losses it is
PCGrad.

Source: Quinton & Rey 2024 (Jacobian descent), who take the mean; computed by their library TorchJD.
Departs: the factor n (see _per_loss.py). The cone depends on directions alone, so TorchJD is asked
for gradients of length 1, with their lengths as preferences: its ridge, 1e-4 of the sum of squares,
would otherwise hide gradients a hundred times shorter than the longest. The ridge here is RIDGE.
Cost: a backward pass per loss, 5 F per step.
"""

import torch

from methods._per_loss import TorchJD, compared, inverse_where_positive

RIDGE = 1e-10  # which makes the inner products of dependent gradients positive definite


class Method(TorchJD):
    weighting, package = "UPGradWeighting", "torchjd[quadprog-projector]"

    def __init__(self, groups="encoder"):
        super().__init__(groups)
        from torchjd.linalg import QuadprogProjector

        self._weigh.projector = QuadprogProjector(norm_eps=0, reg_eps=RIDGE)

    def factors(self, gram, group, losses):
        norms, cosine = compared(gram)
        longest = norms.amax()  # the loss scale is in all norms
        self._weigh.pref_vector = norms / torch.where(longest > 0, longest, 1)
        return longest * self._weigh(cosine) * inverse_where_positive(norms)
