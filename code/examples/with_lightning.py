"""The MMPareto step in Lightning: manual optimisation, since it replaces the backward pass.

pip install . lightning   (in the repository), then: python code/examples/with_lightning.py
"""

import lightning
import torch
from plain_loop import Model, make_set
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from mmpareto import mmpareto_backward


class MMPareto(lightning.LightningModule):
    def __init__(self, gamma: float = 1.5):
        super().__init__()
        self.automatic_optimization = False  # Lightning would call backward() on one loss
        self.model, self.gamma = Model(), gamma

    def training_step(self, batch, batch_index):
        audio, visual, target = batch
        losses = {k: cross_entropy(x, target) for k, x in self.model(audio, visual).items()}
        groups = {"audio": self.model.audio.parameters(), "visual": self.model.visual.parameters()}

        optimizer = self.optimizers()
        optimizer.zero_grad()
        diagnostics = mmpareto_backward(losses, groups, self.gamma)
        optimizer.step()
        self.log_dict({**losses, "cosine_audio": diagnostics["cosine/audio"]})

    def test_step(self, batch, batch_index):
        audio, visual, target = batch
        hits = self.model(audio, visual)["multimodal"].argmax(1) == target
        self.log("accuracy", hits.float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def main(epochs: int = 5) -> float:
    lightning.seed_everything(0, verbose=False)
    generator = torch.Generator().manual_seed(1)
    train, test = (TensorDataset(*make_set(512, generator)) for _ in range(2))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = MMPareto()
    trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True))
    return trainer.test(module, DataLoader(test, batch_size=64))[0]["accuracy"]


if __name__ == "__main__":
    main()
