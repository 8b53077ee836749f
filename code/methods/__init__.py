"""How losses become gradients: one file per method, chosen by `--method <file name>`.

A file `methods/X.py` exports `class Method` with

    Method(options)                          options: the parsed command line;
                                             raises ValueError for a flag out of range
    backward(forward_pass, model) -> dict    fills `.grad` of every parameter the losses reach and
                                             returns diagnostics {name: 0-d tensor}, not copied
                                             to the host; "norm/..." = norm of a gradient

and, where it needs them, `add_options(parser)` (static: its own flags), `start_epoch(epoch, model,
loaders)` (before the first step of each epoch; the model may be left in evaluation mode),
`state_dict()` / `load_state_dict(state)` (whatever it must remember across a `--resume`) and
of the class: `trains_unimodal_heads = False` (their accuracy is then not shown as if it meant
something), `needs_every_modality = True` (it looks at more than losses, so `--missing keep` is
refused), `fusion` (the one it needs), `waits_for_device = True` (a solver on the host). Files whose
name begins with an underscore are no methods, but what several share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from utils import registry


def no_reduction(tensors: list[Tensor]) -> Callable[[], None]:
    """`ForwardPass.reduce` of a run with one process."""
    del tensors
    return lambda: None


@dataclass
class ForwardPass:
    """One mini-batch after the forward pass: all that a method may look at.

    losses:   {"multimodal" | modality: 0-d tensor}, the multimodal loss first; each times this
              part's share of the batch, so that gradients of parts and processes add up
    logits:   {"multimodal" | modality: (B, K)}
    features: {modality: (B, D)}
    target:   (B,) class indices
    epoch:    0-based
    ends_step: False while further parts of the same batch follow (`--accumulate`): gradients are
              gathered, and `.grad` is complete after the part with True
    scale:    what the losses were multiplied by: the part's share of the batch, and the loss scale
              of fp16; a method that adds a loss of its own multiplies it too
    reduce:   begins to sum tensors over the processes of the run, in place, and returns what waits
              for it; a method calls it in the part that ends the step, once for every gradient
    inputs:   {modality: what the encoder got}
    """

    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    features: dict[str, Tensor]
    target: Tensor
    epoch: int
    ends_step: bool = True
    scale: float | Tensor = 1.0
    reduce: Callable[[list[Tensor]], Callable[[], None]] = no_reduction
    inputs: dict[str, Tensor] | None = None


def needs_whole_batch(options, method: str) -> None:
    """For methods that decide before they back-propagate. Raises ValueError with --accumulate."""
    parts = getattr(options, "accumulate", 1)
    if parts != 1:
        raise ValueError(f"--accumulate {parts}: {method} needs the whole batch at once, 1")


def needs_late_fusion(options, method: str) -> None:
    """For methods that need each encoder's features to be its own. Raises ValueError otherwise."""
    fusion = registry.load("models/fusion", options.fusion, "--fusion").Fusion
    if getattr(fusion, "mixes_encoders", False):
        raise ValueError(f"--fusion {options.fusion}: {method} needs encoders that do not meet")


def reduced(model, forward_pass: ForwardPass) -> bool:
    """For methods that are linear in the gradients: at the end of a step sums every `.grad` over
    the processes. Returns False before the end."""
    if forward_pass.ends_step:
        forward_pass.reduce([p.grad for p in model.parameters() if p.grad is not None])()
    return forward_pass.ends_step
