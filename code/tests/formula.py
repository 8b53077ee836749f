"""The step written a second time, from autograd.grad and a solver of its own; a model for it."""

import itertools

import torch
from torch import nn


class Model(nn.Module):
    """Two encoders, a head for each and one for both, in float64."""

    def __init__(self, audio=None, visual=None):
        super().__init__()
        torch.manual_seed(1)
        self.audio = nn.Linear(4, 5) if audio is None else audio
        self.visual = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        if visual is not None:
            self.visual = visual
        self.heads = nn.ModuleDict({m: nn.Linear(5, 3) for m in ("audio", "visual")})
        self.fusion = nn.Linear(10, 3)
        self.double()

    def losses(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(2, 8, 4, generator=generator, dtype=torch.float64)
        target = torch.randint(3, (8,), generator=generator)
        features = self.audio(inputs[0]), self.visual(inputs[1])
        logits = {"multimodal": self.fusion(torch.cat(features, 1))}
        logits |= {m: head(f) for (m, head), f in zip(self.heads.items(), features)}
        return {name: nn.functional.cross_entropy(x, target) for name, x in logits.items()}

    def groups(self):
        return {"audio": self.audio, "visual": self.visual}


def least_norm(rows):
    """Weights of the shortest vector in the convex hull: of all subsets the best that is valid.

    Of a subset: the shortest g_0 + sum_i a_i (g_i - g_0), g_0 its shortest gradient.
    """
    best = None
    for size in range(1, len(rows) + 1):
        for subset in itertools.combinations(range(len(rows)), size):
            base, *others = sorted(subset, key=lambda i: rows[i].norm())
            weights = torch.zeros(len(rows), dtype=torch.float64)
            if others:
                sides = rows[others] - rows[base]
                lengths = sides.norm(dim=1).clamp(min=1e-300)
                system = (sides / lengths[:, None]).T
                solved = torch.linalg.lstsq(system, -rows[base], driver="gelsd").solution
                weights[others] = solved / lengths
            weights[base] = 1 - weights.sum()
            length = (weights @ rows).norm()
            if (weights > -1e-9).all() and (best is None or length < best[0] - 1e-13):
                best = length, weights
    return best[1]


def by_formula(losses, groups, parameters, gamma=1.5):
    """{parameter: gradient} by the formula; None where no loss reaches."""
    losses = [loss for loss in losses.values() if loss is not None]
    of_loss = []
    for loss in losses:
        trained = [p for p in parameters if p.requires_grad]
        gradients = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
        of_loss.append({p: g.to_dense() for p, g in zip(trained, gradients) if g is not None})
    result = {p: sum(g[p] for g in of_loss if p in g) for p in parameters}
    result = {p: g if torch.is_tensor(g) else None for p, g in result.items()}
    for group in groups:
        reached = [p for p in group if result[p] is not None]
        rows = [g for g in of_loss if any(p in g for p in reached)]
        if len(rows) < 2:
            continue
        tensors = [[g.get(p, torch.zeros_like(p)).detach() for p in reached] for g in rows]
        flat = torch.stack([torch.cat([t.flatten() for t in ts]).double() for ts in tensors])
        lengths = flat.norm(dim=1)
        products = lengths.outer(lengths)
        cosines = torch.where(products > 0, flat @ flat.T / products, 1)
        counted, factors = lengths > 0, torch.ones(len(rows), dtype=torch.float64)
        if (cosines <= 0).any():
            factors = torch.zeros_like(factors)
            factors[counted] = counted.sum() * least_norm(flat[counted])
        for p, *gs in zip(reached, *tensors):
            h, total = sum(c * g.double() for c, g in zip(factors, gs)), sum(g.double() for g in gs)
            most = sum(c.abs() * g.double().norm() for c, g in zip(factors, gs))
            is_rounding = h.norm() <= 1e-7 * most  # the limit that `integrate` documents
            ratio = 1.0 if is_rounding else max(1.0, float(total.norm() / h.norm()))
            result[p] = (gamma * ratio * h).to(p.dtype)
    return result


def members_of(groups):
    return [list(group.parameters()) for group in groups.values()]
