"""OGM-GE: OGM, and noise as large as the gradient's own to make up for what the modulation took.

    .grad of a convolution of encoder m = k_m g + z,  z ~ N(0, std(g)^2), std over its elements

k_m: see ogm.py. g is the gradient of one joint loss. Biases and all other layers have k_m g alone,
so on an encoder without convolutions this is --method ogm.

Source: Peng et al. 2022 (CVPR), Eq. 10 to 12; the deviation per tensor as in their published code.
Departs: as ogm.py; convolutions alone get the noise, as there. Needs a fusion with unimodal logits.
Unimodal heads: not trained. Cost: 3 F per step, as one joint loss, and a normal number per weight.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from methods import generator_of, ogm


class Method(ogm.Method):
    def __init__(self, ogm_alpha=0.1, ogm_epochs=0):
        super().__init__(ogm_alpha, ogm_epochs)
        self._generator, self._seed = None, 0

    def start_epoch(self, epoch, model, loaders, seed=0):
        super().start_epoch(epoch, model, loaders, seed)
        self._generator, self._seed = None, seed  # made anew on the device of the gradients

    def modulate(self, encoder, factor):
        gradients = gradients_of_convolutions(encoder) if self._is_modulated() else []
        deviations = [g.std() for g in gradients]  # before they are scaled
        super().modulate(encoder, factor)
        for g, deviation in zip(gradients, deviations):
            if self._generator is None:
                self._generator = generator_of(self._seed, self.epoch, g.device)
            g.addcmul_(torch.empty_like(g).normal_(generator=self._generator), deviation)


def gradients_of_convolutions(encoder: nn.Module) -> list[Tensor]:
    """Of all but the biases, of any dimension, in the order of `encoder.parameters()`.

    Where a weight is computed from others (spectral norm, weight norm), of those.
    """
    convolutions = [module for module in encoder.modules() if isinstance(module, _ConvNd)]
    weights = {p for module in convolutions for p in module.parameters() if p.ndim > 1}
    gradients = [p.grad for p in encoder.parameters() if p in weights and p.grad is not None]
    return [g for g in gradients if g.numel() > 1]  # a single number has no deviation
