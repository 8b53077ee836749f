"""MGDA-UB: least-norm weights from the gradients at the features, for one pass per encoder.

    z_i = d L_i / d features of an encoder, (B, D)      alpha = least-norm weights of the z_i
    .grad of the encoder = gradient of n sum_i alpha_i L_i

An APPROXIMATION of --method pareto: |sum_i alpha_i z_i| bounds the norm that the exact weights
minimise, up to the encoder's Jacobian; conflicts that arise within the encoder are not seen. For an
encoder whose Jacobian is orthogonal the two are equal.

Source: Sener & Koltun 2018, Eq. 5. Departs: the factor n, as --method pareto. Cost: one backward
pass of every encoder, 3 F per step, beside the heads'. Refuses --accumulate: the whole batch must
be known before the encoders' pass. Features that need no gradient (a frozen encoder) have no z_i.
"""

import torch

import methods
from mmpareto import cosines, least_norm_weights


class Method(methods.Method):
    needs = {"whole_batch", "late_fusion"}

    def __init__(self):
        self._diagnostics = {}

    def backward(self, forward, model):
        losses = {name: loss for name, loss in forward.losses.items() if loss.requires_grad}
        features = {m: feature for m, feature in forward.features.items() if feature.requires_grad}
        of_encoders = {id(p) for ps in model.encoder_parameters().values() for p in ps}
        heads = [p for p in model.parameters() if id(p) not in of_encoders and p.requires_grad]
        of_losses = {name: gradients(loss, features.values()) for name, loss in losses.items()}
        for p, gradient in zip(heads, gradients(sum(losses.values()), heads)):
            p.grad = gradient

        z = {}  # {modality: {name of a loss that reaches its features: z_i}}
        for position, modality in enumerate(features):
            rows = {name: of_loss[position] for name, of_loss in of_losses.items()}
            if reached := {name: row for name, row in rows.items() if row is not None}:
                z[modality] = reached
        grams = {modality: inner_products(rows.values()) for modality, rows in z.items()}
        forward.sum(list(grams.values()))
        mixtures, self._diagnostics = [], {}
        for modality, rows in z.items():
            norms = grams[modality].diagonal().sqrt()
            alpha = least_norm_weights(grams[modality])
            n = (norms > 0).sum().clamp(min=1)
            mixtures.append(sum(c.to(z_i.dtype) * z_i for c, z_i in zip(n * alpha, rows.values())))
            if len(rows) > 1:
                self._diagnostics[f"cosine/{modality}"] = cosines(grams[modality]).amin()
            for name, weight, norm in zip(rows, alpha, norms):
                self._diagnostics[f"weight/{modality}/{name}"] = weight
                self._diagnostics[f"norm/{modality}/{name}"] = norm
        torch.autograd.backward([features[modality] for modality in z], mixtures)

    def integrate(self, model):
        return self._diagnostics


def gradients(loss, inputs):
    """Of a loss at each of the inputs, None where it does not reach one; the graph stays."""
    inputs = list(inputs)
    return torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True) if inputs else []


def inner_products(vectors):
    """(n, n) in float64."""
    flat = torch.stack([v.detach().flatten().double() for v in vectors])
    return flat @ flat.T
