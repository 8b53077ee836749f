"""The MMPareto step in Lightning's own loop: clipping, accumulation and 16-mixed work as always.

`backward` gathers a gradient per loss: Lightning gives it the loss of `training_step` times a
factor (loss scale, 1 / accumulate_grad_batches), which each loss gets, too. `optimizer_step`, once
a step, integrates before Lightning unscales and clips. On a GPU precision="16-mixed" will do.
pip install . lightning   (in the repository), then: python code/examples/with_lightning.py
"""

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

from mmpareto import LossGradients

CLASSES, DEVICE = 4, "cuda" if torch.cuda.is_available() else "cpu"


class MMPareto(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.audio, self.visual = nn.Linear(20, 32), nn.Linear(30, 32)
        self.heads = nn.ModuleDict({m: nn.Linear(32, CLASSES) for m in ("audio", "visual")})
        self.fusion = nn.Linear(64, CLASSES)
        self.gradients = LossGradients({"audio": self.audio, "visual": self.visual})

    def forward(self, audio, visual):
        features = {"audio": self.audio(audio).relu(), "visual": self.visual(visual).relu()}
        fused = self.fusion(torch.cat(list(features.values()), dim=1))
        return {"multimodal": fused} | {m: self.heads[m](f) for m, f in features.items()}

    def training_step(self, batch, batch_index):
        *inputs, target = batch
        self.losses = {k: cross_entropy(x, target) for k, x in self(*inputs).items()}
        return sum(self.losses.values())

    def backward(self, loss):
        factors = torch.autograd.grad(loss, list(self.losses.values()), retain_graph=True)
        self.gradients.add({k: f * x for f, (k, x) in zip(factors, self.losses.items())})

    def optimizer_step(self, epoch, batch_index, optimizer, closure):
        def closure_and_integrate():
            loss = closure()  # training_step and backward
            self.gradients.integrate()
            return loss

        super().optimizer_step(epoch, batch_index, optimizer, closure_and_integrate)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def make_set(samples: int) -> TensorDataset:
    """Sound that tells the class at once and pictures that tell it through noise."""
    target = torch.randint(CLASSES, (samples,))
    audio = 2.0 * one_hot(target, 20) + torch.randn(samples, 20)
    visual = 0.8 * one_hot(target, 30) + torch.randn(samples, 30)
    return TensorDataset(audio, visual, target)


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    fp16 = MixedPrecision("16-mixed", DEVICE, torch.amp.GradScaler(DEVICE))  # a CPU needs it
    options = dict(max_epochs=epochs, accumulate_grad_batches=2, gradient_clip_val=1.0)
    options |= dict(accelerator=DEVICE, devices=1, plugins=fp16, enable_progress_bar=False)
    quiet = dict(logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer = lightning.Trainer(**options, **quiet)
    module = MMPareto()
    trainer.fit(module, DataLoader(make_set(512), batch_size=32, shuffle=True))
    *inputs, target = make_set(512).tensors
    accuracy = (module(*inputs)["multimodal"].argmax(1) == target).float().mean().item()
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
