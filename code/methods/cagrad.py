"""CAGrad: the step that helps the worst-off loss most, not far from the mean gradient.

    d = argmax min_i <d, g_i>  subject to  |d - g_0| <= c |g_0|,  g_0 = mean_i g_i
      = g_0 + c |g_0| / |g_w| g_w,  g_w = sum_i w_i g_i,
        w on the simplex minimising <g_w, g_0> + c |g_0| |g_w|
    .grad of a group = n d / (1 + c^2)

c = 0 is the mean, here the uniform baseline; for large c the direction becomes MGDA's.

Source: Liu et al. 2021, Eq. 2 and Algorithm 1, c = 0.4 as in their NYU-v2 runs. The factor n and
the division are in the published code alone (nyuv2/utils.py, rescale=1); `--cagrad_rescale paper`
does not divide. Departs: w by TorchJD (a cone program), of gradients whose longest has length 1;
where they are near the Pareto front, |g_w| below 1e-4 of that, the step is zero. Cost: a backward
pass per loss, 5 F per step, and a solver on the CPU.
"""

from methods._per_loss import TorchJD
from utils.errors import check_at_least


class Method(TorchJD):
    weighting, package = "CAGradWeighting", "torchjd[cagrad]"

    def __init__(self, cagrad_c=0.4, cagrad_rescale="code", groups="encoder"):
        check_at_least(0, cagrad_c=cagrad_c)
        super().__init__(groups, c=cagrad_c)
        self.divisor = 1 + cagrad_c**2 if cagrad_rescale == "code" else 1

    def factors(self, gram, group, losses):
        return super().factors(gram, group, losses) / self.divisor

    @staticmethod
    def add_options(parser):
        TorchJD.add_options(parser)
        parser.add_argument(
            "--cagrad_c",
            type=float,
            default=0.4,
            help="farthest distance from the mean gradient, in its lengths, at least 0",
        )
        parser.add_argument(
            "--cagrad_rescale",
            choices=("code", "paper"),
            default="code",
            help="divide the step by 1 + c^2, as the published code does, or not, as the paper",
        )
