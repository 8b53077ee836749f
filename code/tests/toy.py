"""The smallest models of the tests: `Toy` is trained, `Given` has the gradients a test wants."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods import ForwardPass
from models.fusion.concat import Fusion
from models.multimodal import MultimodalModel

CLASSES = 3


class Toy(MultimodalModel):
    """Encoders that are matrices, with the published fusion and heads, in float64."""

    def __init__(self, modalities=("audio", "visual")):
        nn.Module.__init__(self)
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({m: nn.Linear(4, 5) for m in modalities})
        self.heads = nn.ModuleDict({m: nn.Linear(5, CLASSES) for m in modalities})
        self.fusion = Fusion(dict.fromkeys(modalities, 5), CLASSES)
        self.double()

    def batch(self, seed=0, size=8):
        """({modality: (B, 4)}, target (B,)) in which every class occurs."""
        generator = torch.Generator().manual_seed(seed)
        inputs = {m: torch.randn(size, 4, generator=generator).double() for m in self.encoders}
        return inputs, torch.arange(size) % CLASSES

    def forward_pass(self, batch, epoch=0):
        inputs, target = batch
        logits, features = self(inputs)
        losses = {name: cross_entropy(x, target) for name, x in logits.items()}
        return ForwardPass(losses, logits, features, target, epoch, inputs)

    def losses(self, seed=0):
        return self.forward_pass(self.batch(seed)).losses


class Given(nn.Module):
    """Encoders that are one vector each; the losses are linear in them, so gradients are given."""

    def __init__(self, **gradients):
        super().__init__()
        self.rows = gradients  # {modality: {loss: gradient}}
        self.encoders = nn.ParameterDict(
            {m: torch.zeros_like(next(iter(rows.values()))) for m, rows in gradients.items()}
        )

    def encoder_parameters(self):
        return {m: [p] for m, p in self.encoders.items()}

    def groups(self, losses):
        return self.encoder_parameters()

    def losses(self):
        losses = {}
        for modality, rows in self.rows.items():
            for name, gradient in rows.items():
                losses[name] = losses.get(name, 0) + self.encoders[modality] @ gradient
        return losses

    def forward_pass(self, values=(0, 0, 0)):
        """values: of the losses, whatever their gradients."""
        losses = {n: loss + value for (n, loss), value in zip(self.losses().items(), values)}
        logits = {name: torch.zeros(4, CLASSES) for name in losses}
        return ForwardPass(losses, logits, {}, torch.zeros(4, dtype=torch.long))
