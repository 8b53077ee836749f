"""The MMPareto step in one file that needs torch only: copy it, delete `class Method` at its end.

    for every encoder:  g_i = gradient of loss i (the multimodal loss first, then the encoder's own)
                        alpha_i = 1/n; in conflict, some cos(g_i, g_j) <= 0, the least-norm weights
                        h = n sum_i alpha_i g_i;  lambda = |sum_i g_i| / |h|;  h <- max(1, lambda) h
                        .grad = gamma h
    everything else:    .grad = gradient of the summed loss

Source: Wei & Hu, "MMPareto", ICML 2024, Algorithm 1; its published code where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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


def answers_at_once(tensor: Tensor) -> bool:
    """Is asking for a value free? On an accelerator it would wait for all the work queued."""
    return tensor.device.type == "cpu"


def inner_products(blocks: Sequence[Sequence[Tensor]], exact: torch.dtype) -> Tensor:
    """(n, n) inner products of n gradients, each given in parts: blocks of n vectors."""
    n = len(blocks[0])
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    dots = [torch.stack([block[i].dot(block[j]) for i, j in pairs]) for block in blocks]
    products = dict(zip(pairs, torch.stack(dots).to(exact).sum(0)))
    flat = [products[min(i, j), max(i, j)] for i in range(n) for j in range(n)]
    return torch.stack(flat).view(n, n)


def within_range(blocks, exact: torch.dtype, names, check_finite: bool):
    """The same blocks, each gradient divided by a unit of its own, and their inner products.

    A unit is a power of two, so that dividing is exact, and keeps squares from over- and underflow.
    A CPU divides only where they did; an accelerator always, as asking would make it wait.

    Returns the blocks, their inner products (n, n), and the units (n,), None if all are 1.
    Raises FloatingPointError, with `check_finite`, for inf and nan.
    """
    like, on_cpu = blocks[0][0], answers_at_once(blocks[0][0])
    if on_cpu:
        gram = inner_products(blocks, exact)
        low, high = torch.finfo(like.dtype).tiny ** 0.5, torch.finfo(like.dtype).max ** 0.5
        if ((low < gram.diagonal()) & (gram.diagonal() < high)).all():
            return blocks, gram, None
    peaks = [[torch.linalg.vector_norm(x, torch.inf) for x in block] for block in blocks]
    peaks = torch.stack([torch.stack(peak) for peak in peaks]).amax(0).to(exact)  # (n,)
    if check_finite and not peaks.isfinite().all():
        bad = peaks.isfinite().tolist().index(False)
        raise FloatingPointError(f"gradient of {names[bad] if names else bad}: holds inf or nan")
    limit = 126 if like.dtype == torch.float32 else 1022
    units = torch.where(peaks > 0, peaks, 1).log2().floor().clamp(-limit, limit).exp2()
    divide = torch.div if on_cpu else torch.Tensor.div_  # joined blocks are copies already
    blocks = [[divide(x, unit) for x, unit in zip(b, units.to(like.dtype))] for b in blocks]
    return blocks, inner_products(blocks, exact), units


def integrate(
    gradients: Sequence[Sequence[Tensor]],
    gamma: float = 1.5,
    rescale: str = "tensor",
    solve: str | Callable[[Tensor, Tensor], Tensor] = "conflict",
    names: Sequence[str] | None = None,
    check_finite: bool = True,
    in_place: bool = False,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """One gradient out of n, one per loss, for one group of parameters (an encoder).

    Formula: head of this file. Without conflict the result is gamma times the sum. In conflict,
    with `rescale="encoder"`, it descends every loss, <h, g_i> > 0; "tensor" breaks that now and
    then, which `descent` shows. Finite gradients of any size give a finite result, unless h itself
    overflows. A power of two in all gradients (a loss scale) comes through to the last digit.

    Source: Algorithm 1; lambda per parameter tensor as in the published code. Departs: where a
    gradient or h is zero the published code makes nan; here the other gradient, or zero, remains.

    gradients: n >= 2 lists (the multimodal loss first) of T tensors shaped like the parameters.
    gamma:     magnitude gain, > 0.
    rescale:   one lambda for each parameter "tensor", one for the whole "encoder", or "none".
    solve:     least-norm weights in "conflict" only, "always" (MGDA), or "never" (plain sum); or a
               rule of your own, norms (n,), cosines (n, n) -> (n,) factors c, for h = sum c_i g_i
               (`weights` are then c / sum |c_i|).
    names:     of the losses, for the error message.
    check_finite: refuse inf and nan; one host synchronisation on an accelerator.
    in_place:  the result may take the memory of gradients[0].
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
    if not callable(solve) and solve not in ("conflict", "always", "never"):
        raise ValueError(f"solve: choose from 'conflict', 'always', 'never'; got {solve!r}")
    n, like = len(gradients), gradients[0][0]
    work = torch.promote_types(like.dtype, torch.float32)  # half precision is summed in float32
    exact = torch.float32 if like.device.type == "mps" else torch.float64  # for the few numbers

    # Blocks of n vectors. On a CPU one per tensor, views of it, as copying is what costs there; on
    # an accelerator all tensors in one, as launching is. Elements in the first loss's memory order.
    orders = [sorted(range(g.ndim), key=lambda d, g=g: -g.stride(d)) for g in gradients[0]]
    rows = [
        [g.permute(order).flatten().to(work) for g, order in zip(tensors, orders)]
        for tensors in gradients
    ]
    lengths = [len(x) for x in rows[0]]
    if answers_at_once(like):
        blocks, lengths = list(zip(*rows)), [[length] for length in lengths]
    else:
        blocks, lengths = [[torch.cat(tensors) for tensors in rows]], [lengths]
    blocks, gram, units = within_range(blocks, exact, names, check_finite)
    in_range = units is None
    units = torch.ones_like(gram[0]) if in_range else units
    ratios = units / units.amax()

    # The direction: all that is decided follows from the inner products.
    norms = gram.diagonal().sqrt()  # (n,), each in its unit
    nonzero = norms > 0
    safe_norms = torch.where(nonzero, norms, 1)
    cosines = (gram / safe_norms.outer(safe_norms)).clamp(-1, 1)
    opposable = nonzero.outer(nonzero).fill_diagonal_(False)
    cosines = torch.where(opposable, cosines, 1)  # a zero gradient opposes nothing
    in_conflict = cosines.amin() <= 0
    solved = in_conflict if solve == "conflict" else torch.full_like(in_conflict, solve != "never")
    if callable(solve):
        factors = solve(norms * units, cosines)
        weights = factors / factors.abs().sum().clamp(min=torch.finfo(exact).tiny)
    else:
        weights = torch.where(solved, least_norm_weights(norms * ratios, cosines), 1 / n)
        factors = torch.where(solved, nonzero.sum() * weights, 1)
    found = {"cosine": cosines.amin(), "weights": weights, "norms": norms * units}

    if in_range and like.dtype == work and not solved:  # most steps: nothing to solve or restore
        results = list(gradients[0]) if in_place else [g.clone() for g in gradients[0]]
        for tensors in gradients[1:]:
            torch._foreach_add_(results, list(tensors))
        torch._foreach_mul_(results, gamma)
        whole = norms * gram.sum().sqrt()
        found["scale"] = torch.ones(len(results), dtype=exact)
        found["descent"] = torch.where(whole > 0, gram.sum(1) / whole, 0)
        return results, found

    # h and, beside it, the plain sum, whose length h is given where it is the longer one.
    shares = factors * ratios  # of each gradient in h
    largest = shares.abs().amax().clamp(min=torch.finfo(exact).tiny)
    mixtures = (shares / largest, ratios)  # h / largest, so that it cannot underflow, and the sum
    vectors, sizes = [], []  # per block: h; (T, 2) |h|, |sum| per tensor
    for block, parts in zip(blocks, lengths):
        both = [block[0] * mixture[0].to(work) for mixture in mixtures]
        for vector, mixture in zip(both, mixtures):
            for x, factor in zip(block[1:], mixture[1:].to(work)):
                vector.addcmul_(x, factor)
        vectors.append(both[0])
        sizes += zip(*(torch._foreach_norm(x.split(parts)) for x in both))
    size, size_of_sum = torch.stack([torch.stack(pair) for pair in sizes]).to(exact).T  # (T,) each
    restored = size_of_sum.norm() / size.norm() if rescale == "encoder" else size_of_sum / size
    raised = solved & (size > 0) & (restored > largest) & (rescale != "none")
    magnitude = torch.where(raised, restored, largest)  # (T,)

    # Back to the shapes, memory order and number format of the parameters, times gamma.
    pieces = [piece for h, parts in zip(vectors, lengths) for piece in h.split(parts)]
    for piece, factor in zip(pieces, magnitude.to(work)):
        piece.mul_(factor)
    downhill = [torch.stack([h.dot(x) for x in block]) for h, block in zip(vectors, blocks)]
    whole = safe_norms * (magnitude * size).norm()
    descent = torch.stack(downhill).to(exact).sum(0)
    torch._foreach_mul_(vectors, (gamma * units.amax()).to(work))
    results = []
    for piece, g, order in zip(pieces, gradients[0], orders):
        back = sorted(range(g.ndim), key=order.__getitem__)
        results.append(piece.view([g.shape[d] for d in order]).permute(back).to(g.dtype))
    found["scale"] = magnitude / largest
    found["descent"] = torch.where(whole > 0, descent / whole, 0)
    return results, found


class LossGradients:
    """The gradient of every loss on every group, summed over micro-batches.

        gradients = LossGradients(groups)
        for micro_batch in ...:
            gradients.add(losses)       # of this micro-batch, each times its share of the batch
        gradients.integrate(gamma=1.5)  # writes .grad: the weights are solved once per step

    The rule is not linear, so this order, and not a sum of integrated gradients, equals the step on
    the whole batch. Costs one copy of the groups' gradients per loss that reaches them.

    groups: {name: parameters}, disjoint, usually one per encoder.
    """

    def __init__(self, groups: Mapping[str, Iterable[Tensor]]):
        self.groups = {g: [p for p in ps if p.requires_grad] for g, ps in groups.items()}
        self.sums: dict[str, dict[str, list[Tensor | None]]] = {g: {} for g in self.groups}

    def add(
        self,
        losses: Mapping[str, Tensor],
        reduce: Callable[[list[Tensor]], Callable[[], None]] | None = None,
    ) -> None:
        """One backward pass per loss. Parameters in no group get the plain gradient in `.grad`.

        losses: {"multimodal": 0-d, modality: 0-d, ...}, the multimodal loss first.
        reduce: with several processes, in the last micro-batch: begins to sum a list of tensors
                over them, in place, and returns what waits for the end. The sum of one loss runs
                while the next loss is back-propagated.
        """
        parameters = [p for ps in self.groups.values() for p in ps]
        before, waits = [p.grad for p in parameters], []
        for position, (name, loss) in enumerate(losses.items(), start=1):
            for p in parameters:
                p.grad = None
            loss.backward(retain_graph=position < len(losses))
            for group, ps in self.groups.items():
                if any(p.grad is not None for p in ps):
                    taken = [p.grad for p in ps]
                    self.sums[group][name] = plus(self.sums[group].get(name), taken)
            if reduce is not None:
                lists = [by_loss.get(name, []) for by_loss in self.sums.values()]
                waits.append(reduce([g for gs in lists for g in gs if g is not None]))
        for p, gradient in zip(parameters, before):
            p.grad = gradient
        for wait in waits:
            wait()

    def integrate(
        self,
        gamma: float = 1.5,
        rescale: str = "tensor",
        solve: str | Mapping[str, Callable] = "conflict",
        check_finite: bool = True,
    ) -> dict[str, Tensor]:
        """Adds the integrated gradients to `.grad`, once: what was gathered is used up.

        See `integrate` and `mmpareto_backward`. A `solve` of your own is {group: rule}.
        """
        report: dict[str, Tensor] = {}
        for group, parameters in self.groups.items():
            by_loss = self.sums.pop(group)
            filled = [
                [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)]
                for gradients in by_loss.values()
            ]
            result = filled[0] if filled else []
            if len(filled) > 1:
                labels = [f"the {name} loss in {group}" for name in by_loss]
                rule = solve if isinstance(solve, str) else solve[group]
                result, found = integrate(
                    filled, gamma, rescale, rule, labels, check_finite, in_place=True
                )
                report[f"cosine/{group}"] = found["cosine"]
                report[f"scale/{group}"] = found["scale"].mean()
                for key in ("weight", "norm", "descent"):
                    values = found.get(key, found.get(f"{key}s"))
                    report |= {f"{key}/{group}/{name}": v for name, v in zip(by_loss, values)}
            reached = [any(g is not None for g in gs) for gs in zip(*by_loss.values())]
            for p, gradient, is_reached in zip(parameters, result, reached):
                if is_reached:
                    p.grad = gradient if p.grad is None else p.grad + gradient
        return report


def plus(first: list[Tensor | None] | None, second: list[Tensor | None]) -> list[Tensor | None]:
    """Sum of two lists of gradients, None where neither has one."""
    if first is None:
        return second
    return [b if a is None else a if b is None else a.add_(b) for a, b in zip(first, second)]


def mmpareto_backward(
    losses: Mapping[str, Tensor],
    groups: Mapping[str, Iterable[Tensor]],
    gamma: float = 1.5,
    rescale: str = "tensor",
    solve: str = "conflict",
    check_finite: bool = True,
) -> dict[str, Tensor]:
    """Stands where `sum(losses.values()).backward()` stood: one backward pass per loss, no more.

    Like `backward()` it adds to a `.grad` that is there; for gradient accumulation see
    `LossGradients`. A parameter that one of its group's losses does not reach counts as zero for
    it; a group that a single loss reaches gets the plain gradient.

    losses: {"multimodal": 0-d, modality: 0-d, ...}, the multimodal loss first.
    groups: {name: parameters}, disjoint, usually one per encoder. Parameters in no group (the
            heads) get the gradient of the summed loss.
    gamma, rescale, solve, check_finite: see `integrate`.
    Returns {"cosine/<group>", "scale/<group>" (mean over tensors), "weight/<group>/<loss>",
        "norm/<group>/<loss>", "descent/<group>/<loss>": 0-d}, see `integrate`.
    """
    gradients = LossGradients(groups)
    gradients.add(losses)
    return gradients.integrate(gamma, rescale, solve, check_finite)


class Method:
    """`--method mmpareto`: the step above for every encoder of the model."""

    solve, gradients = "conflict", None  # what the step gathers, None before its first part

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
        self.gradients = self.gradients or LossGradients(self.groups(model, forward_pass.losses))
        if not forward_pass.ends_step:
            self.gradients.add(forward_pass.losses)
            return {}
        self.gradients.add(forward_pass.losses, forward_pass.reduce)
        in_a_group = {id(p) for ps in self.gradients.groups.values() for p in ps}
        heads = [p.grad for p in model.parameters() if id(p) not in in_a_group]
        finish = forward_pass.reduce([g for g in heads if g is not None])
        found = self.integrate()
        self.gradients = None
        finish()
        return found

    def groups(self, model, losses):
        return model.groups(losses)

    def integrate(self):
        # No wait for the device here: the recorder sees inf and nan in the norms.
        return self.gradients.integrate(self.gamma, self.rescale, self.solve, check_finite=False)
