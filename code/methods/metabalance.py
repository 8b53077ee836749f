"""MetaBalance: every unimodal gradient is brought near the magnitude of the multimodal one.

    m_i <- beta m_i + (1 - beta) |g_i|
    .grad of a group = g_m + sum_u (r m_m / m_u + 1 - r) g_u

m is the multimodal loss, the target; u are the unimodal losses, the auxiliary ones. With norms
that are and stay equal, or r = 0, this is the uniform baseline; with r = 1 an auxiliary gradient
is as long as the target's.

Source: He et al. 2022, Eq. 3 to 5, "strategy C" (up and down); r = 0.7, beta = 0.9 as there.
Departs: one norm for a group, where the paper takes one per layer. Cost: a backward pass per loss,
5 F per step.
"""

import torch

from methods._per_loss import PerLoss


class Method(PerLoss):
    def __init__(self, metabalance_relax=0.7, metabalance_beta=0.9, groups="encoder"):
        super().__init__(groups)
        if not 0 <= metabalance_relax <= 1:
            raise ValueError(f"--metabalance_relax {metabalance_relax}: must be within [0, 1]")
        if not 0 <= metabalance_beta < 1:
            raise ValueError(f"--metabalance_beta {metabalance_beta}: must be within [0, 1)")
        self.r, self.beta = metabalance_relax, metabalance_beta
        self.memory = {}  # {group: {loss: its m}}; which losses reach it may change

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        add = parser.add_argument
        add("--metabalance_relax", type=float, default=0.7, help="r: 0 leaves, 1 equals magnitudes")
        add("--metabalance_beta", type=float, default=0.9, help="of the moving average of norms")

    def factors(self, gram, group, losses):
        norms = gram.diagonal().sqrt()
        memory, zero = self.memory.setdefault(group, {}), torch.zeros_like(norms[0])
        before = torch.stack([memory.get(name, zero).to(norms) for name in losses])
        m = self.beta * before + (1 - self.beta) * norms
        memory.update(zip(losses, m))
        factors = self.r * torch.where(m > 0, m[0] / m, 1) + 1 - self.r
        factors[0] = 1
        return factors
