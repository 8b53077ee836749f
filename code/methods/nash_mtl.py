"""Nash-MTL: the Nash bargaining solution between the losses.

    G^T G a = 1 / a (elementwise), a > 0, G = the gradients as columns
    .grad of a group = n sum_i a_i g_i / sum_i a_i

a is the unique minimum of 1/2 a^T (G^T G) a - sum_i log a_i, found by Newton's method. For two
gradients a_i = 1 / (|g_i| sqrt(1 + cos)): each counts by its direction alone. A zero gradient
takes no part. Opposed gradients have no solution: a ridge on the cosines, as large as what may be
mere rounding, gives one.

Source: Navon et al. 2022, Eq. 5 and Claim 3.1; their code (methods/weight_methods.py, NashMTL).
Departs: solved exactly in every step, where they take up to 20 steps of a convex-concave procedure;
the factors sum to n (see _per_loss.py), where their step has length sqrt(n), clipped by max_norm =
1 to 1, whatever the gradients. Their a also weighs the losses for heads and fusion, which have
weight 1 here. Where their solver fails it goes on with the last a. Cost: a backward pass per loss,
5 F per step.
"""

import torch

from methods._per_loss import PerLoss, compared

STEPS = 60  # of Newton's method; some ten are needed, more where the ridge decides
RIDGE = 1e-9  # the least


def bargained(cosine, ridge=RIDGE):
    """(n,) b > 0 with C b = 1 / b for the cosines C, without a wait for the device.

    cosine: (n, n) positive semi-definite but for errors below the ridge, ones on the diagonal.
    """
    n = len(cosine)
    matrix = cosine + ridge * torch.eye(n, dtype=cosine.dtype, device=cosine.device)
    b = torch.full_like(cosine[0], n**-0.5)
    for _ in range(STEPS):
        slope = matrix @ b - 1 / b
        newton = torch.linalg.solve_ex(matrix + torch.diag(b**-2), slope)[0]
        # a self-concordant function: this damped step stays inside and always descends
        decrement = (slope @ newton).clamp(min=0).sqrt()
        b = b - newton / (1 + decrement)
    return b


class Method(PerLoss):
    undoes_weights = True

    def factors(self, gram, group, losses):
        norms, cosine = compared(gram)
        takes_part = norms > 0
        b = bargained(cosine, max(RIDGE, self.rounding[group]))
        # an index that is a tensor: norms[i] would wait for the device
        unit = norms.index_select(0, takes_part.to(norms.dtype).argmax(0, keepdim=True))
        a = b * torch.where(takes_part, unit / norms, 0)  # a_i = b_i / |g_i|, in some unit
        return takes_part.sum() * a / a.sum().clamp(min=torch.finfo(norms.dtype).tiny)
