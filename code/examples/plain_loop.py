"""The MMPareto step in a training loop of your own: two encoders, one line replaced.

pip install .   (in the repository), then: python code/examples/plain_loop.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmpareto import mmpareto_backward

CLASSES, WIDTH = 4, 32


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.audio = nn.Sequential(nn.Linear(20, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.visual = nn.Sequential(nn.Linear(30, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.fusion = nn.Linear(2 * WIDTH, CLASSES)
        self.audio_head = nn.Linear(WIDTH, CLASSES)
        self.visual_head = nn.Linear(WIDTH, CLASSES)

    def forward(self, audio, visual):
        a, v = self.audio(audio), self.visual(visual)
        return {
            "multimodal": self.fusion(torch.cat([a, v], dim=1)),
            "audio": self.audio_head(a),
            "visual": self.visual_head(v),
        }


def make_set(samples: int, generator: torch.Generator):
    """Sound that tells the class at once and pictures that tell it through noise."""
    target = torch.randint(CLASSES, (samples,), generator=generator)
    audio = 2.0 * nn.functional.one_hot(target, 20) + torch.randn(samples, 20, generator=generator)
    visual = 0.8 * nn.functional.one_hot(target, 30) + torch.randn(samples, 30, generator=generator)
    return audio, visual, target


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    audio, visual, target = make_set(512, generator)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for epoch in range(epochs):
        conflicts, steps = 0, 0
        for rows in torch.randperm(len(target), generator=generator).split(64):
            logits = model(audio[rows], visual[rows])
            losses = {name: cross_entropy(x, target[rows]) for name, x in logits.items()}
            groups = {"audio": model.audio.parameters(), "visual": model.visual.parameters()}

            optimizer.zero_grad()
            diagnostics = mmpareto_backward(losses, groups)  # was: sum(losses.values()).backward()
            optimizer.step()

            conflicts += sum(diagnostics[f"cosine/{name}"].item() <= 0 for name in groups)
            steps += 1
        loss = losses["multimodal"]
        print(f"epoch {epoch}: loss {loss:.3f}, {conflicts} conflicts in {steps} steps")
    test = make_set(512, generator)
    accuracy = (model(*test[:2])["multimodal"].argmax(1) == test[2]).float().mean().item()
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
