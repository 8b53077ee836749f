"""Contracts: every file of every room, so a new file is tested by being there."""

import inspect
import sys
import types

import pytest
import torch
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
import train
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

ROOMS = registry.CLASSES


def every(room):
    return pytest.mark.parametrize("name", registry.names(room))


def load(room, name):
    return registry.load_class(room, name, "--flag")


@pytest.mark.parametrize("room, name", [(r, n) for r in ROOMS for n in registry.names(r)])
def test_every_file_exports_its_class_and_says_what_it_is(room, name):
    module = registry.load(room, name, "--flag")
    assert inspect.getdoc(module)
    assert inspect.isclass(getattr(module, ROOMS[room]))


@pytest.mark.parametrize("room", ROOMS)
def test_a_misspelt_file_is_answered_with_the_choices(room):
    with pytest.raises(
        BadInput, match=rf"--flag nothing: no file {room}/nothing.py; choose from \w+"
    ):
        registry.load(room, "nothing", "--flag")


BASES = {
    "methods": methods.Method,
    "models/encoders": Encoder,
    "models/fusion": LateFusion,
    "dataset": dataset.Dataset,
    "dataset/modalities": Modality,
}
HOOKS = {  # a hook, misspelt
    "methods": "start_epochs",
    "models/encoders": "finnish",
    "models/fusion": "unimodl",
    "dataset": "sample",
    "dataset/modalities": "on_devices",
}


def file_in(room, monkeypatch, **contents):
    """A file `mistaken.py` in a room, with these contents; names of classes made in it."""
    module = types.ModuleType(f"{room}/mistaken".replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "names", lambda room: ["mistaken"])
    vars(module).update(contents)
    return module.__name__


@pytest.mark.parametrize("room", ROOMS)
def test_a_misspelt_hook_is_refused_when_the_file_is_loaded(room):
    hook, module = HOOKS[room], f"{room}/mistaken".replace("/", ".")
    choices = rf"{room}/mistaken.py: {ROOMS[room]}.{hook} is no hook; choose from add_options, \w+"
    with pytest.raises(BadInput, match=choices):
        type(ROOMS[room], (BASES[room],), {"__module__": module, hook: lambda self: None})
    helper = {"__module__": module, f"_{hook}": lambda self: None}
    assert type(ROOMS[room], (BASES[room],), helper)


@pytest.mark.parametrize("room", ROOMS)
def test_a_misspelt_class_is_refused_with_those_that_are_there(room, monkeypatch):
    name = f"{room}/mistaken".replace("/", ".")
    wrong = type("Metod", (BASES[room],), {"__module__": name})
    file_in(room, monkeypatch, Metod=wrong, **{ROOMS[room]: BASES[room]})  # the base, imported
    with pytest.raises(BadInput, match=f"exports no class {ROOMS[room]} .*its classes: Metod"):
        registry.load_class(room, "mistaken", f"--{room}1")
    file_in(room, monkeypatch, **{ROOMS[room]: type(ROOMS[room], (), {"__module__": name})})
    with pytest.raises(BadInput, match=f"exports no class {ROOMS[room]} that derives"):
        registry.load_class(room, "mistaken", f"--{room}2")


@pytest.mark.parametrize("room", ROOMS)
def test_a_flag_that_the_class_does_not_take_is_refused(room, monkeypatch):
    def add_options(parser):
        parser.add_argument("--strenth", type=float, default=1.0)

    def build(self, *arguments, strength=1.0):
        pass

    contents = {"add_options": staticmethod(add_options), "__init__": build}
    name = f"{room}/mistaken".replace("/", ".")
    made = type(ROOMS[room], (BASES[room],), contents | {"__module__": name})
    file_in(room, monkeypatch, **{ROOMS[room]: made})
    with pytest.raises(BadInput, match="flag --strenth, which .* does not take; .*strength"):
        registry.load_class(room, "mistaken", f"--{room}3")


@pytest.mark.parametrize(
    "argv, near",
    [
        (["--gama", "2"], "--gamma"),  # of the method
        (["--vit_tiny_pach", "8", "--encoder", "vit_tiny"], "--vit_tiny_patch"),
        (["--mbt_token", "2", "--encoder", "vit_tiny", "--fusion", "mbt"], "--mbt_tokens"),
        (["--frame_per_clip", "2"], "--frames_per_clip"),  # of a modality
        (["--bach_size", "2"], "--batch_size"),  # of all runs
    ],
)
def test_a_misspelt_flag_is_answered_with_the_one_that_was_meant(argv, near):
    with pytest.raises(BadInput, match=f"{argv[0]}: no flag of this run; did you mean {near}. Or"):
        options.parse(["--dataset", "demo", *argv])


def test_a_misspelt_need_is_refused_when_the_file_is_loaded():
    contents = {"__module__": "methods.mistaken", "needs": {"whole_bach"}}
    with pytest.raises(BadInput, match="methods.mistaken: needs whole_bach; choose from whole_bat"):
        type("Method", (methods.Method,), contents)


@pytest.mark.parametrize(
    "modalities", [("audio",), ("audio", "visual"), ("audio", "visual", "flow")]
)
@every("methods")
def test_methods_fill_gradients_and_report(name, modalities):
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
def test_a_loss_scale_comes_through(name):
    """As fp16 applies it, and as the share of a part of a batch."""
    found = {}
    for scale in (1.0, 1024.0):
        model, method = build_model(name).double(), build_method(name)
        start(method, model)
        given = forward(model)
        given.losses = {k: scale * loss for k, loss in given.losses.items()}
        given.scale = torch.tensor(scale)
        take_step(method, model, given)
        found[scale] = {n: p.grad for n, p in model.named_parameters()}
    for parameter, plain in found[1.0].items():
        if plain is None:
            assert found[1024.0][parameter] is None
        else:
            torch.testing.assert_close(found[1024.0][parameter] / 1024, plain)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
@every("methods")
def test_a_step_in_mixed_precision_is_near_the_one_in_float32(name, modalities):
    found = {}
    for dtype in (None, torch.bfloat16):
        model, method = build_model(name, modalities), build_method(name)
        start(method, model)
        model.eval()  # over four samples the normalisation would multiply every rounding
        take_step(method, model, forward(model, seed=1, autocast=dtype))
        found[dtype] = {
            m: torch.cat([p.grad.flatten() for p in ps])
            for m, ps in model.encoder_parameters().items()
        }
    for modality, full in found[None].items():
        mixed = found[torch.bfloat16][modality]
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


def gradients_of(name, *argv):
    model = build_model(name).double()
    take_step(build_method(name, *argv), model, forward(model))
    return {n: p.grad for n, p in model.named_parameters()}


def test_joint_leaves_unimodal_heads_alone():
    gradients = gradients_of("joint")
    assert all((g is None) == n.startswith("heads") for n, g in gradients.items())


def test_uniform_scales_encoders_only():
    one, scaled = gradients_of("uniform"), gradients_of("uniform", "--encoder_grad_scale", "1.5")
    for name, gradient in one.items():
        factor = 1.5 if name.startswith("encoders") else 1.0
        torch.testing.assert_close(scaled[name], factor * gradient)


def test_measuring_conflict_does_not_change_uniform():
    one, measured = gradients_of("uniform"), gradients_of("uniform", "--measure_conflict")
    for name, gradient in one.items():
        torch.testing.assert_close(measured[name], gradient, rtol=1e-9, atol=1e-9)


def test_uniform_with_a_larger_encoder_gradient_is_mmpareto_without_conflict():
    """The control of the paper's facts: gamma without direction."""
    model = build_model("mmpareto").double()
    found = take_step(build_method("mmpareto"), model, forward(model))
    ours = {n: p.grad for n, p in model.named_parameters()}
    control = gradients_of("uniform", "--encoder_grad_scale", "1.5")
    agreeing = [m for m in ("audio", "visual") if found[f"cosine/{m}"] > 0]
    for name, gradient in ours.items():
        if not name.startswith("encoders") or name.split(".")[1] in agreeing:
            torch.testing.assert_close(gradient, control[name], rtol=1e-9, atol=1e-9)


@every("models/encoders")
def test_encoders(name):
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


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
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
    everyone = ["multimodal", *modalities]
    for group, own in objectives_of(losses, groups).items():
        assert own == (everyone if "shared" in groups else ["multimodal", group])
    model.eval()
    first = model(clips)[0]["multimodal"]
    again = model(dict(reversed(clips.items())))[0]["multimodal"]
    torch.testing.assert_close(again, first)  # the order of the inputs is nothing


LATE = [
    f for f in registry.names("models/fusion") if issubclass(load("models/fusion", f), LateFusion)
]


@pytest.mark.parametrize("name", LATE)
def test_late_fusions(name):
    fusion = load("models/fusion", name)({"audio": 5, "visual": 7}, 3)
    features = {"audio": torch.randn(4, 5), "visual": torch.randn(4, 7)}
    assert fusion(features).shape == (4, 3)
    first = fusion(features)
    torch.testing.assert_close(fusion(dict(reversed(features.items()))), first)


def test_model_branches():
    model = MultimodalModel({"audio": (1, 64, 32), "visual": (2, 3, 32, 32)}, 6)
    inputs = {"audio": torch.randn(2, 1, 64, 32), "visual": torch.randn(2, 2, 3, 32, 32)}
    logits, features = model(inputs)
    assert list(logits) == ["multimodal", "audio", "visual"]
    assert {f.shape for f in features.values()} == {(2, 512)}
    assert {x.shape for x in logits.values()} == {(2, 6)}
    alone, _ = MultimodalModel({"audio": (1, 64, 32)}, 6)({"audio": inputs["audio"]})
    assert list(alone) == ["audio"]


def root_of(name, request):
    """A small prepared tree of a data set, by its own preparation."""
    fixture = "demo_root" if name == "cremad" else f"{name}_root"  # cremad reads the same tree
    return request.getfixturevalue(fixture)


@every("dataset")
def test_datasets_and_their_readers(name, request):
    root = root_of(name, request)
    build = load("dataset", name)
    dataset = build(root)
    assert dataset.name == name and len(dataset.classes) == len(set(dataset.classes)) > 1
    assert build.modalities_at(root) == dataset.modalities
    opt = options.parse(["--dataset", name, "--data_root", str(root)])
    for split in ("train", "test"):
        samples = dataset.samples(split)
        assert all(isinstance(s, Sample) and 0 <= s.target < len(dataset.classes) for s in samples)
        for modality, reader_name in dataset.modalities.items():
            folder, train = root / modality, split == "train"
            reader = built_reader(reader_name, folder, train, **vars(opt))
            assert {s.id for s in samples} <= reader.ids()
            batch, _ = collate([({modality: reader.read(samples[0].id)}, 0)])
            value = reader.on_device(batch[modality])[0]
            assert value.dtype == torch.float32 and value.ndim in (3, 4)
            assert value.shape == reader.shape and torch.isfinite(value).all()


@every("dataset")
def test_every_data_set_trains_from_its_prepared_tree(name, request, tmp_path):
    root = root_of(name, request)
    dataset = load("dataset", name)(root)
    modalities = list(dataset.modalities)[:2]
    argv = ["--dataset", name, "--data_root", str(root), "--ckpt_path", str(tmp_path)]
    argv += ["--modalities", ",".join(modalities), "--image_size", "32", "--epochs", "1"]
    batch_size = min(64, len(dataset.samples("train")) // 2)
    train.main([*argv, "--batch_size", str(batch_size), "--num_workers", "0"])
    (folder,) = tmp_path.iterdir()
    (last,) = read_jsonl(folder / "metrics.jsonl")
    assert {f"test/accuracy/{branch}" for branch in ("multimodal", *modalities)} <= last.keys()


@every("dataset")
def test_a_data_set_that_is_not_prepared_names_the_command(name, tmp_path):
    (tmp_path / "empty").mkdir()
    command = {"demo": "Delete the folder", "folder": "DIR holds train.csv"}
    mend = command.get(name, f"Prepare it with: sh script/prepare.sh {name}")
    with pytest.raises(BadInput, match=f"has no .*train.csv, test.csv. {mend}"):
        load("dataset", name)(tmp_path / "empty")


@every("dataset")
def test_help_names_every_data_set_and_what_it_is(name, capsys):
    with pytest.raises(SystemExit):
        options.parse(["--help"])
    printed = capsys.readouterr().out
    module = registry.load("dataset", name, "--flag")
    assert f"  {name}\n    {module.__doc__.splitlines()[0]}" in printed
    for flag, value in module.Dataset.defaults.items():
        assert f"--{flag} {value}" in printed
