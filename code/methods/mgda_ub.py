"""MGDA-UB: least-norm weights from the gradients at the features, for one pass per encoder.

    z_i = d L_i / d features of an encoder, (B, D)      alpha = least-norm weights of the z_i
    .grad of the encoder = gradient of n sum_i alpha_i L_i

An APPROXIMATION of --method pareto: |sum_i alpha_i z_i| bounds the norm that the exact weights
minimise, up to the encoder's Jacobian; conflicts that arise within the encoder are not seen. For an
encoder whose Jacobian is orthogonal the two are equal.

Source: Sener & Koltun 2018, Eq. 5. Departs: the factor n, as --method pareto. Any number of losses.
Unimodal heads: yes, with weight 1. Cost: one backward pass of every encoder, 3 F per step, beside
the heads'. Refuses --accumulate: the whole batch must be known before the encoders' pass.
"""

import torch

import methods
from mmpareto import cosines, least_norm_weights


class Method(methods.Method):
    needs = {"whole_batch", "late_fusion"}

    def __init__(self):
        self._diagnostics = {}

    def backward(self, forward, model):
        losses, features = list(forward.losses.values()), forward.features
        names = list(forward.losses)
        encoders = {id(p) for ps in model.encoder_parameters().values() for p in ps}
        heads = [p for p in model.parameters() if id(p) not in encoders and p.requires_grad]
        at_features = [
            torch.autograd.grad(loss, list(features.values()), retain_graph=True, allow_unused=True)
            for loss in losses
        ]
        at_heads = torch.autograd.grad(sum(losses), heads, retain_graph=True, allow_unused=True)
        for p, gradient in zip(heads, at_heads):
            p.grad = gradient

        found, reaching = {}, {}
        for modality, rows in zip(features, zip(*at_features)):
            reaching[modality] = [(n, z) for n, z in zip(names, rows) if z is not None]
        grams = {m: inner_products([z for _, z in rows]) for m, rows in reaching.items()}
        forward.sum(list(grams.values()))
        mixtures = []
        for modality, rows in reaching.items():
            norms = grams[modality].diagonal().sqrt()
            weights = least_norm_weights(grams[modality])
            factors = (norms > 0).sum().clamp(min=1) * weights
            mixtures.append(sum(c.to(z.dtype) * z for c, (_, z) in zip(factors, rows)))
            if len(rows) > 1:
                found[f"cosine/{modality}"] = cosines(grams[modality]).amin()
            for (name, _), weight, norm in zip(rows, weights, norms):
                found |= {f"weight/{modality}/{name}": weight, f"norm/{modality}/{name}": norm}
        torch.autograd.backward(list(features.values()), mixtures)
        self._diagnostics = found

    def integrate(self, model):
        return self._diagnostics


def inner_products(vectors):
    """(n, n) in float64."""
    flat = torch.stack([v.detach().flatten().double() for v in vectors])
    return flat @ flat.T
