"""Checkpoints as the published scripts save them, written here from their layout."""

import json
import pickle

import pytest
import torch
from commands import flags_for
from media import write_media
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

import evaluate
import import_published
import predict
from analysis.trained import load_run
from utils.errors import BadInput


class Block(nn.Module):
    """A basic block of He et al. 2016, by torchvision's names, which the published code has."""

    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outside))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class Net(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        for layer in range(1, 5):
            first = Block(widths[layer - 1], widths[layer], 1 if layer == 1 else 2)
            stage = nn.Sequential(first, Block(widths[layer], widths[layer], 1))
            setattr(self, f"layer{layer}", stage)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class AVClassifier(nn.Module):
    """Two ResNet-18 and three linear heads, after the description in PAPER: features averaged over
    space, and over frames."""

    def __init__(self, classes=6):
        super().__init__()
        self.audio_net, self.visual_net = Net(1), Net(3)
        self.head = nn.Linear(1024, classes)
        self.head_audio, self.head_video = nn.Linear(512, classes), nn.Linear(512, classes)

    def forward(self, audio, visual):
        batch, frames = visual.shape[:2]
        a = adaptive_avg_pool2d(self.audio_net(audio), 1).flatten(1)
        v = adaptive_avg_pool2d(self.visual_net(visual.flatten(0, 1)), 1).flatten(1)
        v = v.view(batch, frames, -1).mean(1)
        return self.head(torch.cat([a, v], 1)), self.head_audio(a), self.head_video(v)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(their model, its file as they save it)."""
    torch.manual_seed(0)
    model = AVClassifier().eval()
    for module in model.modules():  # as after a training
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    file = tmp_path_factory.mktemp("published") / NAME
    state = {"saved_epoch": 41, "acc": 0.7125, "optimizer": optimizer.state_dict()}
    torch.save(state | {"model": nn.DataParallel(model).state_dict()}, file)
    return model, file


NAME = "best_model_mmpareto_of_sgd_CREMAD_epoch50_batch18_lr0.003.pth"


def flags(demo_root, runs):
    given = flags_for(demo_root, runs)
    for flag in ("--batch_size", "--optimizer", "--learning_rate", "--encoder"):
        place = given.index(flag)
        del given[place : place + 2]
    return given


def test_a_published_checkpoint_is_evaluated_and_predicts_as_it_did(
    published, demo_root, tmp_path, capsys
):
    model, file = published
    import_published.main([str(file), *flags(demo_root, tmp_path), "--run_name", "theirs"])
    printed = capsys.readouterr().out
    assert "epoch 41, test accuracy 71.25 % as stored" in printed
    stored = json.loads((tmp_path / "theirs" / "options.json").read_text())["options"]
    asked = ("epochs", "batch_size", "learning_rate", "optimizer")
    assert [stored[flag] for flag in asked] == [50, 18, 0.003, "sgd"]
    _, _, loaders, ours = load_run(tmp_path / "theirs", "last", "cpu")
    inputs, _ = next(iter(loaders["test"]))
    with torch.no_grad():
        logits, _ = ours.eval()(inputs)
        theirs = model(inputs["audio"], inputs["visual"])
    for branch, expected in zip(("multimodal", "audio", "visual"), theirs):
        torch.testing.assert_close(logits[branch], expected)
    evaluate.main([str(tmp_path / "theirs")])
    evaluate.main([str(tmp_path / "theirs"), "--checkpoint", "best"])
    predict.main([str(tmp_path / "theirs"), str(write_media(tmp_path / "a.mp4", seconds=2))])
    assert "answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model": {"module.fc.weight": torch.zeros(2)}, "saved_epoch": 1, "acc": 0.5}, "KeyError"),
        ({"model": {"x": torch.zeros(2)}, "saved_epoch": 1, "acc": 0.5}, "ValueError"),
        ({"weights": {}}, "KeyError: 'model'"),
        ([1, 2], "TypeError"),
        (b"no file of torch", "UnpicklingError"),
        (pickle.dumps(print), "UnpicklingError"),
    ],
)
def test_another_file_is_refused(content, message, demo_root, tmp_path):
    file = tmp_path / "x.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(BadInput, match=f"x.pth: no checkpoint of the published code.*{message}"):
        import_published.main([str(file), *flags(demo_root, tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_for_other_classes_is_refused(published, demo_root, tmp_path):
    _, file = published
    content = torch.load(file, weights_only=True)
    for name in ("head", "head_audio", "head_video"):
        for kind in ("weight", "bias"):
            key = f"module.{name}.{kind}"
            content["model"][key] = content["model"][key].repeat(2, *[1] * (kind == "weight"))[:7]
    other = tmp_path / NAME
    torch.save(content, other)
    with pytest.raises(BadInput, match="does not fit MultimodalModel of the options"):
        import_published.main([str(other), *flags(demo_root, tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
