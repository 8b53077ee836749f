"""MGDA-UB: least-norm weights from the gradients at the features, for one pass per encoder.

    z_i = d L_i / d features of an encoder, (B, D)      alpha = least-norm weights of the z_i
    .grad of the encoder = gradient of n sum_i alpha_i L_i

An APPROXIMATION of --method pareto: |sum_i alpha_i z_i| bounds the norm that the exact weights
minimise, up to the encoder's Jacobian; conflicts that arise within the encoder are not seen. For an
encoder whose Jacobian is orthogonal the two are equal.

Source: Sener & Koltun 2018, Eq. 5. Departs: the factor n, as --method pareto; heads and fusion have
weight 1, there alpha_i, too; the weights are exact, there by Frank-Wolfe. `--mgda_normalize`
divides the z_i before the weights are sought, which the paper does not tell: `loss+`, by the loss
times |z_i|, is in the published sample.json. Cost: one backward pass of every encoder, 3 F per
step, beside the heads'. Refuses --accumulate: the whole batch must be known before the encoders'
pass. Features that need no gradient (a frozen encoder) have no z_i.
"""

import torch

import methods
from mmpareto import cosines, least_norm_weights
from models.reach import outside


class Method(methods.Method):
    needs = {"whole_batch", "late_fusion"}

    def __init__(self, mgda_normalize="none"):
        self.normalize, self._diagnostics = mgda_normalize, {}

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--mgda_normalize",
            choices=("none", "l2", "loss", "loss+"),
            default="none",
            help="weights of least norm of the gradients as they are, divided by their length, by "
            "their loss, or by both",
        )

    def _divisors(self, values, norms):
        """(n,) of the gradients at the features, from losses and norms (n,); 1 in place of 0."""
        by = {"none": torch.ones_like(norms), "l2": norms, "loss": values, "loss+": values * norms}
        return torch.where(by[self.normalize] > 0, by[self.normalize], 1)

    def backward(self, forward, model):
        losses = {name: loss for name, loss in forward.losses.items() if loss.requires_grad}
        features = {m: feature for m, feature in forward.features.items() if feature.requires_grad}
        rest = outside(model.encoder_parameters(), model.parameters())
        heads = [p for p in rest if p.requires_grad]
        of_losses = {name: gradients(loss, features.values()) for name, loss in losses.items()}
        for p, gradient in zip(heads, gradients(sum(losses.values()), heads)):
            p.grad = gradient

        rows = {}  # {modality: {name of a loss that reaches its features: z_i}}
        for position, modality in enumerate(features):
            of_modality = {name: of_loss[position] for name, of_loss in of_losses.items()}
            rows[modality] = {name: z for name, z in of_modality.items() if z is not None}
        grams = {  # of all losses, in all processes; zeros where a loss does not reach
            m: inner_products([rows.get(m, {}).get(n, torch.zeros_like(f)) for n in forward.losses])
            for m, f in forward.features.items()
        }
        values = torch.stack([loss.detach().double() for loss in forward.losses.values()])
        forward.sum([*grams.values(), values])
        reached, mixtures, self._diagnostics = [], [], {}
        for modality, feature in features.items():
            norms = grams[modality].diagonal().sqrt()
            divisors = self._divisors(values.to(norms), norms)
            alpha = least_norm_weights(grams[modality] / divisors.outer(divisors))
            factors = (norms > 0).sum().clamp(min=1) * alpha
            z = rows[modality]
            of_losses = list(zip(forward.losses, factors, alpha, norms))
            if z:
                reached.append(feature)
                mixtures.append(sum(c.to(feature.dtype) * z[n] for n, c, *_ in of_losses if n in z))
            if len(z) > 1:
                self._diagnostics[f"cosine/{modality}"] = cosines(grams[modality]).amin()
            for name, _, weight, norm in of_losses:
                if name in z:
                    self._diagnostics[f"weight/{modality}/{name}"] = weight
                    self._diagnostics[f"norm/{modality}/{name}"] = norm
        torch.autograd.backward(reached, mixtures)

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
