"""OGM-GE: OGM, and noise as large as the gradient's own to make up for what the modulation took.

    .grad of a tensor of encoder m = k_m g + z,  z ~ N(0, std(g)^2), std over the tensor's elements

k_m: see ogm.py. g is the gradient of one joint loss.

Source: Peng et al. 2022 (CVPR), Eq. 10 to 12; the deviation per tensor as in their published code.
Departs: as ogm.py; convolutions alone get the noise, as there. Needs a fusion with unimodal logits.
Unimodal heads: not trained. Cost: 3 F per step, as one joint loss, and a normal number per weight.
"""

import torch

from methods import generator_of, ogm


class Method(ogm.Method):
    def __init__(self, ogm_alpha=0.1, ogm_epochs=0):
        super().__init__(ogm_alpha, ogm_epochs)
        self._generator, self._seed = None, 0

    def start_epoch(self, epoch, model, loaders, seed=0):
        super().start_epoch(epoch, model, loaders, seed)
        self._generator, self._seed = None, seed  # made anew on the device of the gradients

    def modulate(self, gradients, factor):
        if not self._is_modulated():
            return super().modulate(gradients, factor)
        if self._generator is None:
            self._generator = generator_of(self._seed, self.epoch, gradients[0].device)
        convolutions = [g for g in gradients if g.ndim == 4]
        deviations = [g.std() for g in convolutions]  # before they are scaled
        super().modulate(gradients, factor)
        for g, deviation in zip(convolutions, deviations):
            g.addcmul_(torch.empty_like(g).normal_(generator=self._generator), deviation)
