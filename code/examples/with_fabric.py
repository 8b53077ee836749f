"""The MMPareto step with Lightning Fabric, in bf16. For a step per batch one line is replaced:

    mmpareto_backward(losses, groups, backward=fabric.backward)

in place of `fabric.backward(sum(losses.values()))`. Below a step has the gradients of two parts of
a batch. `backward=` is what lets Fabric's precision and strategy have their say in every pass.
pip install . lightning   (in the repository), then: python code/examples/with_fabric.py
"""

import torch
from lightning.fabric import Fabric
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


def train(fabric: Fabric, model, optimizer, loader, epochs: int, parts: int = 2) -> None:
    gradients = LossGradients({"audio": model.audio, "visual": model.visual})
    for _ in range(epochs):
        for batch in loader:
            optimizer.zero_grad()
            for audio, visual, target in zip(*(tensor.chunk(parts) for tensor in batch)):
                share = len(target) / len(batch[-1])
                logits = model(audio, visual)
                losses = {k: share * cross_entropy(x, target) for k, x in logits.items()}
                gradients.add(losses, backward=fabric.backward)
            gradients.integrate()  # before clip_gradients, which unscales with 16-mixed
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    train_set, test_set = make_set(512), make_set(512)
    fabric = Fabric(devices=1, precision="bf16-mixed")
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(DataLoader(train_set, batch_size=64, shuffle=True))
    train(fabric, model, optimizer, loader, epochs)
    audio, visual, target = fabric.to_device(test_set.tensors)
    accuracy = (model(audio, visual)["multimodal"].argmax(1) == target).float().mean().item()
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
