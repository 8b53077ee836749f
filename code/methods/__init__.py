"""How losses become gradients: one file per method, chosen by `--method <file name>`.

A file `methods/X.py` exports a `class Method` that derives from the one below. What several methods
share is in files whose name begins with an underscore. Where a description does not say otherwise,
a method takes any number of losses and trains the unimodal heads with weight 1. F is the cost of a
forward pass of the model. A step is

    for every part of the batch:  method.backward(forward, model)
    sum method.to_sum(model) over the processes of the run
    diagnostics = method.integrate(model), after which `.grad` is complete
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from utils import distributed
from utils.errors import BadInput
from utils.registry import Contract

NEEDS = {  # what a method may need: why
    "whole_batch": "decides before it back-propagates, so not with --accumulate",
    "validation": "looks at held-out samples, --val_fraction or --val_speakers",
    "unimodal_logits": "asks the fusion what each modality adds to its logits",
    "gates": "holds the gates of the fusion",
    "late_fusion": "needs encoders that exchange nothing",
    "teachers": "learns from runs of one modality, --umt_teachers",
    "waits_for_device": "has a solver on the host",
}


@dataclass
class ForwardPass:
    """One part of a batch after the forward pass: all that a method may look at."""

    # {"multimodal" | modality: 0-d}, the multimodal loss first; each times this part's share of the
    # batch, so that gradients of parts and processes add up
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]  # {"multimodal" | modality: (B, K)}
    features: dict[str, Tensor]  # {modality: (B, D)}
    target: Tensor  # (B,) class indices
    epoch: int = 0
    inputs: dict[str, Tensor] = field(default_factory=dict)  # {modality: what the encoder got}
    # what the losses were multiplied by: the part's share of the batch, and the loss scale of fp16;
    # a method that adds a loss of its own multiplies it by this
    scale: float | Tensor = 1.0
    # adds tensors up over the processes, in place, for methods that decide before they
    # back-propagate
    sum: Callable[[list[Tensor]], None] = lambda tensors: None

    @property
    def joint_loss(self) -> Tensor:
        """The multimodal loss; with a single modality its own."""
        return next(iter(self.losses.values()))


class Method(Contract):
    """Every hook, and what happens where a method does not have its own.

    This is the uniform baseline: all losses summed with weight 1, plain backward.
    """

    needs: frozenset[str] | set[str] = frozenset()  # of NEEDS, checked once, before anything starts
    trains_unimodal_heads = True  # False: tables leave their accuracy out
    undoes_weights = False  # True: --unimodal_weight would change next to nothing, so it is refused
    memory: Mapping[str, object] = MappingProxyType({})  # what it remembers across `--resume`

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        if unknown := sorted(set(cls.needs) - NEEDS.keys()):
            raise BadInput(f"{cls.__module__}: needs {unknown[0]}; choose from {', '.join(NEEDS)}")

    @staticmethod
    def add_options(parser) -> None:
        """Its own flags. `__init__` gets exactly these, as keyword arguments, and raises ValueError
        for a value out of range."""

    def start_epoch(self, epoch: int, model, loaders: dict, seed: int = 0) -> None:
        """Before the first step of each epoch; the model may be left in evaluation mode.

        loaders: "train", "train_plain" (in order, without augmentation), "test" and, where samples
            were held out, "val". seed: of the run, the same in every process.
        """

    def backward(self, forward: ForwardPass, model) -> None:
        """Back-propagates one part of a batch; gradients gather in `.grad`, or in the method."""
        sum(forward.losses.values()).backward()

    def to_sum(self, model) -> list[Tensor]:
        """What the last part of the batch leaves to be summed over the processes, in place."""
        gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
        tensors = distributed.completed([gradients], list(model.parameters()))
        for p, gradient in gradients.items():
            p.grad = gradient
        return tensors

    def integrate(self, model) -> dict[str, Tensor]:
        """Leaves `.grad` complete. Returns diagnostics, {name: 0-d tensor} on the device; a value
        that is not finite stops the run, "norm/..." is first divided by the loss scale of fp16."""
        return norms_of_sum(model.encoder_parameters())

    def state_dict(self) -> dict:
        return dict(self.memory)

    def load_state_dict(self, state: dict) -> None:
        self.memory = dict(state)


def norms_of_sum(groups: dict[str, list[Tensor]], name: str = "sum") -> dict[str, Tensor]:
    """{"norm/<group>/<name>": norm of `.grad`}, without groups of which nothing has a gradient."""
    gradients = {g: [p.grad for p in ps if p.grad is not None] for g, ps in groups.items()}
    return {f"norm/{g}/{name}": get_total_norm(grads) for g, grads in gradients.items() if grads}


def generator_of(seed: int, epoch: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A method's own random numbers: the same in every process and after a resume."""
    return torch.Generator(device).manual_seed(1_000_003 * seed + epoch)
