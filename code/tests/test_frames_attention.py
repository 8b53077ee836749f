"""Attention over frames: its formula, the average it starts with, stages, and the flag."""

import torch

import train
from models.encoders.cnn import Encoder
from models.frames import AttentionOverFrames
from models.multimodal import MultimodalModel
from utils import run_folder


def pooled():
    torch.manual_seed(0)
    return AttentionOverFrames(Encoder((3, 2, 32, 32))).eval()


def test_it_starts_with_the_average():
    model, clips = pooled(), torch.randn(3, 4, 2, 32, 32)
    torch.testing.assert_close(model(clips), model.encoder(clips), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(clips[:, 0]), model.encoder(clips[:, 0]))  # one frame


def test_its_weights_follow_the_formula():
    model, clips = pooled(), torch.randn(2, 3, 2, 32, 32)
    torch.nn.init.normal_(model.score[2].weight)
    for clip, feature in zip(clips, model(clips)):
        frames = model.encoder(clip)
        v, c, w = model.score[0].weight, model.score[0].bias, model.score[2].weight[0]
        scores = torch.stack([w @ torch.tanh(v @ f + c) for f in frames])
        expected = sum(a * f for a, f in zip(scores.softmax(0), frames))
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


def test_in_stages_it_is_the_same():
    model, clips = pooled(), torch.randn(2, 3, 2, 32, 32)
    torch.nn.init.normal_(model.score[2].weight)
    x = model.begin(clips)
    for stage in model.stages:
        x = stage(x)
    torch.testing.assert_close(model.pool(x, 2), model(clips), rtol=1e-4, atol=1e-5)
    shapes = {"audio": (1, 32, 32), "visual": (3, 3, 32, 32)}
    gated = MultimodalModel(shapes, 3, "cnn", "mmtm", dict(frame_pooling="attention"))
    assert isinstance(gated.encoders["visual"], AttentionOverFrames)
    assert not isinstance(gated.encoders["audio"], AttentionOverFrames)
    inputs = {"audio": torch.randn(2, 1, 32, 32), "visual": torch.randn(2, 3, 3, 32, 32)}
    assert gated(inputs)[0]["multimodal"].shape == (2, 3)


def test_only_clips_get_it(demo_root, tmp_path):
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    argv += ["--image_size", "32", "--encoder", "cnn", "--epochs", "1", "--num_workers", "0"]
    train.main([*argv, "--frame_pooling", "attention", "--run_name", "x", "--no-tensorboard"])
    weights = run_folder.load(tmp_path / "x" / "last.pt")["model"]
    assert {k.split(".")[1] for k in weights if ".score." in k} == {"visual"}
    moved = weights["encoders.visual.score.2.weight"]
    assert moved.any() and moved.isfinite().all()  # it is trained
