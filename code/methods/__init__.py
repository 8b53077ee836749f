"""How losses become gradients: one file per method, chosen by `--method <file name>`.

A file `methods/X.py` exports `class Method` with

    Method(options)                          options: the parsed command line;
                                             raises ValueError for a flag out of range
    backward(forward_pass, model) -> dict    fills `.grad` of every parameter the losses reach and
                                             returns diagnostics {name: 0-d tensor}, not copied
                                             to the host

and, where it needs them, `add_options(parser)` (static: its own flags), `start_epoch(epoch)`,
`state_dict()` / `load_state_dict(state)` (whatever it must remember across a `--resume`) and
`trains_unimodal_heads = False` (their accuracy is then not shown as if it meant something).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class ForwardPass:
    """One mini-batch after the forward pass: all that a method may look at.

    losses:   {"multimodal" | modality: 0-d tensor}, the multimodal loss first
    logits:   {"multimodal" | modality: (B, K)}
    features: {modality: (B, D)}
    target:   (B,) class indices
    epoch:    0-based
    """

    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    features: dict[str, Tensor]
    target: Tensor
    epoch: int
