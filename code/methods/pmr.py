"""PMR, prototypical modal rebalance: the slower encoder gets a loss of its own, by prototypes.

    c_k^m = mean feature of class k, with momentum: c <- e c + (1 - e) mean, before every epoch
    p^m = softmax over k of -|f_m - c_k^m|                 L_m = -log p^m[target], batch mean
    rho_m = sum p^m[target] / mean of the others' sum      b_m = clip(1 / rho_m - 1, 0, 1)
    loss = L_joint + alpha sum_m b_m L_m - mu sum_m clip(rho_m - 1, 0, 1) H(p^m)

b_m is 0 for an encoder that is ahead; the last term, in the first --pmr_entropy_epochs only, keeps
the one ahead from settling early (H: entropy, batch mean). With alpha = mu = 0 this is --method
joint.

Source: Fan et al. 2023 (CVPR), Eq. 5 to 10; alpha = 1 and e = 0.2 as in their published code,
which has b_m = 1 for the encoder behind and no entropy; mu = 0.01 [recalled]. Departs: prototypes
from all training samples, without augmentation, where they take a tenth of them; the mean of the
others for three modalities and more. Refuses --accumulate. Unimodal heads: not trained. Cost: 3 F
per step; a forward pass of the training split per epoch.
"""

import torch

import methods
from methods._modulation import mean_of_others
from models.metrics import predict


class Method(methods.Method):
    needs = {"whole_batch"}
    trains_unimodal_heads = False

    def __init__(self, pmr_alpha=1.0, pmr_mu=0.01, pmr_entropy_epochs=5, pmr_momentum=0.2):
        for flag, value in (("pmr_alpha", pmr_alpha), ("pmr_mu", pmr_mu)):
            if not value >= 0:
                raise ValueError(f"--{flag} {value}: must be at least 0")
        if not 0 <= pmr_momentum < 1:
            raise ValueError(f"--pmr_momentum {pmr_momentum}: must be within [0, 1)")
        self.alpha, self.mu = pmr_alpha, pmr_mu
        self.momentum, self.entropy_epochs = pmr_momentum, pmr_entropy_epochs
        self.prototypes = {}  # {modality: (K, D)}
        self._factors = {}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--pmr_alpha", type=float, default=1.0, help="factor of the prototype losses")
        add("--pmr_mu", type=float, default=0.01, help="factor of the entropy, first epochs")
        add("--pmr_entropy_epochs", type=int, default=5, help="epochs with the entropy term")
        add("--pmr_momentum", type=float, default=0.2, help="of the prototypes, within [0, 1)")

    def start_epoch(self, epoch, model, loaders, seed=0):
        if model.fusion is None:
            return
        logits, features, target = predict(model, loaders["train_plain"])
        classes = next(iter(logits.values())).shape[1]
        member = torch.nn.functional.one_hot(target, classes).double()  # (N, K)
        for modality, values in features.items():
            found = member.T @ values.double() / member.sum(0).clamp(min=1)[:, None]
            before = self.prototypes.get(modality, found).cpu()
            self.prototypes[modality] = self.momentum * before + (1 - self.momentum) * found

    def backward(self, forward, model):
        loss = next(iter(forward.losses.values()))  # the multimodal one is first
        if self.prototypes:
            extra, self._factors = self._extra_loss(forward)
            loss = loss + forward.scale * extra
        loss.backward()

    def integrate(self, model):
        return methods.norms_of_sum(model.encoder_parameters()) | self._factors

    def _extra_loss(self, forward):
        target, entropies, losses, sums = forward.target, [], [], []
        for modality, features in forward.features.items():
            work = torch.promote_types(features.dtype, torch.float32)  # not in half precision
            prototypes = self.prototypes[modality].to(features.device, work)
            log_p = (-torch.cdist(features.to(work), prototypes)).log_softmax(1)
            right = log_p.gather(1, target[:, None])[:, 0]
            losses.append(-right.mean())
            sums.append(right.detach().exp().sum())
            entropies.append(-(log_p.exp() * log_p).sum(1).mean())
        scores = torch.stack(sums).double()
        forward.sum([scores])
        scores = scores.clamp(min=1e-12)
        ratio = scores / mean_of_others(scores)
        behind, ahead = (1 / ratio - 1).clamp(0, 1), (ratio - 1).clamp(0, 1)  # no gradient
        extra = self.alpha * (behind * torch.stack(losses)).sum()
        if forward.epoch < self.entropy_epochs:
            extra = extra - self.mu * (ahead * torch.stack(entropies)).sum()
        return extra, {f"factor/{m}": b for m, b in zip(forward.features, behind)}

    def state_dict(self):
        return dict(self.prototypes)

    def load_state_dict(self, state):
        self.prototypes = dict(state)
