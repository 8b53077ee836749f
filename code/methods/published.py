"""Published: that procedure as it runs, to hold `--method mmpareto` against it.

    backward passes: one for each loss, then a fourth for their sum
    cos(g_m, g_u) > 0:  h = g_m + g_u      otherwise:  h = 2 alpha_m g_m + 2 alpha_u g_u
        alpha_m = (|g_u|^2 - <g_m, g_u>) / |g_m - g_u|^2, but 0.999 where <g_m, g_u> >= |g_m|^2 and
        0.001 where <g_m, g_u> >= |g_u|^2;  alpha_u = 1 - alpha_m
    per tensor:  .grad = gamma max(1, |gradient of the sum| / |h|) h

g_m and g_u are the gradients of the multimodal loss and of the encoder's own. The result is that of
`--method mmpareto`, but for gradients that oppose each other exactly: there it is noise or nan.

Source: GeWu-Lab/MMPareto_ICML2024; written from a description of what it does, without any of
../mmpareto.py. Cost: a backward pass more than there are losses, 7 F per step, and numbers that are
waited for. Refuses --accumulate, and fusions in which encoders meet.
"""

import torch

import methods
from utils.errors import check_positive


def least_norm_pair(first, second):
    """(alpha_1, alpha_2) of two gradients, given as lists of tensors."""
    v11 = sum(float((a * a).sum()) for a in first)
    v12 = sum(float((a * b).sum()) for a, b in zip(first, second))
    v22 = sum(float((b * b).sum()) for b in second)
    if v12 >= v11:
        return 0.999, 1 - 0.999
    if v12 >= v22:
        return 0.001, 1 - 0.001
    alpha = (v22 - v12) / (v11 + v22 - 2 * v12)
    return alpha, 1 - alpha


class Method(methods.Method):
    needs = {"whole_batch", "late_fusion", "waits_for_device"}

    def __init__(self, gamma=1.5):
        check_positive(gamma=gamma)
        self.gamma, self._copies = gamma, {}

    @staticmethod
    def add_options(parser):
        add = parser.add_argument
        add("--gamma", type=float, default=1.5, help="magnitude gain of encoders' gradients, > 0")

    def backward(self, forward, model):
        multimodal = next(iter(forward.losses))  # of one modality alone: its only loss
        self._copies = {modality: {} for modality in trained(model)}
        for name, loss in forward.losses.items():
            model.zero_grad()
            if loss.requires_grad:
                loss.backward(retain_graph=True)
            for modality, parameters in trained(model).items():
                if name in (multimodal, modality):
                    self._copies[modality][name] = [copy_of_gradient(p) for p in parameters]
        model.zero_grad()
        sum(forward.losses.values()).backward()

    def to_sum(self, model):
        copies = [g for by_loss in self._copies.values() for gs in by_loss.values() for g in gs]
        return copies + super().to_sum(model)

    def integrate(self, model):
        diagnostics = {}
        for modality, parameters in trained(model).items():
            names, pair = list(self._copies[modality]), list(self._copies[modality].values())
            is_reached = any(p.grad is not None for p in parameters)
            if len(pair) < 2 or not is_reached:  # of one modality alone, or frozen
                continue
            flat = [torch.cat([g.flatten() for g in gradients]) for gradients in pair]
            cosine = torch.cosine_similarity(*flat, dim=0)
            alphas = (0.5, 0.5) if float(cosine) > 0 else least_norm_pair(*pair)
            for parameter, g_m, g_u in zip(parameters, *pair):
                if parameter.grad is None:
                    continue
                h = 2 * alphas[0] * g_m + 2 * alphas[1] * g_u
                ratio = torch.norm(parameter.grad) / torch.norm(h)
                parameter.grad = (ratio * h if ratio > 1 else h) * self.gamma
            diagnostics[f"cosine/{modality}"] = cosine
            for name, alpha, gradient in zip(names, alphas, flat):
                diagnostics[f"weight/{modality}/{name}"] = cosine.new_full((), alpha)
                diagnostics[f"norm/{modality}/{name}"] = gradient.norm()
        return diagnostics


def copy_of_gradient(parameter):
    """Zero where nothing has reached it, so that all processes sum tensors of the same shapes."""
    gradient = parameter.grad
    return torch.zeros_like(parameter) if gradient is None else gradient.clone()


def trained(model):
    """{modality: the parameters of its encoder that are not frozen}."""
    encoders = model.encoder_parameters().items()
    return {m: [p for p in parameters if p.requires_grad] for m, parameters in encoders}
