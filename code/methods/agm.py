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


class Method(Modulation):
    def __init__(self, agm_alpha=1.0):
        super().__init__()
        if not agm_alpha >= 0:
            raise ValueError(f"--agm_alpha {agm_alpha}: must be at least 0")
        self.alpha, self.steps, self.average = agm_alpha, 0, None

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--agm_alpha", type=float, default=1.0, help="strength of the modulation, at least 0"
        )

    def score(self, logits, target):
        return cross_entropy(logits, target, reduction="none")

    def factors(self, scores):
        self.steps += 1
        before = scores if self.average is None else self.average.to(scores)
        self.average = before + (scores - before) / self.steps
        lead = (mean_of_others(scores) - scores).exp()
        usual = (mean_of_others(self.average) - self.average).exp()
        return (self.alpha * (usual - lead).clamp(max=10)).exp()

    def state_dict(self):
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state):
        self.steps, self.average = state["steps"], state["average"]
