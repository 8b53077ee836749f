"""OGM-GE: OGM, and noise as large as the gradient's own to make up for what the modulation took.

    .grad of a convolution of encoder m = k_m g + z,  z ~ N(0, std(g)^2), std over its elements

k_m: see ogm.py. g is the gradient of one joint loss. Biases and all other layers have k_m g alone,
so on an encoder without convolutions this is --method ogm, and on vit_tiny 7 % of its parameters
have noise. With --ogm_ge_noise matrices every tensor has it that is no vector.

Source: Peng et al. 2022 (CVPR), Eq. 10 to 12; the deviation per tensor and the convolutions as in
their published code, GeWu-Lab/OGM-GE_CVPR2022, which asks for 4 dimensions; all that is no vector
as in GeWu-Lab/BalanceBenchmark. Departs: as ogm.py; convolutions of any dimension. Needs a fusion
with unimodal logits. Unimodal heads: not trained. Cost: 3 F per step, as one joint loss, and a
normal number per weight.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from methods import generator_of, ogm


class Method(ogm.Method):
    def __init__(self, ogm_alpha=0.1, ogm_start=0, ogm_epochs=51, ogm_ge_noise="convolutions"):
        super().__init__(ogm_alpha, ogm_start, ogm_epochs)
        self.noise = ogm_ge_noise
        self._generator, self._seed = None, 0

    @staticmethod
    def add_options(parser):
        ogm.Method.add_options(parser)
        parser.add_argument(
            "--ogm_ge_noise",
            choices=("convolutions", "matrices"),
            default="convolutions",
            help="which tensors get it; matrices: all but vectors",
        )

    def start_epoch(self, epoch, model, loaders, seed=0):
        super().start_epoch(epoch, model, loaders, seed)
        self._generator, self._seed = None, seed  # made anew on the device of the gradients

    def modulate(self, encoder, factor):
        gradients = gradients_with_noise(encoder, self.noise) if self._is_modulated() else []
        deviations = [g.std() for g in gradients]  # before they are scaled
        super().modulate(encoder, factor)
        for g, deviation in zip(gradients, deviations):
            if self._generator is None:
                self._generator = generator_of(self._seed, self._epoch, g.device)
            g.addcmul_(torch.empty_like(g).normal_(generator=self._generator), deviation)


def gradients_with_noise(encoder: nn.Module, which: str) -> list[Tensor]:
    """Of its "convolutions", all but the biases, or of its "matrices", all that is no vector; in
    the order of `encoder.parameters()`.

    Where a weight is computed from others (spectral norm, weight norm), of those.
    """
    matrices = [p for p in encoder.parameters() if p.ndim != 1]
    convolutions = [module for module in encoder.modules() if isinstance(module, _ConvNd)]
    of_convolutions = {p for module in convolutions for p in module.parameters()}
    chosen = [p for p in matrices if which == "matrices" or p in of_convolutions]
    # a single number has no deviation
    return [p.grad for p in chosen if p.grad is not None and p.numel() > 1]
