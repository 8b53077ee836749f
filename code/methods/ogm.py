"""OGM, on-the-fly gradient modulation: the encoder that is ahead is slowed down.

    s_m = sum over the batch of softmax(W_m f_m + b / M)[target]
    rho_m = s_m / mean of the others' s
    k_m = 1 - tanh(alpha rho_m) if rho_m > 1, else 1               .grad of encoder m = k_m g_m

g_m is the gradient of one joint loss; with alpha = 0 this is --method joint.

Source: Peng et al. 2022 (CVPR), Eq. 8 to 10. alpha = 0.1 and the first 51 epochs (0 to 50, of 100)
are the "default modulation setting" of their repository, GeWu-Lab/OGM-GE_CVPR2022, which advises
alpha = 0.8 for CREMA-D. Departs: all parameters of an encoder are modulated, where their code
takes its convolutions; at rho = 1 nothing is, where their code slows the first modality; the mean
of the others for three modalities and more. Needs a fusion with unimodal logits. Unimodal heads:
not trained. Cost: 3 F per step, as one joint loss.
"""

import torch

from methods._modulation import Modulation, mean_of_others
from utils.errors import check_at_least


class Method(Modulation):
    def __init__(self, ogm_alpha=0.1, ogm_start=0, ogm_epochs=51):
        check_at_least(0, ogm_alpha=ogm_alpha, ogm_start=ogm_start, ogm_epochs=ogm_epochs)
        super().__init__(ogm_start, ogm_epochs)
        self.alpha = ogm_alpha

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--ogm_alpha", type=float, default=0.1, help="strength of the modulation, at least 0")
        add("--ogm_start", type=int, default=0, help="first modulated epoch, counted from 0")
        add("--ogm_epochs", type=int, default=51, help="how many from there on; 0: all")

    def score(self, logits, target):
        return logits.softmax(1).gather(1, target[:, None])[:, 0]

    def factors(self, s):
        rho = s / mean_of_others(s).clamp(min=torch.finfo(s.dtype).tiny)
        return torch.where(rho > 1, 1 - (self.alpha * rho).tanh(), 1)
