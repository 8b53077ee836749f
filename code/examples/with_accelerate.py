"""The MMPareto step with Accelerate and `gradient_accumulation_steps=2`.

In place of `accelerator.backward(loss)` every part of a batch is added with its losses as they are:
`accelerator.backward`, given as `backward=`, divides each by the accumulation steps and applies the
loss scale of fp16. `integrate` comes where the gradients are complete (`sync_gradients`), before
`clip_grad_norm_`, which unscales. Accelerate divides by 2 also where an epoch ends with one part.
pip install . accelerate   (in the repository), then: python code/examples/with_accelerate.py
"""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset

from mmpareto import LossGradients

CLASSES, WIDTH = 4, 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.audio, self.visual = nn.Linear(20, WIDTH), nn.Linear(30, WIDTH)
        self.heads = nn.ModuleDict({m: nn.Linear(WIDTH, CLASSES) for m in ("audio", "visual")})
        self.fusion = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, audio, visual):
        features = {"audio": self.audio(audio).relu(), "visual": self.visual(visual).relu()}
        fused = self.fusion(torch.cat(list(features.values()), dim=1))
        return {"multimodal": fused} | {m: self.heads[m](f) for m, f in features.items()}


def make_set(samples: int) -> TensorDataset:
    """Sound that tells the class at once and pictures that tell it through noise."""
    target = torch.randint(CLASSES, (samples,))
    audio = 2.0 * one_hot(target, 20) + torch.randn(samples, 20)
    visual = 0.8 * one_hot(target, 30) + torch.randn(samples, 30)
    return TensorDataset(audio, visual, target)


def train(accelerator: Accelerator, model, optimizer, loader, epochs: int) -> None:
    encoders = accelerator.unwrap_model(model)
    gradients = LossGradients({"audio": encoders.audio, "visual": encoders.visual})
    for _ in range(epochs):
        for audio, visual, target in loader:
            with accelerator.accumulate(model):
                losses = {k: cross_entropy(x, target) for k, x in model(audio, visual).items()}
                gradients.add(losses, backward=accelerator.backward)
                if accelerator.sync_gradients:
                    gradients.integrate()
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    train_set, test_set = make_set(512), make_set(512)
    accelerator = Accelerator(gradient_accumulation_steps=2)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    loader = DataLoader(train_set, batch_size=32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    train(accelerator, model, optimizer, loader, epochs)
    audio, visual, target = (tensor.to(accelerator.device) for tensor in test_set.tensors)
    accuracy = (model(audio, visual)["multimodal"].argmax(1) == target).float().mean().item()
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
