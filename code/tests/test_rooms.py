"""Contracts: every file of every room, so a new file is tested by being there."""

import pytest
import torch
from commands import flags_for, run
from steps import (
    build_method,
    build_model,
    built_reader,
    encoder_for,
    forward,
    shapes_for,
    start,
    take_step,
)

import dataset
import methods
from dataset._loader import collate
from dataset._samples import Sample
from dataset.modalities import Modality
from mmpareto import mmpareto_backward
from models.encoders import Encoder
from models.fusion import LateFusion
from models.multimodal import MultimodalModel
from models.reach import objectives_of
from training import options
from utils import registry
from utils.errors import BadInput
from utils.run_folder import read_jsonl

BASES = {
    "methods": methods.Method,
    "models/encoders": Encoder,
    "models/fusion": LateFusion,
    "dataset": dataset.Dataset,
    "dataset/modalities": Modality,
}
SETS_OF_MODALITIES = [("audio",), ("audio", "visual"), ("audio", "visual", "flow")]


def every(room):
    return pytest.mark.parametrize("name", registry.names(room))


def load(room, name):
    return registry.load_class(room, name, "--flag")


@pytest.mark.parametrize("room", registry.CLASSES)
def test_every_file_exports_its_class_and_says_what_it_is(room):
    for name in registry.names(room):
        assert load(room, name) and registry.load(room, name, "--flag").__doc__, name


@pytest.mark.parametrize("room", registry.CLASSES)
def test_a_public_name_that_is_no_hook_is_refused_when_the_file_is_loaded(room):
    name = registry.CLASSES[room]
    module = {"__module__": f"{room}/mistaken".replace("/", ".")}
    message = rf"{room}/mistaken.py: {name}.finnish is no hook; choose from add_options, \w+"
    with pytest.raises(BadInput, match=message):
        type(name, (BASES[room],), module | {"finnish": lambda self: None})
    assert type(name, (BASES[room],), module | {"_finnish": lambda self: None})  # a helper


def test_a_misspelt_need_is_refused_when_the_file_is_loaded():
    contents = {"__module__": "methods.mistaken", "needs": {"whole_bach"}}
    with pytest.raises(BadInput, match="methods.mistaken: needs whole_bach; choose from whole_bat"):
        type("Method", (methods.Method,), contents)


def test_a_misspelt_flag_is_answered_with_the_one_that_was_meant():
    with pytest.raises(BadInput, match="--gama: no flag of this run; did you mean --gamma"):
        options.parse(["--dataset", "demo", "--gama", "2"])


@every("methods")
def test_methods_fill_gradients_and_report(name):
    for modalities in SETS_OF_MODALITIES:
        model, method = build_model(name, modalities), build_method(name)
        start(method, model)
        diagnostics = take_step(method, model, forward(model))
        for parameters in model.encoder_parameters().values():
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)
            assert any((p.grad != 0).any() for p in parameters)
        assert all(isinstance(v, torch.Tensor) and v.ndim == 0 for v in diagnostics.values())
        assert all(torch.isfinite(v) and not v.requires_grad for v in diagnostics.values())
        method.load_state_dict(method.state_dict())


@every("methods")
def test_a_method_carries_the_weights_of_unimodal_losses_or_says_that_it_does_not(name):
    """It undoes them where the gradient of the encoders keeps its direction under a weight of 3."""
    if name in ("umt", "dgl") or not load("methods", name).trains_unimodal_heads:
        return  # none to weigh; of DGL they are all that encoders get, a weight is its alpha
    gradients = []
    for weight in (1.0, 3.0):
        model, method = build_model(name), build_method(name)
        start(method, model)
        batch = forward(model)
        batch.losses = {b: x if b == "multimodal" else weight * x for b, x in batch.losses.items()}
        take_step(method, model, batch)
        encoders = model.encoder_parameters().values()
        gradients.append(torch.cat([p.grad.flatten() for ps in encoders for p in ps]))
    same_direction = torch.cosine_similarity(*gradients, dim=0) > 0.999
    assert same_direction == load("methods", name).undoes_weights


@every("methods")
def test_a_loss_scale_comes_through(name):
    """As fp16 applies it, and as the share of a part of a batch."""
    gradients = {}
    for scale in (1.0, 1024.0):
        model, method = build_model(name).double(), build_method(name)
        start(method, model)
        batch = forward(model)
        batch.losses = {branch: scale * loss for branch, loss in batch.losses.items()}
        batch.scale = torch.tensor(scale)
        take_step(method, model, batch)
        gradients[scale] = {
            n: p.grad / scale for n, p in model.named_parameters() if p.grad is not None
        }
    assert gradients[1.0].keys() == gradients[1024.0].keys()
    for parameter, gradient in gradients[1.0].items():
        torch.testing.assert_close(gradients[1024.0][parameter], gradient)


@every("methods")
def test_a_step_in_mixed_precision_is_near_the_one_in_float32(name):
    gradients = {}
    for dtype in (None, torch.bfloat16):
        model, method = build_model(name), build_method(name)
        start(method, model)
        model.eval()  # over four samples the normalisation would multiply every rounding
        take_step(method, model, forward(model, seed=1, autocast=dtype))
        gradients[dtype] = {
            modality: torch.cat([p.grad.flatten() for p in parameters])
            for modality, parameters in model.encoder_parameters().items()
        }
    for modality, full in gradients[None].items():
        mixed = gradients[torch.bfloat16][modality]
        assert mixed.dtype == torch.float32 and mixed.isfinite().all()
        assert torch.cosine_similarity(mixed, full, 0) > 0.9, modality
        assert 0.8 < mixed.norm() / full.norm() < 1.25, modality


@every("methods")
def test_with_one_modality_every_method_is_the_unimodal_baseline(name):
    model = build_model(name, ["audio"])
    plain = forward(model).losses["audio"]
    expected = torch.autograd.grad(plain, list(model.parameters()))
    take_step(build_method(name), model, forward(model))
    for parameter, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient)


def gradients_of(name, *argv, seed=0):
    """({parameter: gradient}, diagnostics) of a step."""
    model = build_model(name).double()
    diagnostics = take_step(build_method(name, *argv), model, forward(model, seed))
    return {n: p.grad for n, p in model.named_parameters()}, diagnostics


def test_joint_leaves_unimodal_heads_alone():
    gradients, _ = gradients_of("joint")
    untrained = {name for name, gradient in gradients.items() if gradient is None}
    assert untrained == {name for name in gradients if name.startswith("heads")} != set()


def test_uniform_scales_encoders_only_and_measuring_conflict_changes_nothing():
    plain, _ = gradients_of("uniform")
    scaled, _ = gradients_of("uniform", "--encoder_grad_scale", "1.5")
    measured, diagnostics = gradients_of("uniform", "--measure_conflict")
    assert {"cosine/audio", "cosine/visual"} <= diagnostics.keys()
    for name, gradient in plain.items():
        factor = 1.5 if name.startswith("encoders") else 1.0
        torch.testing.assert_close(scaled[name], factor * gradient)
        torch.testing.assert_close(measured[name], gradient, rtol=1e-9, atol=1e-9)


@every("models/encoders")
def test_encoders_average_the_frames_of_clips(name):
    encoder = load("models/encoders", name)((2, 32, 40)).eval()
    pictures = torch.randn(3, 2, 32, 40)
    assert encoder(pictures).shape == (3, encoder.feature_dim)
    clips = torch.randn(3, 4, 2, 32, 40)
    mean_over_frames = torch.stack([encoder(clips[:, t]) for t in range(4)]).mean(0)
    torch.testing.assert_close(encoder(clips), mean_over_frames, rtol=1e-4, atol=1e-4)


def test_resnet18_has_the_published_initialisation():
    torch.manual_seed(0)
    encoder = load("models/encoders", "resnet18")((1, 224, 224))
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    weights = torch.cat([m.weight.detach() for m in norms])
    assert abs(weights.mean() - 1) < 0.002 and abs(weights.std() - 0.02) < 0.001
    assert all((m.bias == 0).all() for m in norms)
    layer = encoder.trunk.layer4[1].conv2.weight
    assert abs(layer.std() / (2 / (512 * 9)) ** 0.5 - 1) < 0.01  # Kaiming, fan-out
    assert sum(p.numel() for p in encoder.parameters()) == 11_170_240


@pytest.mark.parametrize("modalities", SETS_OF_MODALITIES[1:], ids=",".join)
@every("models/fusion")
def test_fusions_are_trained_by_every_loss_that_reaches_them(name, modalities):
    torch.manual_seed(0)
    model = MultimodalModel(shapes_for(modalities), 3, encoder_for(name), name)
    clips = {m: torch.randn(4, 1 + (m == "visual"), 1, 32, 32) for m in modalities}
    logits, features = model(clips)
    assert {x.shape for x in logits.values()} == {(4, 3)} and list(features) == list(modalities)
    losses = {branch: x.square().mean() for branch, x in logits.items()}
    groups = model.groups(losses)
    mmpareto_backward(losses, groups)
    assert all(p.grad.isfinite().all() for p in model.parameters())  # none left out
    is_shared = "shared" in groups
    for group, objectives in objectives_of(losses, groups).items():
        assert objectives == ["multimodal", *(modalities if is_shared else [group])]
    model.eval()
    ordered, reversed_ = model(clips)[0], model(dict(reversed(clips.items())))[0]
    torch.testing.assert_close(reversed_["multimodal"], ordered["multimodal"])


def test_late_fusions_take_features_of_different_widths():
    features = {"audio": torch.randn(4, 5), "visual": torch.randn(4, 7)}
    classes = [load("models/fusion", name) for name in registry.names("models/fusion")]
    late = [fusion for fusion in classes if issubclass(fusion, LateFusion)]
    assert late
    for fusion in late:
        assert fusion({"audio": 5, "visual": 7}, 3)(features).shape == (4, 3), fusion.__module__


def test_each_branch_of_a_model_has_its_own_modalitys_feature():
    model = MultimodalModel({"audio": (1, 64, 32), "visual": (2, 3, 32, 32)}, 6, "cnn").eval()
    inputs = {"audio": torch.randn(2, 1, 64, 32), "visual": torch.randn(2, 2, 3, 32, 32)}
    logits, features = model(inputs)
    assert list(logits) == ["multimodal", "audio", "visual"]
    for modality, x in inputs.items():
        assert torch.equal(features[modality], model.encoders[modality](x))
        assert torch.equal(logits[modality], model.heads[modality](features[modality]))
    assert torch.equal(logits["multimodal"], model.fusion(features))
    alone, _ = MultimodalModel({"audio": (1, 64, 32)}, 6, "cnn")({"audio": inputs["audio"]})
    assert list(alone) == ["audio"]


@pytest.fixture
def root(name, request):
    """A small prepared tree of a data set, by its own preparation."""
    fixture = "demo_root" if name == "cremad" else f"{name}_root"  # cremad reads the same tree
    return request.getfixturevalue(fixture)


@every("dataset")
def test_datasets_and_their_readers(name, root):
    build = load("dataset", name)
    dataset = build(root)
    assert dataset.name == name and len(dataset.classes) == len(set(dataset.classes)) > 1
    assert build.modalities_at(root) == dataset.modalities
    flags = vars(options.parse(["--dataset", name, "--data_root", str(root)]))
    for split in ("train", "test"):
        samples = dataset.samples(split)
        assert all(isinstance(s, Sample) and 0 <= s.target < len(dataset.classes) for s in samples)
        for modality, kind in dataset.modalities.items():
            reader = built_reader(kind, root / modality, split == "train", **flags)
            assert {sample.id for sample in samples} <= reader.ids()
            batch, _ = collate([({modality: reader.read(samples[0].id)}, 0)])
            value = reader.on_device(batch[modality])[0]
            assert value.dtype == torch.float32 and value.ndim in (1, 3, 4)
            assert value.shape == reader.shape and torch.isfinite(value).all()


@every("dataset")
def test_every_data_set_trains_from_its_prepared_tree(name, root, tmp_path):
    dataset = load("dataset", name)(root)
    modalities = list(dataset.modalities)[:2]
    batch_size = min(64, len(dataset.samples("train")) // 2)
    flags = ["--modalities", ",".join(modalities), "--batch_size", str(batch_size)]
    quick = flags_for(root, tmp_path, name)
    if set(dataset.modalities.values()) == {"array"}:  # no pictures: its own encoder, no size
        quick = [*quick[: quick.index("--encoder")], "--no-tensorboard"]
    run(quick, "x", *flags)
    (last,) = read_jsonl(tmp_path / "x" / "metrics.jsonl")
    assert {f"test/accuracy/{branch}" for branch in ("multimodal", *modalities)} <= last.keys()


@every("dataset")
def test_a_data_set_that_is_not_prepared_names_the_command(name, tmp_path):
    (tmp_path / "empty").mkdir()
    command = {"demo": "Without --data_root a run generates it", "folder": "DIR holds train.csv"}
    mend = command.get(name, f"Prepare it with: sh script/prepare.sh {name}")
    with pytest.raises(BadInput, match=f"has no .*train.csv, test.csv. {mend}"):
        load("dataset", name)(tmp_path / "empty")


def test_help_names_every_data_set_and_the_flags_and_defaults_of_the_run(capsys):
    with pytest.raises(SystemExit):
        options.parse(["--help", "--dataset", "cremad", "--method", "uniform"])
    printed = capsys.readouterr().out
    assert "--encoder_grad_scale" in printed and "--gamma" not in printed
    assert "(default: 0.002)" in printed
    for name in registry.names("dataset"):
        for flag, value in load("dataset", name).defaults.items():
            assert f"--{flag} {value}" in printed
