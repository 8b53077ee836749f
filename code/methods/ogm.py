"""OGM, on-the-fly gradient modulation: the encoder that is ahead is slowed down.

    s_m = sum over the batch of softmax(W_m f_m + b / M)[target]
    rho_m = s_m / mean of the others' s
    k_m = 1 - tanh(alpha rho_m) if rho_m > 1, else 1               .grad of encoder m = k_m g_m

g_m is the gradient of one joint loss; with alpha = 0 this is --method joint.

Source: Peng et al. 2022 (CVPR), Eq. 8 to 10. Departs: all parameters of an encoder are
modulated, where the published code takes its convolutions; the mean of the others for three
modalities and more. alpha = 0.1, one of the values the paper's experiments use [recalled]; their
code has no default. In all epochs unless --ogm_epochs. Needs a fusion with unimodal logits.
Unimodal heads: not trained. Cost: 3 F per step, as one joint loss.
"""

import torch

from methods._modulation import Modulation, mean_of_others
from utils.errors import check_at_least


class Method(Modulation):
    def __init__(self, ogm_alpha=0.1, ogm_epochs=0):
        super().__init__()
        check_at_least(0, ogm_alpha=ogm_alpha, ogm_epochs=ogm_epochs)
        self.alpha, self.epochs, self.epoch = ogm_alpha, ogm_epochs, 0

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--ogm_alpha", type=float, default=0.1, help="strength of the modulation, at least 0")
        add("--ogm_epochs", type=int, default=0, help="modulated ones, the first N; 0: all")

    def start_epoch(self, epoch, model, loaders, seed=0):
        self.epoch = epoch

    def score(self, logits, target):
        return logits.softmax(1).gather(1, target[:, None])[:, 0]

    def _is_modulated(self):
        return not self.epochs or self.epoch < self.epochs

    def factors(self, s):
        if not self._is_modulated():
            return torch.ones_like(s)
        rho = s / mean_of_others(s).clamp(min=torch.finfo(s.dtype).tiny)
        return torch.where(rho > 1, 1 - (self.alpha * rho).tanh(), 1)
