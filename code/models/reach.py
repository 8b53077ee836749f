"""Which parameters a loss reaches, read off the autograd graph and never off names."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from mmpareto import leaves_of, nodes_of


def outside(groups: Mapping[str, Iterable[Tensor]], parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that are in no group."""
    members = {p for group in groups.values() for p in group}
    return [p for p in parameters if p not in members]


def reached_by(loss: Tensor) -> set[Tensor]:
    """The tensors that `loss.backward()` would give a gradient."""
    return leaves_of(nodes_of([loss]))


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
    reached = [reached_by(loss) for loss in losses.values()]
    rest = outside(groups, parameters)
    shared = [p for p in rest if sum(p in leaves for leaves in reached) > 1]
    return groups | {"shared": shared} if shared else groups


def objectives_of(
    losses: Mapping[str, Tensor], groups: Mapping[str, Iterable[Tensor]]
) -> dict[str, list[str]]:
    """{group: names of the losses that reach it}, in the order of the losses."""
    reached = {name: reached_by(loss) for name, loss in losses.items()}
    return {
        group: [name for name, leaves in reached.items() if not leaves.isdisjoint(parameters)]
        for group, parameters in groups.items()
    }
