"""AGM, adaptive gradient modulation: who leads more than usual is slowed, who leads less sped up.

    s_m = mean cross-entropy of phi_m,  phi_m = W_m f_m + b / M
    r_m = exp(mean of the others' s - s_m),  tau_m = exp(mean of the others' S - S_m)
    kappa_m = exp(alpha min(tau_m - r_m, 10))    .grad of encoder m and of W_m = kappa_m g_m

S_m is the mean of s_m over all steps so far, this one included; g_m the gradient of one joint
loss; b, which the modalities share, has the mean of the kappa_m. The cross-entropy of a sample
counts as at most that of probability 1e-8. With equal scores, and with alpha = 0, this is --method
joint; with --no-agm_head the fusion has the gradient of one joint loss.

Source: Li et al. 2023 (ICCV), Sec. 3.2 and 3.3; the bound 10, the probability 1e-8, the factors of
W_m and b (its hooks scale what flows back through phi_m) and alpha = 1 as in their published code,
lihong2303/AGM_ICCV2023. Departs: S_m there leaves the current step out; the factors there are
computed in the first --modulation_ends epochs alone (20, of 100 in its example) and the last ones
are kept from then on, here in all epochs unless --agm_epochs, and then 1; gradients are clipped
there to norm 1 where an element of W's exceeds 1, see --clip_grad. phi_m is their Shapley-type
response where an absent modality is a zero feature; they set its input to zero. Three modalities
and more: as the formula. Needs a fusion with unimodal logits. Unimodal heads: not trained. Cost: 3
F per step.
"""

from argparse import BooleanOptionalAction
from math import log

from torch.nn.functional import cross_entropy

from methods._modulation import Modulation, mean_of_others
from utils.errors import check_at_least

MOST = -log(1e-8)  # cross-entropy of a sample


class Method(Modulation):
    def __init__(self, agm_alpha=1.0, agm_head=True, agm_epochs=0):
        check_at_least(0, agm_alpha=agm_alpha, agm_epochs=agm_epochs)
        super().__init__(epochs=agm_epochs)
        self.alpha, self.head = agm_alpha, agm_head
        self.memory = {"steps": 0, "average": None}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--agm_alpha", type=float, default=1.0, help="strength of the modulation, at least 0")
        add(
            "--agm_head",
            action=BooleanOptionalAction,
            default=True,
            help="modulate the fusion's weights of each modality as well, as published",
        )
        add("--agm_epochs", type=int, default=0, help="modulated ones, the first N; 0: all")

    def score(self, logits, target):
        return cross_entropy(logits, target, reduction="none").clamp(max=MOST)

    def factors(self, s):
        steps, before = self.memory["steps"] + 1, self.memory["average"]
        before = s if before is None else before.to(s)
        S = before + (s - before) / steps
        self.memory = {"steps": steps, "average": S}
        r = (mean_of_others(s) - s).exp()
        tau = (mean_of_others(S) - S).exp()
        return (self.alpha * (tau - r).clamp(max=10)).exp()

    def integrate(self, model):
        diagnostics = super().integrate(model)
        if self.head and model.fusion is not None:
            model.fusion.modulate({m: diagnostics[f"factor/{m}"] for m in model.encoders})
        return diagnostics
