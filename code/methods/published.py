"""The published procedure as it runs, to hold `--method mmpareto` against it.

    backward passes: one for each loss, then a fourth for their sum
    cos(g_m, g_u) > 0:  h = g_m + g_u      otherwise:  h = 2 alpha_m g_m + 2 alpha_u g_u
        alpha_m = (|g_u|^2 - <g_m, g_u>) / |g_m - g_u|^2, but 0.999 where <g_m, g_u> >= |g_m|^2 and
        0.001 where <g_m, g_u> >= |g_u|^2;  alpha_u = 1 - alpha_m
    per tensor:  .grad = gamma max(1, |gradient of the sum| / |h|) h

g_m and g_u are the gradients of the multimodal loss and of the encoder's own. The result is that of
`--method mmpareto` wherever the published code has one: exactly opposed gradients give nan.

Source: GeWu-Lab/MMPareto_ICML2024; written from a description of what it does, without any of
../mmpareto.py. Unimodal heads: yes, with weight 1. Cost: a backward pass more than there are
losses, 7 F per step, and numbers that are waited for. Refuses --accumulate, and fusions in which
encoders meet.
"""

import torch

from methods import needs_late_fusion, needs_whole_batch


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


class Method:
    needs_every_modality = True
    waits_for_device = True

    def __init__(self, options):
        needs_whole_batch(options, "published")
        needs_late_fusion(options, "published")
        if not options.gamma > 0:
            raise ValueError(f"--gamma {options.gamma}: must be > 0")
        self.gamma = options.gamma

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--gamma", type=float, default=1.5, help="magnitude gain of the encoders' gradient, > 0"
        )

    def backward(self, forward_pass, model):
        losses, encoders = forward_pass.losses, model.encoder_parameters()
        multimodal = next(iter(losses))  # of one modality alone: its only loss
        encoders = {m: [p for p in ps if p.requires_grad] for m, ps in encoders.items()}
        copies = {modality: {} for modality in encoders}
        for name, loss in losses.items():
            model.zero_grad()
            loss.backward(retain_graph=True)
            for modality, parameters in encoders.items():
                if name in (multimodal, modality):
                    copies[modality][name] = [p.grad.clone() for p in parameters]
                    forward_pass.reduce(copies[modality][name])()
        model.zero_grad()
        sum(losses.values()).backward()
        forward_pass.reduce([p.grad for p in model.parameters() if p.grad is not None])()

        diagnostics = {}
        for modality, parameters in encoders.items():
            if multimodal == modality:
                continue
            pair = copies[modality][multimodal], copies[modality][modality]
            flat = [torch.cat([g.flatten() for g in gradients]) for gradients in pair]
            cosine = torch.cosine_similarity(*flat, dim=0)
            alphas = (0.5, 0.5) if float(cosine) > 0 else least_norm_pair(*pair)
            for parameter, g_m, g_u in zip(parameters, *pair):
                h = 2 * alphas[0] * g_m + 2 * alphas[1] * g_u
                ratio = torch.norm(parameter.grad) / torch.norm(h)
                parameter.grad = (ratio * h if ratio > 1 else h) * self.gamma
            diagnostics[f"cosine/{modality}"] = cosine
            for name, alpha, gradient in zip((multimodal, modality), alphas, flat):
                diagnostics[f"weight/{modality}/{name}"] = torch.tensor(alpha)
                diagnostics[f"norm/{modality}/{name}"] = gradient.norm()
        return diagnostics
