"""MMPareto as a weighting of TorchJD, in a dozen lines: its rule is `mmpareto_factors`, and what
follows restores the magnitude of the sum and raises it. The same as `rescale="encoder"`.

pip install . torchjd   (in the repository), then: python code/examples/with_torchjd.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.autojac import backward, jac_to_grad

from mmpareto import mmpareto_factors

CLASSES, WIDTH = 4, 32


class MMPareto(Weighting):
    """(n,) weights of n gradients, from their inner products (n, n)."""

    def forward(self, gramian, /):
        factors = mmpareto_factors(gramian)
        shrunk = gramian.sum() / (factors @ gramian @ factors).clamp(min=1e-30)
        return 1.5 * shrunk.clamp(min=1).sqrt() * factors  # gamma lambda n alpha


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


def take_step(model, optimizer, batch) -> None:
    audio, visual, target = batch
    losses = {name: cross_entropy(x, target) for name, x in model(audio, visual).items()}
    optimizer.zero_grad()
    aggregator = GramianWeightedAggregator(MMPareto())
    for modality in ("audio", "visual"):
        parameters = list(getattr(model, modality).parameters())
        of_encoder = [losses["multimodal"], losses[modality]]
        backward(of_encoder, inputs=parameters, retain_graph=True)
        jac_to_grad(parameters, aggregator)
    others = [*model.fusion.parameters(), *model.heads.parameters()]
    sum(losses.values()).backward(inputs=others)
    optimizer.step()


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    train_set, test_set = make_set(512), make_set(512)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(epochs):
        for batch in DataLoader(train_set, batch_size=64, shuffle=True):
            take_step(model, optimizer, batch)
    audio, visual, target = test_set.tensors
    accuracy = (model(audio, visual)["multimodal"].argmax(1) == target).float().mean().item()
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
