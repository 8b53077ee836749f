"""The examples: each learns, and each trainer's step is that of a loop written from the formula."""

import copy
import importlib
import re
import runpy
from collections import defaultdict
from contextlib import nullcontext

import lightning
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from commands import CODE
from formula import by_formula
from lightning.fabric import Fabric
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainingArguments, default_data_collator

from mmpareto import LossGradients, mmpareto_backward

EXAMPLES = sorted((CODE / "examples").glob("*.py"))


@pytest.fixture
def load(monkeypatch):
    """(name) -> that example as a module. Accelerate has forgotten what other tests set."""
    monkeypatch.syspath_prepend(CODE / "examples")
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(1)
    return importlib.import_module


@pytest.mark.parametrize("example", EXAMPLES, ids=[file.stem for file in EXAMPLES])
def test_the_example_learns(example, load, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # by itself: without its neighbours on the path
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    (percent,) = re.findall(r"test accuracy ([0-9.]+) %\n", capsys.readouterr().out)
    assert float(percent) > 70  # chance: 25; 33 with_trainer
    assert len(example.read_text(encoding="utf-8").splitlines()) < 80  # docs/extending.md says so
    assert not list(tmp_path.iterdir())


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


def losses_of(model, batch):
    audio, visual, target = batch
    return {name: cross_entropy(x, target) for name, x in model(audio, visual).items()}


def train_by_formula(model, steps, groups=("audio", "visual"), losses_of=losses_of, clip=1.0):
    """A plain loop over `steps`, each a list of (batch, share of the step)."""
    optimizer, parameters = sgd(model), list(model.parameters())
    encoders = [list(getattr(model, group).parameters()) for group in groups]
    conflicts, norms = [], []
    for parts in steps:
        losses = defaultdict(int)
        for batch, share in parts:
            for name, loss in losses_of(model, batch).items():
                losses[name] += share * loss
        sum(losses.values()).backward(retain_graph=True)
        for p, gradient in by_formula(losses, encoders, parameters).items():
            if any(p is encoder[0] for encoder in encoders):
                conflicts.append(not torch.allclose(gradient, 1.5 * p.grad, rtol=1e-3))
            p.grad = gradient
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, clip).item())
        optimizer.step()
        optimizer.zero_grad()
    assert 0 < sum(conflicts) < len(conflicts) and min(norms) < clip < max(norms)  # every case


def random_set(samples):
    """Sound that tells the class, and pictures of noise. Both fade: the last are not clipped."""
    target, size = torch.arange(samples) % 4, torch.linspace(1.5, 0, samples)[:, None] ** 2
    audio, visual = torch.randn(samples, 20) + 3 * one_hot(target, 20), 3 * torch.randn(samples, 30)
    return TensorDataset(size * audio, size * visual, target)


def in_twos(batches, share_of_the_last):  # of five; Trainer counts the last in full, others half
    a, b, c, d, e = batches
    return [[(a, 0.5), (b, 0.5)], [(c, 0.5), (d, 0.5)], [(e, share_of_the_last)]]


def in_halves(batches):  # every batch is a step of two parts, each with its share
    halves = [list(zip(*(tensor.chunk(2) for tensor in batch))) for batch in batches]
    return [[(part, len(part[2]) / (len(a[2]) + len(b[2]))) for part in (a, b)] for a, b in halves]


def assert_same_weights(model, expected, tolerance=1e-6):
    for p, q in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


scaled_or_not = pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "scaled"])


@scaled_or_not
def test_the_plain_loop_takes_the_step_of_the_formula(load, scaled, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # no fp16: comparable
    example, batches = load("plain_loop"), list(DataLoader(random_set(35), batch_size=13))
    model = example.Model()
    expected, optimizer = copy.deepcopy(model), sgd(model)
    gradients = LossGradients({"audio": model.audio, "visual": model.visual})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024, enabled=scaled)
    for batch in batches:
        example.take_step(model, gradients, optimizer, scaler, batch)
    train_by_formula(expected, in_halves(batches))
    assert_same_weights(model, expected)


def fit_with_lightning(module, batches, scaler=None, max_epochs=2):
    options = dict(max_epochs=max_epochs, accumulate_grad_batches=2, gradient_clip_val=1.0)
    options |= dict(logger=False, enable_checkpointing=False, enable_model_summary=False)
    if scaler:
        options |= dict(plugins=MixedPrecision("16-mixed", "cpu", scaler))
    trainer = lightning.Trainer(accelerator="cpu", devices=1, enable_progress_bar=False, **options)
    trainer.fit(module, batches)


@scaled_or_not
def test_lightning_takes_the_step_of_the_formula(load, scaled, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # no fp16: comparable
    module, loader = load("with_lightning").MMPareto(), DataLoader(random_set(38), batch_size=8)
    expected = copy.deepcopy(module)
    fit_with_lightning(module, loader, torch.amp.GradScaler("cpu", 1024) if scaled else None)
    train_by_formula(expected, 2 * in_twos(loader, 0.5))
    assert_same_weights(module, expected)


def test_fabric_takes_the_step_of_the_formula(load):
    example, loader = load("with_fabric"), DataLoader(random_set(35), batch_size=13)
    fabric, model = Fabric(accelerator="cpu", devices=1), example.Model()
    expected = copy.deepcopy(model)
    example.train(fabric, *fabric.setup(model, sgd(model)), loader, epochs=2)
    train_by_formula(expected, 2 * in_halves(loader))
    assert_same_weights(model, expected)


def test_accelerate_takes_the_step_of_the_formula(load):
    example, loader = load("with_accelerate"), DataLoader(random_set(38), batch_size=8)
    accelerator, model = Accelerator(cpu=True, gradient_accumulation_steps=2), example.Model()
    expected = copy.deepcopy(model)
    example.train(accelerator, *accelerator.prepare(model, sgd(model), loader), epochs=2)
    train_by_formula(expected, 2 * in_twos(loader, 0.5))
    assert_same_weights(model, expected)


def test_hugging_faces_trainer_takes_the_step_of_the_formula(load, tmp_path, monkeypatch):
    example, seen = load("with_trainer"), []
    for dropout in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        monkeypatch.setitem(example.SIZE, dropout, 0.0)
    model = example.Model()
    expected = copy.deepcopy(model)

    def collate(samples):  # Trainer shuffles: these are the batches as it sees them
        seen.append(default_data_collator(samples))
        return seen[-1]

    settings = dict(num_train_epochs=2, lr_scheduler_type="constant", gradient_accumulation_steps=2)
    settings |= dict(per_device_train_batch_size=4, max_grad_norm=20, use_cpu=True)
    arguments = TrainingArguments(tmp_path, save_strategy="no", report_to="none", **settings)
    options = dict(train_dataset=example.make_set(19), optimizers=(sgd(model), None))
    example.MMParetoTrainer(model, arguments, collate, **options).train()
    steps = in_twos(seen[:5], 1) + in_twos(seen[5:], 1)
    train_by_formula(expected, steps, ("text", "visual"), lambda m, x: m(**x)["losses"], 20)
    assert_same_weights(model, expected)


def test_torchjd_with_mmparetos_rule_takes_the_step(load):
    """Its own backward passes and inner products; the gradients, and lambda for a whole encoder."""
    example, batches = load("with_torchjd"), list(DataLoader(random_set(48), batch_size=8))
    model = example.Model().double()
    expected, optimizers, conflicts = copy.deepcopy(model), [], 0
    for of_model in (model, expected):
        optimizers.append(sgd(of_model))
    for audio, visual, target in batches:
        batch = (audio.double(), visual.double(), target)
        example.take_step(model, optimizers[0], batch)
        optimizers[1].zero_grad()
        groups = {"audio": expected.audio, "visual": expected.visual}
        found = mmpareto_backward(losses_of(expected, batch), groups, rescale="encoder")
        conflicts += any(found[f"cosine/{group}"] <= 0 for group in groups)
        optimizers[1].step()
        assert_same_weights(model, expected, tolerance=1e-12)
    assert 0 < conflicts < len(batches)


@pytest.mark.parametrize("name", ["plain_loop", "with_lightning"])
def test_the_scaler_skips_a_step_whose_loss_is_not_finite(load, name):
    example, scaler, samples = load(name), torch.amp.GradScaler("cpu", 2.0**16), random_set(16)
    samples.tensors[1][0] = torch.inf
    model = example.MMPareto() if name == "with_lightning" else example.Model()
    before = copy.deepcopy(model)
    if name == "with_lightning":  # two batches, one step
        fit_with_lightning(model, DataLoader(samples, batch_size=8), scaler, max_epochs=1)
    else:
        gradients = LossGradients({"audio": model.audio, "visual": model.visual})
        example.take_step(model, gradients, sgd(model), scaler, samples.tensors)
    assert_same_weights(model, before, tolerance=0)
    assert scaler.get_scale() == 2**15
