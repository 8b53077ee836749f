"""The MMPareto step in a training loop of your own. Where a loop needs no more, it is this:

    groups = {"audio": model.audio, "visual": model.visual}  # once, outside of the loop
    optimizer.zero_grad()
    mmpareto_backward(losses, groups)  # was: sum(losses.values()).backward()
    optimizer.step()

The loop below computes a batch in two parts, in fp16 with a GradScaler, and clips. The step needs
the gradients of the whole batch: `add` gathers them over the parts, `integrate` comes once.
pip install .   (in the repository), then: python code/examples/plain_loop.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmpareto import LossGradients

CLASSES, WIDTH = 4, 32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def make_set(samples: int):
    """Sound that tells the class at once and pictures that tell it through noise."""
    target = torch.randint(CLASSES, (samples,))
    audio = 2.0 * one_hot(target, 20) + torch.randn(samples, 20)
    visual = 0.8 * one_hot(target, 30) + torch.randn(samples, 30)
    return audio.to(DEVICE), visual.to(DEVICE), target.to(DEVICE)


def take_step(model, gradients, optimizer, scaler, batch, parts=2):
    optimizer.zero_grad()
    for audio, visual, target in zip(*(tensor.chunk(parts) for tensor in batch)):
        with torch.autocast(DEVICE, torch.float16, enabled=scaler.is_enabled()):
            logits = model(audio, visual)
            losses = {name: cross_entropy(x, target) for name, x in logits.items()}
        share = len(target) / len(batch[-1])
        gradients.add({name: scaler.scale(share * loss) for name, loss in losses.items()})
    diagnostics = gradients.integrate()  # before unscale_, as these gradients are scaled, too
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)  # leaves it out if a gradient is inf or nan
    scaler.update()
    return diagnostics


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    train_set, (audio, visual, target) = make_set(512), make_set(512)
    model = Model().to(DEVICE)
    gradients = LossGradients({"audio": model.audio, "visual": model.visual})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    scaler = torch.amp.GradScaler(DEVICE)
    conflicts = 0
    for _ in range(epochs):
        for rows in torch.randperm(512).to(DEVICE).split(64):
            batch = [x[rows] for x in train_set]
            diagnostics = take_step(model, gradients, optimizer, scaler, batch)
            conflicts += sum(diagnostics[f"cosine/{m}"].item() <= 0 for m in ("audio", "visual"))
    accuracy = (model(audio, visual)["multimodal"].argmax(1) == target).float().mean().item()
    print(f"{conflicts} conflicts in {epochs * 8} steps, test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
