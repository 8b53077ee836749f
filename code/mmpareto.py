"""The MMPareto step, in one file that needs torch only: copy it, or `pip install .` here.

    losses = {"multimodal": ..., "audio": ..., "visual": ...}  # the multimodal loss first
    groups = {"audio": audio_encoder, "visual": visual_encoder}
    diagnostics = mmpareto_backward(losses, groups)  # was: sum(losses.values()).backward()

For every encoder, with the gradients g_1 ... g_n of the losses that reach it:

    without conflict                         h = sum_i g_i
    in conflict, some cos(g_i, g_j) <= 0     h = lambda n sum_i alpha_i g_i
        alpha = least-norm weights,          lambda = max(1, |sum_i g_i| / |n sum_i alpha_i g_i|)
    .grad = gamma h
Everything else gets the gradient of the summed loss. Source: Wei & Hu, "MMPareto", ICML 2024,
Algorithm 1. The paper has one lambda for an encoder, `rescale="encoder"`; its published code has
one for each parameter tensor, as here by default. Nothing waits for the device.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, distributed, nn

Gradients = Sequence[Sequence[Tensor]]  # n lists, one per loss, of T tensors, one per parameter
Group = nn.Module | Iterable[nn.Module | Tensor]  # an encoder, several, or their parameters
Rule = Callable[[Tensor], Tensor]  # inner products (n, n) -> factors c (n,) in h = sum_i c_i g_i


def mmpareto_factors(gram: Tensor) -> Tensor:
    """MMPareto's rule: ones without conflict, else n alpha; zero gradients are not counted in n."""
    in_conflict = (cosines(gram) <= 0).any()
    return torch.where(in_conflict, (gram.diagonal() > 0).sum() * least_norm_weights(gram), 1)


def cosines(gram: Tensor) -> Tensor:
    """(n, n) cosines from inner products (n, n). A zero gradient opposes nothing: 1."""
    lengths = gram.diagonal().sqrt()
    products = lengths.outer(lengths)
    return torch.where(products > 0, gram / products, 1).clamp(-1, 1).fill_diagonal_(1)


def least_norm_weights(gram: Tensor) -> Tensor:
    """Weights alpha (n,) of the shortest vector in the convex hull of n gradients (MGDA).

        alpha = argmin |sum_i alpha_i g_i|^2  subject to  alpha_i >= 0, sum_i alpha_i = 1
    Source: Sener & Koltun 2018, Eq. 3. Departs: the published solver stops at 0.001 and 0.999.
    gram: inner products (n, n). A zero gradient gets 0 beside one that is not zero.
    """
    lengths = gram.diagonal().sqrt()
    shortest = torch.where(lengths > 0, lengths, torch.inf).amin()
    inverse = torch.where(lengths > 0, shortest / lengths, 0)  # 1 / |g_i|, within [0, 1]
    if len(gram) == 2:
        # alpha_1 = (|g_2|^2 - <g_1, g_2>) / |g_1 - g_2|^2, and alpha_2 by the same formula, as a
        # small 1 - alpha_1 would have no correct digit left. z_i is proportional to alpha_i |g_i|.
        z = (inverse - cosines(gram)[0, 1] * inverse.flip(0)).clamp(min=0)
    else:  # argmin |sum_i z_i g_i / |g_i||^2 + (1 - sum_i z_i / |g_i|)^2, the sum as a penalty
        z = _nonnegative_minimum(cosines(gram) + inverse.outer(inverse), inverse)
    weights = inverse * z
    return torch.where(weights.sum() > 0, weights / weights.sum(), 1 / len(gram))


def _nonnegative_minimum(matrix: Tensor, vector: Tensor) -> Tensor:
    """argmin z'Mz / 2 - v'z over z >= 0. Lawson & Hanson 1974; always 3 n steps."""
    z, free, settled = torch.zeros_like(vector), vector < 0, True
    position = torch.arange(len(vector), device=vector.device)
    for _ in range(3 * len(vector)):
        slope = torch.where(free, 0, vector - matrix @ z)  # set free what gains most
        free = free | (settled & (slope > 1e-14) & (position == slope.argmax()))
        system = torch.where(free.outer(free), matrix, torch.ones_like(vector).diag())
        target = torch.linalg.solve_ex(system, vector * free)[0]  # the minimum over what is free
        target = torch.where(target.isfinite().all(), target, z)
        blocked = free & (target <= 0)  # not to become negative: stop where the first reaches 0
        share = torch.where(blocked, z / (z - target).clamp(min=1e-30), 1)
        z = torch.where(blocked & (share == share.amin()), 0, z + share.amin() * (target - z))
        free, settled = free & (z > 0), ~blocked.any()
    return z


def rounding_of(tensors: Iterable[Tensor]) -> float:
    """r: a sum h of vectors may be mere rounding where |h|^2 < r (sum of their lengths)^2."""
    known = {torch.float64: 1e-14, torch.bfloat16: 3e-4}
    return max(known.get(t.dtype, 1e-6) for t in tensors)


def _inner_products(gradients: Gradients) -> Tensor:
    """(T, n, n) <g_i, g_j> on each of T tensors. In float64: float32 sums lose half the digits."""
    n, dots, on_mps = len(gradients), [], gradients[0][0].device.type == "mps"
    pairs = [(i, j) for i in range(n) for j in range(i + 1)]
    for tensors in zip(*gradients, strict=True):  # viewed as stored, in parts that fit a cache
        as_stored = sorted(range(tensors[0].ndim), key=tensors[0].stride, reverse=True)
        views = [g.permute(as_stored).flatten().split(2**18) for g in tensors]
        parts = ([x.float() if on_mps else x.double() for x in part] for part in zip(*views))
        products = zip(*([part[i].dot(part[j]) for i, j in pairs] for part in parts))
        half = dict(zip(pairs, [reduce(torch.add, of_parts) for of_parts in products]))
        dots += [half[max(i, j), min(i, j)] for i in range(n) for j in range(n)]
    return torch.stack(dots).view(-1, n, n)


def integrate(
    gradients: Gradients, gamma: float = 1.5, rescale: str = "tensor", rule: Rule = mmpareto_factors
) -> dict[str, Tensor]:
    """Merges n gradients of one group of parameters: gamma h takes the place of gradients[0].

    In conflict h descends every loss with `rescale="encoder"`; a lambda per tensor may make it
    climb one, see `descent`. A gradient whose square underflows counts as zero; what is not finite
    makes h so. lambda is 1 where h may be mere rounding, see `rounding_of`. Returns `cosine` 0-d,
    the smallest; `norm` |g_i|, `weight` c_i / sum |c_j|, `descent` cos(h, g_i), each (n,); `scale`
    lambda, (T,). Arguments: `mmpareto_backward`.
    """
    _check(gamma, rescale)
    grams = _inner_products(gradients)  # (T, n, n)
    gram = grams.sum(0)
    identity = torch.ones_like(gram[0]).diag()  # for solvers, which may raise at what is not finite
    factors = rule(torch.where(gram.isfinite().all(), gram, identity)) + 0 * gram.sum()  # then nan
    # lambda, of every tensor or of all together; of zeros, for "none", it is 1
    shared = {"tensor": grams, "encoder": gram[None], "none": 0 * gram[None]}[rescale]
    squared, most = shared @ factors @ factors, shared.diagonal(0, 1, 2).sqrt() @ factors.abs()
    ratio = (shared.sum((1, 2)).clamp(min=0) / squared).sqrt().clamp(min=1)
    scale = torch.where(squared > rounding_of(gradients[0]) * most**2, ratio, 1).expand(len(grams))
    for tensors, coefficients in zip(zip(*gradients), gamma * scale.outer(factors)):
        h, *others = [g.float() if g.dtype.itemsize < 4 else g for g in tensors]
        first, *rest = coefficients.to(h.dtype).unbind()
        h.mul_(first)
        for g, coefficient in zip(others, rest):
            h.addcmul_(g, coefficient)
        tensors[0].copy_(h)  # only in half precision; else they are the same tensor
    norm, slopes = gram.diagonal().sqrt(), grams @ factors  # (T, n) <h, g_j> before lambda
    lengths = norm * (scale**2 @ (slopes @ factors)).clamp(min=0).sqrt()  # |h| |g_j|
    descent = torch.where(lengths > 0, scale @ slopes / lengths, 0).clamp(-1, 1)
    weight = factors / factors.abs().sum().clamp(min=1e-30)
    return dict(cosine=cosines(gram).amin(), weight=weight, norm=norm, scale=scale, descent=descent)


class LossGradients:
    """The gradients of every loss in the parameters of the groups, summed over parts of a batch:

        gradients = LossGradients(groups)
        for part in parts:
            gradients.add(losses)  # of this part, each times its share of the batch
        diagnostics = gradients.integrate()  # the step on the whole batch, unlike a step per part
    `sums`, {loss: {parameter: gradient}}, are what several processes add up before `integrate`.
    """

    def __init__(self, groups: Mapping[str, Group]):
        self.groups = _parameters_of(groups)
        self.sums: dict[str, dict[Tensor, Tensor]] = {}

    def add(self, losses: Mapping[str, Tensor | None], backward=Tensor.backward) -> None:
        """One backward pass per loss, the first loss last: its pass frees the graph. If one fails,
        the sums and `.grad` are as before."""
        losses, parameters, rest = _checked(losses, self.groups)
        before = {p: p.grad for p in parameters}
        before_rest = {p: None if p.grad is None else p.grad.clone() for p in rest}
        gradients, versions = {}, [p._version for p in parameters]
        try:
            for number, name in reversed(list(enumerate(losses))):
                for p in parameters:
                    p.grad = None
                backward(losses[name], retain_graph=number > 0)
                reached = [p for p in parameters if p.grad is not None]
                gradients[name] = {p: p.grad.to_dense() for p in reached}
            _ensure(any(gradients.values()), "groups", NOT_REACHED)
            _ensure(versions == [p._version for p in parameters], "groups", IN_BACKWARD)
        except BaseException:
            before |= before_rest
            raise
        finally:
            for p, gradient in before.items():
                p.grad = gradient
        self.sums = {name: {} for name in losses} | self.sums
        for name, of_loss in gradients.items():
            sums = self.sums[name]
            sums |= {p: sums[p].add_(g) if p in sums else g for p, g in of_loss.items()}

    def losses_of(self, group: str) -> list[str]:  # which reach it, in the order given
        return [n for n, s in self.sums.items() if not s.keys().isdisjoint(self.groups[group])]

    def integrate(self, gamma=1.5, rescale="tensor", rules: Mapping[str, Rule] | None = None):
        """Adds gamma h to `.grad` and forgets the sums. rules: {group: rule}, else MMPareto's."""
        report = {}
        for group, parameters in self.groups.items():
            losses = self.losses_of(group)
            sums = [self.sums[name] for name in losses]
            reached = [p for p in parameters if any(p in of_loss for of_loss in sums)]
            rows = [[s[p] if p in s else torch.zeros_like(p) for p in reached] for s in sums]
            if len(rows) > 1:
                rule = (rules or {}).get(group, mmpareto_factors)
                found = integrate(rows, gamma, rescale, rule)
                report |= {f"{key}/{group}": found[key].mean() for key in ("cosine", "scale")}
                for key in ("weight", "norm", "descent"):
                    report |= {f"{key}/{group}/{name}": x for name, x in zip(losses, found[key])}
            for p, h in zip(reached, rows[0] if rows else []):
                p.grad = h if p.grad is None else p.grad.add_(h)
        self.sums = {}
        return report


def mmpareto_backward(
    losses: Mapping[str, Tensor | None],
    groups: Mapping[str, Group],
    gamma: float = 1.5,
    rescale: str = "tensor",
    rule: Rule = mmpareto_factors,
    backward: Callable = Tensor.backward,
) -> dict[str, Tensor]:
    """Stands where `sum(losses.values()).backward()` stood, and like it adds to `.grad`.

    losses:   {"multimodal": 0-d, modality: 0-d, ...}, the multimodal one first; None is left out.
    groups:   {name: module or parameters}, disjoint, usually one per encoder. A loss that does not
              reach a parameter counts as zero there; what one loss reaches has its plain gradient.
    gamma:    magnitude gain, > 0; like rescale it applies to any `rule`, see Rule.
    rescale:  one lambda for each parameter "tensor", one for the whole "encoder", or "none".
    backward: what stands for `loss.backward(retain_graph=...)`, such as Fabric's or Accelerate's.
    Returns diagnostics, 0-d: cosine/GROUP, scale/GROUP (mean), weight/, norm/, descent/GROUP/LOSS.
    Raises ValueError where something else would come out, and leaves `.grad` as it was.
    """
    _check(gamma, rescale)
    if distributed.is_available() and distributed.is_initialized():
        remedy = "each would take a step of its own; use LossGradients as in docs/training.md"
        where = "mmpareto_backward in several processes (DistributedDataParallel)"
        _ensure(distributed.get_world_size() == 1, where, remedy)
    gradients = LossGradients(groups)
    gradients.add(losses, backward)
    return gradients.integrate(gamma, rescale, dict.fromkeys(gradients.groups, rule))


# What would silently become another gradient is refused, before any gradient has changed.

PARAMETERS = "must be the module, or real parameters: no feature, computed weight, copy or buffer"
IN_BACKWARD = "an optimizer, or another hook, steps within the backward pass; step after it"
COMPILED = (  # else PyTorch 2.11 may take code that overwrites what the second pass needs
    "before the first forward pass: import torch._functorch.config; "
    "torch._functorch.config.donated_buffer = False; torch.compiler.config.cache_key_tag = 'kept'"
)
NOT_REACHED = "no loss reaches any parameter; all are frozen, or of another model or a copy"


def _ensure(holds: bool, subject: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{subject}: {rule}")


def _check(gamma: float, rescale: str) -> None:
    _ensure(gamma > 0, "gamma", f"must be > 0, got {gamma}")
    choices = ("tensor", "encoder", "none")
    _ensure(rescale in choices, "rescale", f"choose from {choices}, got {rescale!r}")


def _parameters_of(groups: Mapping[str, Group]) -> dict[str, list[Tensor]]:
    is_named = isinstance(groups, Mapping | nn.ModuleDict)
    _ensure(is_named, "groups", "must be {name: module}, as {'audio': audio_encoder}")
    members = {}
    for name, group in groups.items():
        _ensure(not isinstance(group, Tensor | str), f"groups[{name!r}]", PARAMETERS)
        parts = [group] if isinstance(group, nn.Module) else list(group)
        is_used_up = isinstance(group, Iterator) and not parts
        _ensure(not is_used_up, f"groups[{name!r}]", "an iterator, used up; give the module")
        inner = [p.parameters() if isinstance(p, nn.Module) else [p] for p in parts]
        members[name] = [p for parameters in inner for p in parameters]
    return members


def _checked(losses, groups) -> tuple[dict[str, Tensor], list[Tensor], set[Tensor]]:
    """The losses without None, the parameters of all groups, and what else the losses reach."""
    _ensure(isinstance(losses, Mapping), "losses", "must be {name: loss}, the multimodal one first")
    losses = {name: loss for name, loss in losses.items() if loss is not None}
    for name, loss in losses.items():
        is_number = isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex()
        _ensure(is_number, f"losses[{name!r}]", "must be one real number, as loss.mean() is")
        rule = "requires no gradient, it is detached or all behind it is frozen; leave it out"
        _ensure(loss.requires_grad, f"losses[{name!r}]", rule)
    group_of: dict[Tensor, str] = {}
    for name, parameters in groups.items():
        where = f"groups[{name!r}]"
        for p in parameters:
            is_leaf = isinstance(p, Tensor) and p.is_leaf and not p.is_complex()
            is_parameter = is_leaf and (p.requires_grad or isinstance(p, nn.Parameter))
            _ensure(is_parameter, where, PARAMETERS)
            _ensure(not p._post_accumulate_grad_hooks, where, IN_BACKWARD)
            if p in group_of:
                raise ValueError(f"groups: one parameter is in {group_of[p]} and, again, in {name}")
            group_of[p] = name
    nodes = nodes_of(losses.values())
    if any(type(node).__name__ == "CompiledFunctionBackward" for node in nodes):
        from torch._functorch import config

        is_kept = not config.donated_buffer and torch.compiler.config.cache_key_tag
        _ensure(is_kept, "torch.compile", COMPILED)
    return losses, list(group_of), leaves_of(nodes) - group_of.keys()


def leaves_of(nodes: Iterable) -> set[Tensor]:
    """The tensors that backward() would give a gradient."""
    return {node.variable for node in nodes if type(node).__name__ == "AccumulateGrad"}


def nodes_of(losses: Iterable[Tensor]) -> list:
    """The graph of autograd."""
    nodes = list({loss.grad_fn for loss in losses} - {None})
    seen = set(nodes)
    for node in nodes:  # which grows
        following = {n for n, _ in node.next_functions} - seen - {None}
        seen |= following
        nodes += following
    return nodes
