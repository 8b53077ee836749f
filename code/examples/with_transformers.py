"""The MMPareto step on Hugging Face encoders: a text and a picture model, their pooled outputs.

Both start from a configuration, so nothing is downloaded; `from_pretrained` stands in its place.
pip install . transformers   (in the repository), then: python code/examples/with_transformers.py
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from mmpareto import mmpareto_backward

CLASSES, WIDTH, WORDS = 3, 32, 40
SIZE = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = BertModel(BertConfig(vocab_size=WORDS, **SIZE))
        self.visual = ViTModel(ViTConfig(image_size=16, patch_size=4, num_channels=1, **SIZE))
        self.heads = nn.ModuleDict({m: nn.Linear(WIDTH, CLASSES) for m in ("text", "visual")})
        self.fusion = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, input_ids, pixel_values):
        features = {
            "text": self.text(input_ids=input_ids).last_hidden_state[:, 0],
            "visual": self.visual(pixel_values=pixel_values).last_hidden_state[:, 0],
        }
        fused = self.fusion(torch.cat(list(features.values()), dim=1))
        return {"multimodal": fused} | {m: self.heads[m](f) for m, f in features.items()}


def make_set(samples: int, generator: torch.Generator):
    """Sentences of ten words, one of which is the class's; pictures with a bright row for it."""
    target = torch.randint(CLASSES, (samples,), generator=generator)
    words = torch.randint(CLASSES, WORDS, (samples, 10), generator=generator)
    words[:, 3] = target
    pictures = torch.randn(samples, 1, 16, 16, generator=generator)
    pictures[torch.arange(samples), 0, 4 * target] += 2.0
    return words, pictures, target


def main(steps: int = 60) -> float:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    words, pictures, target = make_set(512, generator)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        rows = torch.randint(len(target), (32,), generator=generator)
        logits = model(words[rows], pictures[rows])
        losses = {name: cross_entropy(x, target[rows]) for name, x in logits.items()}
        groups = {"text": model.text.parameters(), "visual": model.visual.parameters()}

        optimizer.zero_grad()
        diagnostics = mmpareto_backward(losses, groups)
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: " + ", ".join(f"{k} {v:.2f}" for k, v in losses.items()))
    cosines = {name: round(diagnostics[f"cosine/{name}"].item(), 2) for name in groups}
    model.eval()
    with torch.no_grad():
        words, pictures, target = make_set(512, generator)
        right = model(words, pictures)["multimodal"].argmax(1) == target
    print(f"test accuracy {100 * right.float().mean():.1f} %; last cosines {cosines}")
    return right.float().mean().item()


if __name__ == "__main__":
    main()
