"""MMPareto: in conflict the least-norm direction with the magnitude of the sum, then a gain.

    .grad of an encoder = gamma lambda sum_i c_i g_i     c = ones, or in conflict n alpha

The formula in full, with its limits and sources, stands in ../mmpareto.py, the file that others
lift into their own code; this one gives it its flags. `--gamma 1` without conflict is the uniform
baseline.

Source: Wei & Hu 2024, Algorithm 1. Cost: a backward pass per loss, 5 F per step.
"""

from methods._per_loss import PerLoss
from mmpareto import mmpareto_factors
from utils.errors import check_positive


class Method(PerLoss):
    def __init__(self, gamma=1.5, rescale="tensor", groups="encoder"):
        super().__init__(groups)
        check_positive(gamma=gamma)
        self.gamma, self.rescale = gamma, rescale

    @staticmethod
    def add_options(parser):
        PerLoss.add_options(parser)
        add = parser.add_argument
        add("--gamma", type=float, default=1.5, help="magnitude gain of encoders' gradients, > 0")
        add(
            "--rescale",
            choices=("tensor", "encoder", "none"),
            default="tensor",
            help="restore the magnitude per parameter tensor (published code), per encoder (the "
            "paper's text), or not",
        )

    def factors(self, gram, group, losses):
        return mmpareto_factors(gram)
