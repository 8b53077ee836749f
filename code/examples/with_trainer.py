"""The MMPareto step in Hugging Face's Trainer, on a text and a picture model of transformers.

`training_step` gathers a gradient per loss and integrates them where Trainer says that a batch is
complete (`sync_gradients`) and before it clips, so that `gradient_accumulation_steps` and
`max_grad_norm` work as always. The encoders start from a configuration: nothing is downloaded.
pip install . transformers accelerate  (in the repository); python code/examples/with_trainer.py
"""

import tempfile

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, Trainer, TrainingArguments, ViTConfig, ViTModel

from mmpareto import LossGradients

CLASSES, WIDTH, WORDS = 3, 32, 40
SIZE = dict(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.text = BertModel(BertConfig(vocab_size=WORDS, **SIZE))
        self.visual = ViTModel(ViTConfig(image_size=16, patch_size=4, num_channels=1, **SIZE))
        self.heads = nn.ModuleDict({m: nn.Linear(WIDTH, CLASSES) for m in ("text", "visual")})
        self.fusion = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, input_ids, pixel_values, labels):
        outputs = {"text": self.text(input_ids), "visual": self.visual(pixel_values)}
        features = {m: output.last_hidden_state[:, 0] for m, output in outputs.items()}
        fused = self.fusion(torch.cat(list(features.values()), dim=1))
        logits = {"multimodal": fused} | {m: self.heads[m](f) for m, f in features.items()}
        losses = {name: cross_entropy(x, labels) for name, x in logits.items()}
        return {"loss": sum(losses.values()), "losses": losses, "logits": fused}


class MMParetoTrainer(Trainer):
    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.gradients = LossGradients({"text": model.text, "visual": model.visual})

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        with self.compute_loss_context_manager():
            losses = model(**self._prepare_inputs(inputs))["losses"]
        losses = {k: x / self.current_gradient_accumulation_steps for k, x in losses.items()}
        self.gradients.add(losses, backward=self.accelerator.backward)
        if self.accelerator.sync_gradients:
            self.gradients.integrate()
        return sum(losses.values()).detach()


def make_set(samples: int) -> list[dict]:
    """Sentences of ten words, one of which is the class's; images with a bright row for it."""
    target = torch.randint(CLASSES, (samples,))
    words = torch.randint(CLASSES, WORDS, (samples, 10))
    words[:, 3] = target
    images = torch.randn(samples, 1, 16, 16)
    images[torch.arange(samples), 0, 4 * target] += 2.0
    return [dict(input_ids=w, pixel_values=i, labels=t) for w, i, t in zip(words, images, target)]


def main(steps: int = 60) -> float:
    torch.manual_seed(0)
    settings = dict(per_device_train_batch_size=16, gradient_accumulation_steps=2, use_cpu=True)
    settings |= dict(max_steps=steps, learning_rate=2e-3, save_strategy="no", disable_tqdm=True)
    arguments = TrainingArguments(tempfile.gettempdir(), report_to="none", **settings)
    trainer = MMParetoTrainer(Model(), arguments, train_dataset=make_set(512))
    trainer.train()
    logits, target, _ = trainer.predict(make_set(512), ignore_keys=["losses"])
    accuracy = (logits.argmax(1) == target).mean().item()
    print(f"test accuracy {100 * accuracy:.1f} %")
    return accuracy


if __name__ == "__main__":
    main()
