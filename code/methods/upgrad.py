"""UPGrad: every gradient is projected onto the steps that harm no loss, then all are summed.

    cone = {d: <d, g_j> >= 0 for all j}
    .grad of a group = sum_i (the point of the cone nearest to g_i)

Without conflict this is the uniform baseline; the step never ascends a loss. For two losses it is
PCGrad.

Source: Quinton & Rey 2024 (Jacobian descent), who take the mean; computed by their library TorchJD.
Departs: the factor n (see _per_loss.py). Cost: a backward pass per loss, 5 F per step.
"""

from methods._per_loss import TorchJD


class Method(TorchJD):
    weighting, package = "UPGradWeighting", "torchjd[quadprog-projector]"
