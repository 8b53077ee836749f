"""Encoders: pretrained weights from files the test writes, stages, attention over frames."""

import pytest
import torch
from torch.nn import functional
from torchvision import models

import train
from models.encoders import Encoder
from models.encoders.cnn import Encoder as SmallEncoder
from models.frames import AttentionOverFrames
from models.multimodal import MultimodalModel
from utils import registry, run_folder
from utils.errors import BadInput

PRETRAINED = {
    "resnet18": (models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1, "conv1"),
    "resnet34": (models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1, "conv1"),
    "resnet50": (models.resnet50, models.ResNet50_Weights.IMAGENET1K_V1, "conv1"),
    "mobilenet_v3": (
        models.mobilenet_v3_small,
        models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
        "features.0.0",
    ),
    "vit_b16": (models.vit_b_16, models.ViT_B_16_Weights.IMAGENET1K_V1, "conv_proj"),
}


def encoder_class(name):
    return registry.load_class("models/encoders", name, "--encoder")


ENCODERS = registry.names("models/encoders")


@pytest.fixture
def weights_folder(tmp_path, monkeypatch):
    """Where torch looks for weights: empty, and nothing behind it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_net(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_net)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "name, channels",
    [("resnet18", 1), ("resnet18", 3)]
    + [(n, 2) for n in ENCODERS if "pretrained" in registry.defaults(encoder_class(n))],
)
def test_pretrained_weights_are_those_of_the_file(name, channels, weights_folder):
    build, weights, first = PRETRAINED[name]
    torch.manual_seed(1)
    original = build(weights=None).eval()
    torch.save(original.state_dict(), weights_folder / weights.url.rsplit("/")[-1])
    encoder = encoder_class(name)((channels, 64, 64), pretrained=True).eval()
    loaded, stored = encoder.trunk.state_dict(), original.state_dict()
    if channels != 3:  # the mean over colours for every channel
        mean = stored[f"{first}.weight"].mean(1, keepdim=True) * 3 / channels
        stored[f"{first}.weight"] = mean.expand(-1, channels, -1, -1)
    for key, value in loaded.items():
        torch.testing.assert_close(value, stored[key], rtol=0, atol=0)
    # a grey picture, the same in every channel, gives what the original gives for it
    grey = torch.randn(2, 1, 224, 224)
    with torch.no_grad():
        features = encoder(grey.expand(-1, channels, -1, -1))
        for head in ("fc", "classifier", "heads"):
            if hasattr(original, head):
                setattr(original, head, torch.nn.Identity())
        expected = original(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


def test_the_first_layers_of_a_vit_are_those_of_the_file(weights_folder):
    """The paper's MBT has 8 layers, and no public ViT has."""
    torch.manual_seed(1)
    original = models.vit_b_16(weights=None).eval()
    url = models.ViT_B_16_Weights.IMAGENET1K_V1.url
    torch.save(original.state_dict(), weights_folder / url.rsplit("/")[-1])
    build = encoder_class("vit_b16")
    encoder = build((3, 224, 224), pretrained=True, vit_b16_layers=8).eval()
    assert len(encoder.stages) == 8
    original.heads, original.encoder.layers = torch.nn.Identity(), original.encoder.layers[:8]
    pictures = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pictures), original(pictures), rtol=1e-3, atol=1e-4)
    for layers in (0, 13):
        with pytest.raises(ValueError, match=f"--vit_b16_layers {layers}: must be 1 to 12"):
            build((3, 224, 224), vit_b16_layers=layers)


def test_without_the_file_the_error_says_where_to_put_it(weights_folder):
    with pytest.raises(BadInput, match=f"not in the cache .*{weights_folder}/resnet18-f37072fd"):
        encoder_class("resnet18")((3, 64, 64), pretrained=True)


@pytest.mark.parametrize("name", [n for n in ENCODERS if encoder_class(n).pool is not Encoder.pool])
def test_the_stages_are_the_encoder(name):
    torch.manual_seed(0)
    encoder = encoder_class(name)((3, 2, 32, 48)).eval()
    x = torch.randn(2, 3, 2, 32, 48)
    with torch.no_grad():
        state = encoder.begin(x)
        for number, stage in enumerate(encoder.stages):
            state = stage(state)
            if encoder.stage_widths:
                assert state.shape[:2] == (6, encoder.stage_widths[number])
            else:
                assert state.shape[::2] == (6, encoder.token_width)
        torch.testing.assert_close(encoder.pool(state, 2), encoder(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels, parameters", [(1, 98786), (3, 100390)])
def test_conv4_is_the_network_that_the_paper_names(channels, parameters):
    """PMR's, written down from its sizes: strides, paddings and the 7 x 7 places at 28 pixels."""
    encoder = encoder_class("conv4")((channels, 28, 28))
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    first, *others = [stage[0] for stage in encoder.stages]
    x = torch.randn(16, channels, 28, 28)
    y = functional.batch_norm(x, None, None, training=True)
    y = functional.conv2d(y, first.weight, first.bias, padding=2).relu()
    y = functional.max_pool2d(y, 3, stride=2, padding=1)
    for layer, stride in zip(others, (1, 2, 1)):
        y = functional.conv2d(y, layer.weight, layer.bias, stride=stride, padding=1).relu()
    assert y.shape == (16, 64, 7, 7)
    y = functional.linear(functional.avg_pool2d(y, 7).flatten(1), encoder.project.weight)
    torch.testing.assert_close(encoder(x), y)
    for layer, deviation in zip((first, *others), (2 / 800, 2 / 288, 2 / 576, 2 / 576)):
        assert layer.weight.std().item() == pytest.approx(deviation**0.5, rel=0.06)
    assert encoder.project.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.03)
    assert (encoder.project.bias == 0).all()


@pytest.mark.parametrize(
    "name, shape, flags, feature_dim, parameters",
    [
        ("cnn", (3, 28, 28), {}, 256, 388896),
        ("cnn", (3, 28, 28), {"cnn_width": 4}, 32, 9 * 4 * (3 + 8 + 32 + 128) + 2 * 60),
        ("conv1d", (1, 16, 6), {}, 256, 208064),
        ("conv1d", (1, 16, 6), {"conv1d_width": 8}, 32, 5 * (48 + 128 + 512) + 3 * 56),
        ("mlp", (7,), {}, 256, 67854),
        ("mlp", (7,), {"mlp_width": 5, "mlp_depth": 1}, 5, 14 + 40),
        ("mlp", (7,), {"mlp_width": 5, "mlp_depth": 3}, 5, 14 + 40 + 30 + 30),
    ],
)
def test_flags_make_an_encoder_wider_or_deeper(name, shape, flags, feature_dim, parameters):
    encoder = encoder_class(name)(shape, **flags)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder(torch.randn(2, *shape)).shape == (2, feature_dim) == (2, encoder.feature_dim)


@pytest.mark.parametrize(
    "chosen, flag",
    [("cnn", "cnn_width"), ("conv1d", "conv1d_width"), ("mlp", "mlp_width")]
    + [("mlp", "mlp_depth")],
)
def test_a_width_or_depth_of_nothing_is_refused(chosen, flag):
    with pytest.raises(BadInput, match=f"--{flag} 0: must be at least 1"):
        MultimodalModel({"a": (1, 28, 28)}, 4, chosen, flags={flag: 0})


def test_positions_are_interpolated_to_the_grid_of_the_input():
    encoder = encoder_class("vit_tiny")((1, 28, 28))
    assert encoder.positions(7, 7) is encoder.trunk.encoder.pos_embedding
    with torch.no_grad():
        encoder.trunk.encoder.pos_embedding[:, 1:] = 2.0
    assert encoder.positions(3, 11).shape == (1, 34, 192)
    torch.testing.assert_close(encoder.positions(3, 11)[:, 1:], torch.full((1, 33, 192), 2.0))


@pytest.mark.parametrize(("patch", "tokens"), [(4, 12 * 8), (8, 6 * 4)])
def test_vit_tiny_cuts_its_input_into_patches(patch, tokens):
    encoder = encoder_class("vit_tiny")((1, 48, 32), vit_tiny_patch=patch)
    assert encoder.begin(torch.randn(2, 1, 48, 32)).shape == (2, 1 + tokens, 192)
    assert encoder(torch.randn(2, 1, 28, 28)).shape == (2, 192)


def test_each_modality_may_have_an_encoder_of_its_own():
    shapes = {"audio": (1, 48, 32), "visual": (2, 3, 32, 32)}
    model = MultimodalModel(shapes, 4, "visual=mobilenet_v3,audio=cnn")
    inputs = {"audio": torch.randn(2, 1, 48, 32), "visual": torch.randn(2, 2, 3, 32, 32)}
    logits, features = model(inputs)
    assert {m: f.shape[1] for m, f in features.items()} == {"audio": 256, "visual": 576}
    assert logits["multimodal"].shape == (2, 4)


def attention():
    torch.manual_seed(0)
    return AttentionOverFrames(SmallEncoder((3, 2, 32, 32))).eval()


def test_attention_over_frames_starts_with_the_average():
    model, clips = attention(), torch.randn(3, 4, 2, 32, 32)
    torch.testing.assert_close(model(clips), model.encoder(clips), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(clips[:, 0]), model.encoder(clips[:, 0]))  # one frame


def test_attention_over_frames_follows_its_formula():
    model, clips = attention(), torch.randn(2, 3, 2, 32, 32)
    torch.nn.init.normal_(model.score[2].weight)
    for clip, feature in zip(clips, model(clips)):
        frames = model.encoder(clip)
        v, c, w = model.score[0].weight, model.score[0].bias, model.score[2].weight[0]
        scores = torch.stack([w @ torch.tanh(v @ f + c) for f in frames])
        expected = sum(a * f for a, f in zip(scores.softmax(0), frames))
        torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-5)


def test_attention_after_the_stages_gives_what_the_forward_pass_gives():
    model, clips = attention(), torch.randn(2, 3, 2, 32, 32)
    torch.nn.init.normal_(model.score[2].weight)
    x = model.begin(clips)
    for stage in model.stages:
        x = stage(x)
    torch.testing.assert_close(model.pool(x, 2), model(clips), rtol=1e-4, atol=1e-5)


def test_of_a_run_with_attention_the_clips_have_it_and_it_is_trained(demo_root, tmp_path):
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    argv += ["--image_size", "32", "--encoder", "cnn", "--epochs", "1", "--num_workers", "0"]
    train.main([*argv, "--frame_pooling", "attention", "--run_name", "x", "--no-tensorboard"])
    weights = run_folder.load(tmp_path / "x" / "last.pt")["model"]
    assert {k.split(".")[1] for k in weights if ".score." in k} == {"visual"}
    moved = weights["encoders.visual.score.2.weight"]  # from 0
    assert moved.any() and moved.isfinite().all()


SHAPES = {1: (7,), 2: (9, 5), 3: (2, 32, 40), 4: (3, 2, 32, 40)}  # an item of each kind


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dims", SHAPES)
def test_an_encoder_takes_the_items_it_says_or_names_those_that_do(name, dims):
    shapes = {"a": SHAPES[dims], "b": (3, 32, 40)}
    chosen = f"a={name},b=cnn"
    if dims in encoder_class(name).takes:
        model = MultimodalModel(shapes, 4, chosen).eval()
        items = {m: torch.randn(2, *shape) for m, shape in shapes.items()}
        _, features = model(items)
        assert features["a"].shape == (2, model.encoders["a"].feature_dim)
        assert not torch.equal(*features["a"])
    else:
        fitting = [n for n in ENCODERS if dims in encoder_class(n).takes]
        with pytest.raises(
            BadInput, match=f"--encoder {name}: takes no items of shape .*"
        ) as error:
            MultimodalModel(shapes, 4, chosen)
        assert str(error.value).endswith(f"; choose {', '.join(fitting)}") and fitting


SEQUENCES = [name for name in ENCODERS if 2 in encoder_class(name).takes and name != "mlp"]


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_follows_the_end_of_a_sequence_does_not_matter(name):
    """A sequence padded to 9 and to 16 times has one feature, and so has its array (1, T, D)."""
    torch.manual_seed(0)
    encoder = encoder_class(name)((16, 4)).eval()
    values = torch.randn(2, 8, 3)
    padded = []
    for times in (9, 16):
        item = torch.zeros(2, times, 4)
        item[:, :8, :3], item[:, :8, 3] = values, 1
        padded.append(encoder(item))
    torch.testing.assert_close(*padded)
    torch.testing.assert_close(padded[0], encoder(values[:, None]))
    assert not torch.allclose(padded[0], encoder(values[:, None, :7]), atol=1e-3)


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_time_axis_of_an_array_is_the_one_that_is_named(name):
    values = torch.randn(2, 1, 8, 3)
    torch.manual_seed(0)
    first = encoder_class(name)((1, 8, 3)).eval()
    torch.manual_seed(0)
    last = encoder_class(name)((1, 3, 8), time_axis="last").eval()
    torch.testing.assert_close(first(values), last(values.transpose(2, 3)))


class Made(Encoder):
    """An encoder of somebody's own: right, or wrong in the way that `kind` says."""

    takes = (1,)

    def __init__(self, kind):
        super().__init__()
        self.kind, self.feature_dim, self.layer = kind, 6, None
        if kind == "lazy":
            self.layer = torch.nn.LazyLinear(6)
        elif kind != "late":
            self.layer = torch.nn.Linear({"raises": 4}.get(kind, 5), {"width": 7}.get(kind, 6))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.layer = self.layer or torch.nn.Linear(5, 6)
        self.count += 1
        return self.layer(x)


def with_encoder(kind):
    model = MultimodalModel({"a": (5,), "b": (3, 32, 40)}, 4, "a=mlp,b=cnn", flags={"mlp_width": 6})
    model.encoders["a"] = Made(kind)
    return model, {"a": torch.randn(2, 5), "b": torch.randn(2, 3, 32, 40)}


@pytest.mark.parametrize(
    "kind, message",
    [
        ("late", "encoders.a.layer.bias: made in a forward pass; .*nn.LazyLinear"),
        ("raises", r"a, items of shape \(5,\): mat1 and mat2 .* \(tests/test_encoders.py line \d+"),
        ("width", r"a, items of shape \(5,\): gives \(2, 7\), not \(B, D\) = \(2, 6\)"),
    ],
)
def test_an_encoder_that_cannot_be_trained_is_named(kind, message):
    model, inputs = with_encoder(kind)
    with pytest.raises(BadInput, match=message), torch.no_grad():
        model.try_forward(inputs)


def test_a_trial_gives_lazy_layers_their_parameters_and_changes_nothing_else():
    model, inputs = with_encoder("right")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.try_forward(inputs)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model, inputs = with_encoder("lazy")
    with torch.no_grad():
        model.try_forward(inputs)
    assert [p.shape for p in model.encoders["a"].parameters()] == [(6, 5), (6,)]


def test_an_input_too_small_for_an_encoder_leaves_no_run_folder(demo_root, tmp_path, monkeypatch):
    def too_small(self, x):
        return torch.nn.functional.conv2d(x, torch.ones(1, x.shape[1], 99, 99))

    monkeypatch.setattr(SmallEncoder, "begin", too_small)
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    argv += ["--modalities", "audio", "--encoder", "cnn", "--num_workers", "0"]
    with pytest.raises(BadInput, match="--encoder cnn: audio, items of shape .*"):
        train.main([*argv, "--run_name", "x"])
    assert not (tmp_path / "x").exists()
