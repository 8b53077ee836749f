"""Conventional Pareto (MGDA): least-norm weights in every step, no rescaling.

    .grad of an encoder = n sum_i alpha_i g_i      alpha = least-norm weights, conflict or not

The factor n keeps the unit of the summed loss: equal weights give the uniform baseline. A zero
gradient is not counted in n.

Source: Wei & Hu 2024, Sec. 3.2 and Figure 1(c); Sener & Koltun 2018. Departs: exact weights, where
the published solver stops at 0.001 and 0.999. One backward pass per loss: 5 F per step.
"""

from methods._per_loss import PerLoss
from mmpareto import least_norm_weights


class Method(PerLoss):
    def factors(self, gram, group, losses):
        n = (gram.diagonal() > 0).sum()
        return n * least_norm_weights(gram)
