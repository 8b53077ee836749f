"""Which parameters a loss reaches, read off the autograd graph and never off names."""

from collections.abc import Iterable, Mapping

from torch import Tensor


def reached_by(loss: Tensor) -> set[int]:
    """`id` of every leaf tensor that `loss.backward()` would give a gradient."""
    nodes, seen, leaves = [loss.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # AccumulateGrad: the end of a path
            leaves.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return leaves


def groups_of(
    losses: Mapping[str, Tensor],
    encoders: Mapping[str, Iterable[Tensor]],
    parameters: Iterable[Tensor],
) -> dict[str, list[Tensor]]:
    """The groups of parameters on which losses can conflict: {group: parameters}.

    Every encoder is a group. What two or more losses reach outside of them (layers where
    modalities meet, bottleneck tokens) is the group "shared", after them; it is left out where
    there is none. The objectives of a group are the losses that reach any of its parameters; a
    parameter of the group that one of them does not reach counts as zero for it.

    With late fusion the groups are the encoders, with two objectives each: the multimodal loss and
    the modality's own.
    """
    groups = {modality: list(members) for modality, members in encoders.items()}
    of_encoders = {id(p) for members in groups.values() for p in members}
    reached = [reached_by(loss) for loss in losses.values()]
    outside = [p for p in parameters if id(p) not in of_encoders]
    shared = [p for p in outside if sum(id(p) in leaves for leaves in reached) > 1]
    return groups | {"shared": shared} if shared else groups


def objectives_of(
    losses: Mapping[str, Tensor], groups: Mapping[str, Iterable[Tensor]]
) -> dict[str, list[str]]:
    """{group: names of the losses that reach it}, in the order of the losses."""
    reached = {name: reached_by(loss) for name, loss in losses.items()}
    members = {group: {id(p) for p in parameters} for group, parameters in groups.items()}
    return {
        group: [name for name, leaves in reached.items() if leaves & ids]
        for group, ids in members.items()
    }
