"""AGM, adaptive gradient modulation: who leads more than usual is slowed, who leads less sped up.

    s_m = mean cross-entropy of phi_m,  phi_m = W_m f_m + b / M
    r_m = exp(mean of the others' s - s_m),  tau_m = exp(mean of the others' S - S_m)
    kappa_m = exp(alpha min(tau_m - r_m, 10))                      .grad of encoder m = kappa_m g_m

S_m is the mean of s_m over all steps so far, this one included; g_m the gradient of one joint
loss. With equal scores, and with alpha = 0, this is --method joint.

Source: Li et al. 2023 (ICCV), Sec. 3.2 and 3.3; the bound 10 and alpha = 1 as in their published
code, whose S_m leaves the current step out. phi_m is their Shapley-type response where an absent
modality is a zero feature; they set its input to zero. Three modalities and more: as the formula.
Needs a fusion with unimodal logits. Unimodal heads: not trained. Cost: 3 F per step.
"""

from torch.nn.functional import cross_entropy

from methods._modulation import Modulation, mean_of_others
from utils.errors import check_at_least


class Method(Modulation):
    def __init__(self, agm_alpha=1.0):
        super().__init__()
        check_at_least(0, agm_alpha=agm_alpha)
        self.alpha, self.memory = agm_alpha, {"steps": 0, "average": None}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--agm_alpha", type=float, default=1.0, help="strength of the modulation, at least 0")

    def score(self, logits, target):
        return cross_entropy(logits, target, reduction="none")

    def factors(self, s):
        steps, before = self.memory["steps"] + 1, self.memory["average"]
        before = s if before is None else before.to(s)
        S = before + (s - before) / steps
        self.memory = {"steps": steps, "average": S}
        r = (mean_of_others(s) - s).exp()
        tau = (mean_of_others(S) - S).exp()
        return (self.alpha * (tau - r).clamp(max=10)).exp()
