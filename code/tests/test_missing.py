"""--missing keep: samples that lack a modality, in the loader, the model, losses and metrics."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import evaluate
import train
from dataset.folder import Dataset
from mmpareto import mmpareto_backward
from models.multimodal import MultimodalModel
from utils import options
from utils.errors import BadInput
from utils.loading import build_loaders
from utils.metrics import branch_losses, predict, score
from utils.record import read_jsonl
from utils.samples import PRESENT

LACKING = {"left": {"s1", "s4", "t0"}, "right": {"s2"}}


@pytest.fixture
def root(tmp_path):
    """Pictures in two folders, dark and bright, of which some are not there."""
    rng, root = np.random.default_rng(0), tmp_path / "set"
    for split, prefix, count in (("train", "s", 12), ("test", "t", 6)):
        lines = []
        for i in range(count):
            name = f"{prefix}{i}"
            for modality, lacking in LACKING.items():
                (root / modality).mkdir(parents=True, exist_ok=True)
                picture = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8) + 120 * (i % 2)
                if name not in lacking:
                    cv2.imwrite(str(root / modality / f"{name}.png"), picture)
            lines.append(f"{name},{('dark', 'bright')[i % 2]}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def flags(root, tmp_path, *argv):
    known = ["--dataset", "folder", "--data_root", str(root), "--ckpt_path", str(tmp_path / "runs")]
    known += ["--image_size", "32", "--encoder", "cnn", "--batch_size", "6", "--epochs", "2"]
    return [*known, "--num_workers", "0", "--no-tensorboard", *argv]


def test_such_samples_are_refused_or_kept(root, tmp_path, capsys):
    with pytest.raises(BadInput, match="left: 2 of 12 ids of train.csv have no file, such as 's1'"):
        train.main(flags(root, tmp_path))
    train.main(flags(root, tmp_path, "--missing", "keep", "--run_name", "x"))
    told = capsys.readouterr().out
    assert "folder train: 12 of 12 samples found" in told
    assert "WARNING: 2 without left: s1, s4" in told and "WARNING: 1 without right: s2" in told
    records = read_jsonl(tmp_path / "runs" / "x" / "metrics.jsonl")
    assert all(np.isfinite(v) for record in records for v in record.values())
    evaluate.main([str(tmp_path / "runs" / "x"), "--probe", "linear,missing,calibration"])
    stored = json.loads((tmp_path / "runs" / "x" / "options.json").read_text())
    assert stored["data"]["samples"]["train"] == 12


def test_a_batch_says_what_its_samples_have(root, tmp_path):
    opt = options.parse(flags(root, tmp_path, "--missing", "keep", "--cache", "off"))
    loaders = build_loaders(Dataset(root), opt)
    rows = [row for inputs, _ in loaders["train_plain"] for row in inputs[PRESENT].tolist()]
    assert rows == [[f"s{i}" not in LACKING[m] for m in ("left", "right")] for i in range(12)]
    blank = next(iter(loaders["train_plain"]))[0]["left"][1]
    assert blank.unique().numel() == 1  # the reader's zero


def test_the_encoder_of_a_modality_does_not_see_samples_without_it():
    torch.manual_seed(0)
    model = MultimodalModel({"left": 1, "right": 1}, 3, "cnn")
    x = {m: torch.randn(5, 1, 32, 32) for m in ("left", "right")}
    present = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 0], [1, 1]]).bool()
    logits, features = model(x | {PRESENT: present})
    for i, m in enumerate(x):
        rows = present[:, i]
        torch.testing.assert_close(features[m][rows], model.encoders[m](x[m][rows]))
        assert not features[m][~rows].any()
    other = {
        m: torch.where(present[:, i, None, None, None], v, 9.0)
        for i, (m, v) in enumerate(x.items())
    }
    again, _ = model(other | {PRESENT: present})
    for branch in logits:  # what stands in for an absent modality is nothing
        torch.testing.assert_close(again[branch], logits[branch])


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_or_none_of_a_batch_has_the_modality(count):
    model = MultimodalModel({"left": 1, "right": 1}, 3, "cnn")
    x = {m: torch.randn(4, 1, 8, 8) for m in ("left", "right")}  # one pixel at the end
    present = torch.ones(4, 2).bool()
    present[count:, 0] = False
    logits, _ = model(x | {PRESENT: present})
    losses = branch_losses(logits, torch.tensor([0, 1, 2, 0]), present)
    mmpareto_backward(losses, model.groups(losses))
    reached = [p.grad is not None for p in model.encoders["left"].parameters()]
    assert all(reached) if count else not any(reached)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_losses_are_of_the_samples_that_have_the_modality():
    torch.manual_seed(0)
    logits = {b: torch.randn(4, 3) for b in ("multimodal", "left", "right")}
    target = torch.tensor([0, 1, 2, 1])
    present = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 1]]).bool()
    losses = branch_losses(logits, target, present)
    torch.testing.assert_close(losses["multimodal"], cross_entropy(logits["multimodal"], target))
    for i, m in enumerate(("left", "right")):
        own = cross_entropy(logits[m][present[:, i]], target[present[:, i]], reduction="sum")
        torch.testing.assert_close(losses[m], own / 4)
    halves = [
        branch_losses({b: x[s] for b, x in logits.items()}, target[s], present[s])
        for s in (slice(0, 1), slice(1, 4))
    ]
    for branch, loss in losses.items():  # parts add up
        torch.testing.assert_close(halves[0][branch] / 4 + 3 * halves[1][branch] / 4, loss)
    whole = branch_losses(logits, target, torch.ones(4, 2).bool())
    for branch, loss in branch_losses(logits, target).items():
        torch.testing.assert_close(whole[branch], loss)


def test_metrics_are_of_the_samples_that_have_the_modality():
    model = MultimodalModel({"left": 1, "right": 1}, 2, "cnn")
    present = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 1]]).bool()
    x = {m: torch.randn(4, 1, 32, 32) for m in ("left", "right")}
    target = torch.tensor([0, 1, 0, 1])
    logits, _, _ = predict(model, [(x | {PRESENT: present}, target)])
    assert logits["left"].isnan().any(1).tolist() == [False, True, False, False]
    assert not logits["multimodal"].isnan().any() and not logits["right"].isnan().any()
    rows = present[:, 0]
    expected = (logits["left"][rows].argmax(1) == target[rows]).double().mean().item()
    assert score(logits, target)["accuracy/left"] == expected


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--method", "ogm"], "--missing keep: not with --method ogm"),
        (["--method", "pmr"], "--missing keep: not with --method pmr"),
        (["--fusion", "mmtm"], "--missing keep: not with --fusion mmtm"),
    ],
)
def test_what_needs_every_modality_says_so(argv, message, root, tmp_path):
    with pytest.raises(BadInput, match=message):
        options.parse(flags(root, tmp_path, "--missing", "keep", *argv))


def test_where_nothing_is_missing_keeping_changes_nothing(root, tmp_path):
    for modality, lacking in LACKING.items():
        for name in lacking:
            (root / modality / f"{name}.png").write_bytes((root / modality / "s0.png").read_bytes())
    found = []
    for missing in ("drop", "keep"):
        train.main(flags(root, tmp_path, "--missing", missing, "--run_name", missing))
        found.append(read_jsonl(tmp_path / "runs" / missing / "steps.jsonl"))
    for dropped, kept in zip(*found):  # to rounding: the rows are copied
        assert kept == pytest.approx(dropped, rel=1e-3, abs=1e-4)


def test_a_modality_that_no_sample_has_is_refused(root, tmp_path):
    for name in LACKING["left"] | {f"t{i}" for i in range(6)}:
        (root / "left" / f"{name}.png").unlink(missing_ok=True)
    with pytest.raises(BadInput, match="no test sample"):
        train.main(flags(root, tmp_path, "--missing", "keep"))
