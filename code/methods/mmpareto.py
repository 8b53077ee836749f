"""The MMPareto step in one file that needs torch only: copy it, delete `class Method` at its end.

    for every encoder:  g_i = gradient of loss i (the multimodal loss first, then the encoder's own)
                        alpha_i = 1/n; in conflict, some cos(g_i, g_j) <= 0, the least-norm weights
                        h = n sum_i alpha_i g_i;  lambda = |sum_i g_i| / |h|;  h <- max(1, lambda) h
                        .grad = gamma h
    everything else:    .grad = gradient of the summed loss

Source: Wei & Hu, "MMPareto", ICML 2024, Algorithm 1; its published code where the two differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


def least_norm_weights(norms: Tensor, cosines: Tensor) -> Tensor:
    """Weights of the point of least norm in the convex hull of n gradients.

        alpha = argmin |sum_i alpha_i g_i|^2  subject to  alpha_i >= 0, sum_i alpha_i = 1

    For two, alpha_1 = (|g_2|^2 - <g_1, g_2>) / |g_1 - g_2|^2 clipped to [0, 1], and alpha_2
    likewise: as one minus the other, the small weight would have no correct digit left.

    Source: Sener & Koltun 2018, Eq. 3 (MGDA). Departs: a weight may reach 0 or 1, where the
    published solver stops at 0.001 and 0.999; in conflict between two gradients neither happens.

    norms:   (n,) |g_i| in any common unit. A zero gradient gets no weight beside one that is not.
    cosines: (n, n) cos(g_i, g_j), ones on the diagonal.
    Returns: (n,), computed without a copy to the host.
    """
    n, device = len(norms), norms.device
    shortest = torch.where(norms > 0, norms, torch.inf).amin()
    reach = torch.where(
        norms > 0, shortest / norms, 0
    )  # (n,) in [0, 1]: 1 / |g_i| that cannot overflow
    if n == 2:
        weights = (reach * (reach - cosines[0, 1] * reach.flip(0))).clamp(min=0)
    else:
        # The optimum is stationary within some subset of the gradients: solve all subsets at once.
        # With z_i = alpha_i / reach_i: cosines z = mu reach and <reach, z> = 1; z_i = 0 outside.
        member = torch.arange(1, 2**n, device=device)[:, None] >> torch.arange(n, device=device) & 1
        member = member * (norms > 0)  # (2^n - 1, n)
        system = norms.new_zeros(len(member), n + 1, n + 1)
        system[:, :n, :n] = member[:, :, None] * member[:, None] * cosines + torch.diag_embed(
            1 - member
        )
        system[:, :n, n] = system[:, n, :n] = member * reach
        right = norms.new_zeros(len(member), n + 1)
        right[:, n] = 1
        z = torch.linalg.solve_ex(system, right)[0][:, :n]
        weights = z * reach
        feasible = (weights >= 0).all(1) & ((weights.sum(1) - 1).abs() < 1e-6)  # not where singular
        squared = torch.einsum("si,ij,sj->s", z, cosines, z)  # |sum_i alpha_i g_i|^2
        best = torch.where(feasible, squared, torch.inf).argmin(keepdim=True)
        weights = weights.index_select(0, best)[0]
    total = weights.sum()
    # equal gradients have no single solution: any weights will do
    return torch.where(total > 0, weights / total, 1 / n)


def integrate(
    gradients: Sequence[Sequence[Tensor]],
    gamma: float = 1.5,
    rescale: str = "tensor",
    solve: str = "conflict",
    names: Sequence[str] | None = None,
    check_finite: bool = True,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """One gradient out of n, one per loss, for one group of parameters (an encoder).

    Formula: head of this file. Without conflict the result is gamma times the sum. In conflict,
    with `rescale="encoder"`, it descends every loss, <h, g_i> > 0; "tensor" breaks that now and
    then, which `descent` shows. Finite gradients of any size give a finite result, unless h itself
    overflows.

    Source: Algorithm 1; lambda per parameter tensor as in the published code. Departs: where a
    gradient or h is zero the published code makes nan; here the other gradient, or zero, remains.

    gradients: n >= 2 lists (the multimodal loss first) of T tensors shaped like the parameters.
    gamma:     magnitude gain, > 0.
    rescale:   one lambda for each parameter "tensor", one for the whole "encoder", or "none".
    solve:     least-norm weights in "conflict" only, "always" (MGDA), or "never" (plain sum).
    names:     of the losses, for the error message.
    check_finite: refuse inf and nan; one host synchronisation on an accelerator.
    Returns: T tensors, and diagnostics: `cosine` 0-d, the smallest of all pairs (1 beside a zero
        gradient); `weights` (n,); `norms` (n,); `scale` (T,) = max(1, lambda); `descent` (n,) =
        cos(result, g_i).
    Raises ValueError for arguments, FloatingPointError for gradients, outside these ranges.
    """
    shapes = [[g.shape for g in tensors] for tensors in gradients]
    if len(shapes) < 2 or not shapes[0] or any(s != shapes[0] for s in shapes):
        raise ValueError(
            f"gradients: needs 2 or more lists of the same tensor shapes, got {shapes}"
        )
    if not gamma > 0:
        raise ValueError(f"gamma: must be > 0, got {gamma}")
    if rescale not in ("tensor", "encoder", "none"):
        raise ValueError(f"rescale: choose from 'tensor', 'encoder', 'none'; got {rescale!r}")
    if solve not in ("conflict", "always", "never"):
        raise ValueError(f"solve: choose from 'conflict', 'always', 'never'; got {solve!r}")
    n, like = len(gradients), gradients[0][0]
    work = torch.promote_types(like.dtype, torch.float32)  # half precision is summed in float32
    exact = torch.float32 if like.device.type == "mps" else torch.float64  # for the few numbers

    # Dividing by a power of two is exact and keeps every inner product within range.
    peaks = torch.stack([torch.stack([x for g in gs for x in g.aminmax()]) for gs in gradients])
    peaks = peaks.abs().amax(1).to(exact)  # (n,)
    if check_finite and not peaks.isfinite().all():
        bad = peaks.isfinite().tolist().index(False)
        raise FloatingPointError(f"gradient of {names[bad] if names else bad}: holds inf or nan")
    limit = 126 if work == torch.float32 else 1022
    units = torch.where(peaks > 0, peaks, 1).log2().floor().clamp(-limit, limit).exp2()  # (n,)
    in_range = like.device.type == "cpu" and bool(((2**-30 < units) & (units < 2**30)).all())
    if in_range:  # the same result without a copy; elsewhere the question would cost a wait
        units = torch.ones_like(units)
    ratios = units / units.amax()

    def inner_products(tensors: Sequence[Tensor]) -> Tensor:
        """(n * n,) of one parameter tensor's gradients, each in the unit of its loss."""
        rows = [g.to(work).flatten() for g in tensors]
        if not in_range:
            rows = [g / unit for g, unit in zip(rows, units.to(work))]
        upper = {(i, j): rows[i].dot(rows[j]) for i in range(n) for j in range(i, n)}
        return torch.stack([upper[min(i, j), max(i, j)] for i in range(n) for j in range(n)])

    def combine(tensors: Sequence[Tensor], factors: Tensor) -> Tensor:
        """sum_i factors_i g_i of one parameter tensor; the factors stay on the device."""
        combined = tensors[0].to(work) * factors[0]
        for g, factor in zip(tensors[1:], factors[1:]):
            combined.addcmul_(g.to(work), factor)
        return combined

    products = torch.stack([inner_products(tensors) for tensors in zip(*gradients)])
    products = products.to(exact).view(-1, n, n)  # (T, n, n): all that is decided follows from it
    gram = products.sum(0)  # (n, n), of (T, n, n)
    lengths = gram.diagonal().sqrt()
    nonzero = lengths > 0
    safe_lengths = torch.where(nonzero, lengths, 1)
    cosines = (gram / safe_lengths.outer(safe_lengths)).clamp(-1, 1)
    opposable = nonzero.outer(nonzero).fill_diagonal_(False)
    cosines = torch.where(opposable, cosines, 1)  # a zero gradient opposes nothing

    in_conflict = cosines.amin() <= 0
    always = torch.full_like(in_conflict, solve == "always")
    solved = in_conflict if solve == "conflict" else always
    weights = torch.where(solved, least_norm_weights(lengths * ratios, cosines), 1 / n)
    shares = torch.where(solved, nonzero.sum() * weights, 1) * ratios  # of each row in h
    largest = shares.amax()
    toward_h = (shares / largest / units).to(work)  # h / largest, so that it cannot underflow
    toward_sum = (ratios / units).to(work)

    results, sizes = [], []
    for tensors in zip(*gradients):
        results.append(combine(tensors, toward_h))
        both = (results[-1].flatten(), combine(tensors, toward_sum).flatten())
        sizes.append(torch.stack([x.dot(x) for x in both]))
    size, size_of_sum = torch.stack(sizes).to(exact).sqrt().T  # (T,) each
    restored = size_of_sum.norm() / size.norm() if rescale == "encoder" else size_of_sum / size
    raised = solved & (size > 0) & (restored > largest) & (rescale != "none")
    magnitude = torch.where(raised, restored, largest)  # (T,)
    factors = (gamma * magnitude * units.amax()).to(work)
    results = [h.mul_(f).to(g.dtype) for h, f, g in zip(results, factors, gradients[0])]

    descent = torch.einsum("t,tij,j->i", magnitude, products, shares / largest)  # <h, g_i>
    whole = safe_lengths * (magnitude * size).norm()
    descent = torch.where(whole > 0, descent / whole, 0)
    return results, {
        "cosine": cosines.amin(),
        "weights": weights,
        "norms": lengths * units,
        "scale": magnitude / largest,
        "descent": descent,
    }


def mmpareto_backward(
    losses: Mapping[str, Tensor],
    groups: Mapping[str, Iterable[Tensor]],
    gamma: float = 1.5,
    rescale: str = "tensor",
    solve: str = "conflict",
    check_finite: bool = True,
) -> dict[str, Tensor]:
    """Stands where `sum(losses.values()).backward()` stood: one backward pass per loss, no more.

    Like `backward()` it adds to a `.grad` that is there. A parameter that one of its group's
    losses does not reach counts as zero for it; a group that a single loss reaches gets the plain
    gradient.

    losses: {"multimodal": 0-d, modality: 0-d, ...}, the multimodal loss first.
    groups: {name: parameters}, disjoint, usually one per encoder. Parameters in no group (the
            heads) get the gradient of the summed loss.
    gamma, rescale, solve, check_finite: see `integrate`.
    Returns {"cosine/<group>", "scale/<group>" (mean over tensors), "weight/<group>/<loss>",
        "norm/<group>/<loss>", "descent/<group>/<loss>": 0-d}, see `integrate`.
    """
    groups = {
        group: [p for p in parameters if p.requires_grad] for group, parameters in groups.items()
    }
    before = {group: [p.grad for p in parameters] for group, parameters in groups.items()}
    gradients: dict[str, dict[str, list[Tensor | None]]] = {group: {} for group in groups}

    def take(group: str) -> list[Tensor | None]:
        taken = [p.grad for p in groups[group]]
        for p in groups[group]:
            p.grad = None
        return taken

    for group in groups:
        take(group)
    for position, (name, loss) in enumerate(losses.items(), start=1):
        loss.backward(retain_graph=position < len(losses))
        for group in groups:
            taken = take(group)
            if any(g is not None for g in taken):
                gradients[group][name] = taken

    report = {}
    for group, by_loss in gradients.items():
        filled = [
            [torch.zeros_like(p) if g is None else g for p, g in zip(groups[group], taken)]
            for taken in by_loss.values()
        ]
        result = filled[0] if filled else before[group]
        if len(filled) > 1:
            names = [f"the {name} loss in {group}" for name in by_loss]
            result, found = integrate(filled, gamma, rescale, solve, names, check_finite)
            report |= {f"cosine/{group}": found["cosine"], f"scale/{group}": found["scale"].mean()}
            for key, values in (("weight", "weights"), ("norm", "norms"), ("descent", "descent")):
                report |= {f"{key}/{group}/{name}": v for name, v in zip(by_loss, found[values])}
        for i, (parameter, old) in enumerate(zip(groups[group], before[group])):
            reached = any(taken[i] is not None for taken in by_loss.values())
            parameter.grad = old if not reached else result[i] if old is None else old + result[i]
    return report


class Method:
    """`--method mmpareto`: the step above for every encoder of the model."""

    def __init__(self, options):
        if not options.gamma > 0:
            raise ValueError(f"--gamma {options.gamma}: must be > 0")
        self.gamma, self.rescale = options.gamma, options.rescale

    @staticmethod
    def add_options(parser):
        parser.add_argument(
            "--gamma", type=float, default=1.5, help="magnitude gain of the encoders' gradient, > 0"
        )
        parser.add_argument(
            "--rescale",
            choices=("tensor", "encoder", "none"),
            default="tensor",
            help="restore the magnitude per parameter tensor (published code), per encoder, or not",
        )

    def backward(self, forward_pass, model):
        groups = model.encoder_parameters()
        # No wait for the device here: the recorder sees inf and nan in the norms.
        return mmpareto_backward(
            forward_pass.losses, groups, self.gamma, self.rescale, check_finite=False
        )
