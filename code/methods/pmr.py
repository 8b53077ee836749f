"""PMR, prototypical modal rebalance: the slower encoder gets a loss of its own, by prototypes.

    c_k^m = mean feature of class k, with momentum: c <- e c + (1 - e) mean, before every epoch
    p^m = softmax over k of -|f_m - c_k^m|                 L_m = -log p^m[target], batch mean
    rho_m = sum p^m[target] / mean of the others' sum      b_m = clip(1 / rho_m - 1, 0, 1)
    loss = L_joint + alpha sum_m b_m L_m - mu sum_m clip(rho_m - 1, 0, 1) H(p^m)

b_m is 0 for an encoder that is ahead; with --pmr_strength whole it is 1 for one that is behind,
however little: at rho_m = 0.99 it is 1 in place of 0.01. The last term, in the first
--pmr_entropy_epochs only, keeps the one ahead from settling early (H: entropy, batch mean). With
alpha = mu = 0 this is --method joint.

Source: Fan et al. 2023 (CVPR), Eq. 5 to 13; alpha (theirs: 1 or 2) and mu (0.01 or 0.001) as in
Sec. 5.2; e = 0.2 as in their published code, fanyunfeng-bit/Modal-Imbalance-PMR, which is
--pmr_strength whole --pmr_mu 0, until epoch 100. Departs: prototypes from all training samples,
without augmentation, where they take a tenth of them, and those of the second epoch have no
momentum; 5 epochs with entropy, theirs are "few"; the mean of the others for three modalities and
more. Refuses --accumulate. Unimodal heads: not trained. Cost: 3 F per step; a forward pass of the
training split per epoch.
"""

import torch
from torch.nn.functional import one_hot

import methods
from methods._modulation import mean_of_others
from models.metrics import predict
from utils.errors import check_at_least


class Method(methods.Method):
    needs = {"whole_batch"}
    trains_unimodal_heads = False

    def __init__(
        self,
        pmr_alpha=1.0,
        pmr_mu=0.01,
        pmr_entropy_epochs=5,
        pmr_momentum=0.2,
        pmr_strength="clipped",
    ):
        check_at_least(0, pmr_alpha=pmr_alpha, pmr_mu=pmr_mu)
        if not 0 <= pmr_momentum < 1:
            raise ValueError(f"--pmr_momentum {pmr_momentum}: must be within [0, 1)")
        self.alpha, self.mu, self.strength = pmr_alpha, pmr_mu, pmr_strength
        self.momentum, self.entropy_epochs = pmr_momentum, pmr_entropy_epochs
        self.memory = {}  # {modality: prototypes c (K, D)}
        self._factors = {}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--pmr_alpha", type=float, default=1.0, help="factor of the prototype losses")
        add("--pmr_mu", type=float, default=0.01, help="factor of the entropy, first epochs")
        add("--pmr_entropy_epochs", type=int, default=5, help="epochs with the entropy term")
        add("--pmr_momentum", type=float, default=0.2, help="of the prototypes, within [0, 1)")
        add(
            "--pmr_strength",
            choices=("clipped", "whole"),
            default="clipped",
            help="b: clipped, as in the paper; whole: 1 for who is behind, as in its code",
        )

    def start_epoch(self, epoch, model, loaders, seed=0):
        if model.fusion is None:
            return
        logits, features, target = predict(model, loaders["train_plain"])
        classes = next(iter(logits.values())).shape[1]
        member = one_hot(target, classes).double()  # (N, K)
        for modality, values in features.items():
            mean = member.T @ values.double() / member.sum(0).clamp(min=1)[:, None]
            c = self.memory.get(modality, mean).cpu()
            self.memory[modality] = self.momentum * c + (1 - self.momentum) * mean

    def backward(self, forward, model):
        loss = forward.joint_loss
        if self.memory:
            loss = loss + forward.scale * self._prototype_loss(forward)
        loss.backward()

    def integrate(self, model):
        return methods.norms_of_sum(model.encoder_parameters()) | self._factors

    def _prototype_loss(self, forward):
        p_target, L, H = [], [], []  # of every modality
        for modality, features in forward.features.items():
            work = torch.promote_types(features.dtype, torch.float32)  # not in half precision
            c = self.memory[modality].to(features.device, work)
            log_p = (-torch.cdist(features.to(work), c)).log_softmax(1)
            log_p_target = log_p.gather(1, forward.target[:, None])[:, 0]
            p_target.append(log_p_target.detach().exp().sum())
            L.append(-log_p_target.mean())
            H.append(-(log_p.exp() * log_p).sum(1).mean())
        sums = torch.stack(p_target).double()
        forward.sum([sums])
        sums = sums.clamp(min=1e-12)
        rho = sums / mean_of_others(sums)  # no gradient
        b = (1 / rho - 1).clamp(0, 1) if self.strength == "clipped" else (rho < 1).to(rho)
        self._factors = {f"factor/{m}": b_m for m, b_m in zip(forward.features, b)}
        loss = self.alpha * (b * torch.stack(L)).sum()
        if forward.epoch < self.entropy_epochs:
            loss = loss - self.mu * ((rho - 1).clamp(0, 1) * torch.stack(H)).sum()
        return loss
