"""The methods against imbalanced modalities: formulas on small cases, limits, refusals."""

import math

import pytest
import torch
from steps import build_method, shapes_for, take_step
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from toy import CLASSES, Toy

import train
from methods import ForwardPass, g_blending, ogm_ge
from models.encoders import vit_tiny
from models.fusion import cosine
from models.fusion import sum as sum_fusion
from models.multimodal import MultimodalModel

PAIR, THREE = ("audio", "visual"), ("audio", "visual", "flow")
ONES = {"audio": 1.0, "visual": 1.0}


def step(method, model, batch, epoch=0):
    """({parameter: gradient}, diagnostics, forward pass) of one step."""
    model.zero_grad()
    forward = model.forward_pass(batch, epoch)
    diagnostics = take_step(method, model, forward)
    return {n: p.grad for n, p in model.named_parameters()}, diagnostics, forward


def joint(model, batch):
    return step(build_method("joint"), model, batch)[0]


def assert_factors(gradients, plain, factors):
    """Encoders' gradients are those of one joint loss times a factor each, the rest is equal."""
    expected = dict(plain)
    for name, gradient in plain.items():
        room, modality, *_ = name.split(".")
        if room == "encoders":
            expected[name] = factors[modality] * gradient
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("modalities", [PAIR, THREE])
def test_ogm_slows_the_encoders_that_are_ahead_of_the_mean_of_the_others(modalities):
    model = Toy(modalities)
    batch = model.batch()
    plain = joint(model, batch)
    gradients, diagnostics, forward = step(build_method("ogm", "--ogm_alpha", "0.3"), model, batch)
    rows, factors = torch.arange(len(forward.target)), {}
    parts = model.fusion.unimodal(forward.features)
    scores = {m: x.softmax(1)[rows, forward.target].sum().detach() for m, x in parts.items()}
    for m, score in scores.items():
        ratio = score / torch.stack([v for k, v in scores.items() if k != m]).mean()
        factors[m] = 1 - (0.3 * ratio).tanh() if ratio > 1 else torch.ones_like(score)
        torch.testing.assert_close(diagnostics[f"factor/{m}"], factors[m])
    assert 0 < min(factors.values()) < 1 == max(factors.values())
    assert_factors(gradients, plain, factors)


MODULATED = [  # arguments, the first and the last modulated epoch
    ("ogm", 0, 50),  # "default modulation setting" of the published code
    ("ogm_ge", 0, 50),
    ("ogm --ogm_start 10 --ogm_epochs 71", 10, 80),
    ("ogm --ogm_start 3 --ogm_epochs 0", 3, math.inf),
    ("agm", 0, math.inf),
    ("agm --agm_epochs 20", 0, 19),
]


@pytest.mark.parametrize("arguments, starts, ends", MODULATED)
def test_in_epochs_without_modulation_a_step_is_that_of_one_joint_loss(arguments, starts, ends):
    model, method = Toy(), build_method(*arguments.split())
    method.start_epoch(starts, None, {})
    step(method, model, model.batch(seed=1))  # the first factors of agm are 1
    batch = model.batch()
    plain = joint(model, batch)
    for epoch in {max(0, starts - 1), starts, *(e for e in (ends, ends + 1, 999) if e < math.inf)}:
        method.start_epoch(epoch, None, {})
        gradients, diagnostics, _ = step(method, model, batch)
        is_modulated = starts <= epoch <= ends
        assert is_modulated == any(diagnostics[f"factor/{m}"] != 1 for m in PAIR), epoch
        if not is_modulated:
            assert_factors(gradients, plain, ONES)


def test_ogm_ge_is_ogm_and_noise_with_the_deviation_of_each_convolutions_gradient():
    model = Toy()
    for m in PAIR:  # one convolution: such tensors alone get noise
        layers = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 300, 2), nn.Flatten(), nn.Linear(300, 5)]
        model.encoders[m] = nn.Sequential(*layers).double()
    batch, method = model.batch(), build_method("ogm_ge")
    plain = joint(model, batch)
    without_noise = step(build_method("ogm"), model, batch)[0]

    def gradients_in(epoch):
        method.start_epoch(epoch, None, {})
        return step(method, model, batch)[0]

    gradients, again, later = gradients_in(0), gradients_in(0), gradients_in(1)
    for m in PAIR:
        name = f"encoders.{m}.1.weight"
        noise = gradients[name] - without_noise.pop(name)
        ratio = noise.std() / plain[name].std()
        assert 0.9 < ratio < 1.1 and noise.mean().abs() < 0.15 * noise.std()
        assert torch.equal(again[name], gradients[name])
        assert not torch.equal(later[name], gradients[name])
    torch.testing.assert_close({name: gradients[name] for name in without_noise}, without_noise)


def convolutional(layer, *, size):
    """An encoder of (B, 4): a layer that sees pictures of this size, and a matrix."""
    width = layer(torch.zeros(1, 1, *size)).numel()
    layers = [nn.Unflatten(1, (1, *size)), layer, nn.Flatten(), nn.Linear(width, 5)]
    return nn.Sequential(*layers).double()


WITH_NOISE = {  # {encoder: its parameters that get noise}
    "Conv1d": (lambda: convolutional(nn.Conv1d(1, 9, 4), size=(4,)), {"1.weight"}),
    "Conv2d": (lambda: convolutional(nn.Conv2d(1, 9, 2), size=(2, 2)), {"1.weight"}),
    "Conv3d": (lambda: convolutional(nn.Conv3d(1, 9, (1, 2, 2)), size=(1, 2, 2)), {"1.weight"}),
    "transposed": (
        lambda: convolutional(nn.ConvTranspose2d(1, 9, 1, (3, 3)), size=(1, 4)),
        {"1.weight"},
    ),
    "spectral norm": (
        lambda: convolutional(spectral_norm(nn.Conv1d(1, 9, 4)), size=(4,)),
        {"1.parametrizations.weight.original"},
    ),
    "weight norm": (
        lambda: convolutional(weight_norm(nn.Conv2d(1, 9, 2)), size=(2, 2)),
        {f"1.parametrizations.weight.original{i}" for i in (0, 1)},
    ),
    "of one number": (lambda: convolutional(nn.Conv1d(1, 1, 1, 4), size=(4,)), set()),
    "none": (lambda: nn.Linear(4, 5).double(), set()),
}


@pytest.mark.parametrize("encoder", WITH_NOISE)
def test_the_noise_of_ogm_ge_is_for_convolutions_of_any_dimension_and_not_for_biases(encoder):
    build, noisy = WITH_NOISE[encoder]
    torch.manual_seed(0)
    model = Toy()
    model.encoders = nn.ModuleDict({m: build() for m in PAIR})
    model.eval()  # spectral norm goes on with its estimate when it is trained
    batch, method = model.batch(), build_method("ogm_ge")
    method.start_epoch(0, None, {})
    without_noise = step(build_method("ogm"), model, batch)[0]
    gradients = step(method, model, batch)[0]
    trained = {name: g for name, g in gradients.items() if g is not None}
    assert all(g.isfinite().all() for g in trained.values())
    differ = {name for name, g in trained.items() if not torch.equal(g, without_noise[name])}
    assert differ == {f"encoders.{m}.{name}" for m in PAIR for name in noisy}


def test_in_a_transformer_the_patches_have_noise_or_all_that_is_no_vector():
    encoder = vit_tiny.Encoder((1, 32, 32))
    for p in encoder.parameters():
        p.grad = torch.ones_like(p)

    def noisy(which):
        chosen = {id(g) for g in ogm_ge.gradients_with_noise(encoder, which)}
        return {n for n, p in encoder.named_parameters() if id(p.grad) in chosen}

    convolutions = noisy("convolutions")
    assert convolutions and all(n.startswith("trunk.conv_proj.") for n in convolutions)
    assert noisy("matrices") == {n for n, p in encoder.named_parameters() if p.ndim != 1}


@pytest.mark.parametrize("noise", ["convolutions", "matrices"])
def test_a_step_of_ogm_ge_is_that_of_the_published_codes(noise):
    """theirs: what has 4 dimensions; of another benchmark: what has not one."""
    torch.manual_seed(0)
    model = Toy()
    model.encoders = nn.ModuleDict(
        {m: convolutional(nn.Conv2d(1, 9, 2), size=(2, 2)) for m in PAIR}
    )
    batch, method = model.batch(), build_method("ogm_ge", "--ogm_ge_noise", noise)
    method.start_epoch(4, None, {}, seed=3)
    plain = joint(model, batch)
    gradients, diagnostics, _ = step(method, model, batch)
    draws = torch.Generator().manual_seed(1_000_003 * 3 + 4)
    for m in PAIR:
        for name in (n for n in plain if n.startswith(f"encoders.{m}.")):
            g = plain[name]
            expected = g * diagnostics[f"factor/{m}"]
            if g.ndim == 4 or (noise == "matrices" and g.ndim != 1):
                centred = g - g.sum() / g.numel()
                deviation = (centred.square().sum() / (g.numel() - 1)).sqrt()
                expected += deviation * torch.empty_like(g).normal_(0, 1, generator=draws)
            torch.testing.assert_close(gradients[name], expected, rtol=1e-12, atol=1e-15)


FUSIONS = {"concat": None, "sum": sum_fusion.Fusion, "cosine": cosine.Fusion}


def shapley_parts(model, features):
    """What a modality adds, with absent ones at zero: (all - without it + it alone) / 2."""
    audio, visual = (
        model.fusion({m: f if m == present else 0 * f for m, f in features.items()})
        for present in PAIR
    )
    together = model.fusion(features)
    return {"audio": (together - visual + audio) / 2, "visual": (together - audio + visual) / 2}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_step_of_agm_is_that_of_the_published_hooks(fusion):
    """They scale what flows back through each modality's part, hence through its half of W too."""
    model, method = Toy(), build_method("agm", "--agm_alpha", "0.7")
    if FUSIONS[fusion]:
        model.fusion = FUSIONS[fusion](dict.fromkeys(PAIR, 5), CLASSES).double()
    means = dict.fromkeys(PAIR, 0.0)
    for number in (1, 2, 3):
        batch = model.batch(seed=number)
        gradients = step(method, model, batch)[0]
        forward = model.forward_pass(batch)
        is_concat = fusion == "concat"
        parts = (shapley_parts if is_concat else lambda m, f: m.fusion.unimodal(f))(
            model, forward.features
        )
        scores = {m: cross_entropy(x, forward.target).item() for m, x in parts.items()}
        means = {m: (means[m] * (number - 1) + scores[m]) / number for m in PAIR}
        hooked = 0
        for m, other in (PAIR, PAIR[::-1]):
            usual, now = (math.exp(x[other] - x[m]) for x in (means, scores))
            kappa = math.exp(0.7 * min(usual - now, 10))
            hooked = hooked + kappa * parts[m] + (1 - kappa) * parts[m].detach()
        model.zero_grad()
        cross_entropy(hooked, forward.target).backward()
        expected = {n: p.grad for n, p in model.named_parameters()}
        torch.testing.assert_close(gradients, expected, rtol=1e-12, atol=1e-15)
    plain = joint(model, batch)
    name = "fusion.linear.weight" if is_concat else next(n for n in plain if "fusion" in n)
    assert not torch.allclose(gradients[name], plain[name], rtol=1e-3)


def test_a_probability_of_less_than_1e_8_counts_as_that_in_the_score_of_agm():
    method, target = build_method("agm"), torch.tensor([0, 1, 2])
    logits = torch.tensor([[0.0, 30, 0], [0, 1, 0], [0, 0, -17]], dtype=torch.float64)
    probabilities = [math.exp(x[k]) / sum(map(math.exp, x)) for x, k in zip(logits, target)]
    assert probabilities[0] < 1e-8 < probabilities[2] < 1e-7 < probabilities[1]
    expected = [-math.log(max(p, 1e-8)) for p in probabilities]
    assert method.score(logits, target).tolist() == pytest.approx(expected, rel=1e-12)


def test_agm_follows_its_formula_step_after_step_and_over_a_resume():
    argv = ["--agm_alpha", "0.7", "--no-agm_head"]
    model, method = Toy(), build_method("agm", *argv)
    average = 0
    for number in (1, 2, 3):
        batch = model.batch(seed=number)
        plain = joint(model, batch)
        gradients, _, forward = step(method, model, batch)
        parts = model.fusion.unimodal(forward.features)
        scores = torch.stack([cross_entropy(parts[m], forward.target) for m in PAIR]).detach()
        average = average + (scores - average) / number
        lead, usual = (scores.flip(0) - scores).exp(), (average.flip(0) - average).exp()
        factors = dict(zip(PAIR, (0.7 * (usual - lead)).exp()))
        assert_factors(gradients, plain, factors)
        assert number == 1 or max(factors.values()) > 1 > min(factors.values())
        resumed = build_method("agm", *argv)
        resumed.load_state_dict(method.state_dict())
        method = resumed


def prototypes_of(model, batch):
    member = one_hot(batch[1], CLASSES).double()
    features = model.forward_pass(batch).features
    return {m: (member.T @ f / member.sum(0)[:, None]).detach() for m, f in features.items()}


STRENGTHS = {  # of the loss of an encoder, by its ratio: the paper's, and its code's
    "clipped": lambda ratio: (1 / ratio - 1).clamp(0, 1),
    "whole": lambda ratio: 1.0 if ratio < 1 else 0.0,
}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_pmr_adds_the_loss_of_the_encoder_behind_by_its_formula(strength):
    argv = ["--pmr_alpha", "2", "--pmr_mu", "0.5", "--pmr_strength", strength]
    model, method = Toy(), build_method("pmr", *argv)
    whole, batch = model.batch(7, size=30), model.batch()
    method.start_epoch(0, model, {"train_plain": [whole]})
    prototypes = prototypes_of(model, whole)
    gradients = step(method, model, batch)[0]

    forward = model.forward_pass(batch)
    rows = torch.arange(len(forward.target))
    distances = {m: (f[:, None] - prototypes[m]).norm(dim=2) for m, f in forward.features.items()}
    p = {m: (-d).softmax(1) for m, d in distances.items()}
    right = {m: x[rows, forward.target] for m, x in p.items()}
    ratio = {"audio": (right["audio"].sum() / right["visual"].sum()).detach()}
    ratio["visual"] = 1 / ratio["audio"]
    loss = forward.losses["multimodal"]
    for m in PAIR:
        behind, ahead = STRENGTHS[strength](ratio[m]), (ratio[m] - 1).clamp(0, 1)
        entropy = -(p[m] * p[m].log()).sum(1).mean()
        loss = loss - 2 * behind * right[m].log().mean() - 0.5 * ahead * entropy
    model.zero_grad()
    loss.backward()
    torch.testing.assert_close(gradients, {n: p.grad for n, p in model.named_parameters()})

    ahead = max(ratio, key=ratio.get)  # the entropy is for the first epochs
    name = f"encoders.{ahead}.weight"
    later, plain = step(method, model, batch, epoch=5)[0], joint(model, batch)
    torch.testing.assert_close(later[name], plain[name])
    assert not torch.allclose(gradients[name], plain[name])


def test_pmr_without_factors_is_one_joint_loss_and_prototypes_have_momentum():
    model, method = Toy(), build_method("pmr", "--pmr_alpha", "0", "--pmr_mu", "0")
    batch, other = model.batch(), model.batch(3, size=30)
    method.start_epoch(0, model, {"train_plain": [batch]})
    assert_factors(step(method, model, batch)[0], joint(model, batch), ONES)
    resumed = build_method("pmr")
    resumed.load_state_dict(method.state_dict())
    resumed.start_epoch(1, model, {"train_plain": [other]})
    before, now = prototypes_of(model, batch), prototypes_of(model, other)
    for m in PAIR:
        torch.testing.assert_close(resumed.memory[m], 0.2 * before[m] + 0.8 * now[m])


def test_blending_weights_by_hand():
    before = torch.ones(3, 2)  # losses in training and on held-out samples
    now = torch.tensor([[0.4, 0.6], [0.7, 0.8], [0.2, 1.1]])  # gains .4, .2, -.1; growths .2, .1
    ratios = torch.tensor([0.4 / 0.04, 0.2 / 0.01, 0.0])
    weights = g_blending.blending_weights(before, now)
    torch.testing.assert_close(weights, 3 * ratios / ratios.sum())
    alike = g_blending.blending_weights(before, torch.tensor([[0.4, 0.6]] * 3))
    torch.testing.assert_close(alike, torch.ones(3))
    assert g_blending.blending_weights(before, before + 0.1) is None
    assert g_blending.blending_weights(before, before * torch.nan) is None


@pytest.mark.parametrize("growth", [0.0, 1e-7, 1e-3, -0.01])
def test_a_branch_whose_gap_has_not_changed_takes_no_more_than_25_times_anothers_weight(growth):
    before = torch.tensor([[1.0, 1.2]] * 3, dtype=torch.float64)
    gains_and_growths = [(0.3, 0.1), (0.25, growth), (0.2, 0.2)]
    now = torch.tensor([[1.0 - g - o, 1.2 - g] for g, o in gains_and_growths], dtype=torch.float64)
    weights = g_blending.blending_weights(before, now).tolist()
    ratios = [0.3 / 0.1**2, 0.25 / 0.04**2, 0.2 / 0.2**2]
    assert weights == pytest.approx([3 * ratio / sum(ratios) for ratio in ratios], rel=1e-12)
    alone = before - torch.tensor([[0.1, 0.1], [0, 0], [0, 0]])  # one gains, with its gap
    assert g_blending.blending_weights(before, alone).tolist() == [3, 0, 0]


def test_g_blending_measures_every_ten_epochs():
    model, method = Toy(), build_method("g_blending")
    loaders = dict.fromkeys(("train_plain", "val"), [model.batch()])
    measured = []
    for epoch in range(21):
        before = method.memory["before"]
        method.start_epoch(epoch, model, loaders)
        measured += [epoch] if method.memory["before"] is not before else []
    assert measured == [0, 10, 20]


def test_the_diagnostics_of_g_blending_are_where_the_model_is():
    """They are stacked with the losses: on the host they would stop a run on a GPU."""
    model, method = Toy(), build_method("g_blending")
    step(method, model, model.batch())
    model.to("meta")
    diagnostics = method.integrate(model)
    assert {f"weight/loss/{m}" for m in ("multimodal", *PAIR)} <= diagnostics.keys()
    assert {x.device.type for x in diagnostics.values()} == {"meta"}


def test_g_blending_starts_uniform_and_then_weighs_the_losses():
    argv = ["--g_blending_every", "1"]
    model, method, uniform = Toy(), build_method("g_blending", *argv), build_method("uniform")
    inputs, target = batch = model.batch(size=12)
    generator = torch.Generator().manual_seed(0)
    noisy = {m: x + 0.3 * torch.randn(x.shape, generator=generator) for m, x in inputs.items()}
    loaders = {"train_plain": [batch], "val": [(noisy, target)]}
    method.start_epoch(0, model, loaders)
    torch.testing.assert_close(step(method, model, batch)[0], step(uniform, model, batch)[0])
    before = method.memory["before"].clone()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.05 * p.grad
    resumed = build_method("g_blending", *argv)
    resumed.load_state_dict(method.state_dict())
    resumed.start_epoch(1, model, loaders)
    weights = g_blending.blending_weights(before, resumed.memory["before"])
    assert weights.max() > 1.1
    gradients = step(resumed, model, batch)[0]
    losses = model.forward_pass(batch).losses
    model.zero_grad()
    sum(w * loss for w, loss in zip(weights, losses.values())).backward()
    torch.testing.assert_close(gradients, {n: p.grad for n, p in model.named_parameters()})


@pytest.fixture(scope="module")
def teacher_folder(demo_root, tmp_path_factory):
    """A real run of sound alone."""
    where = tmp_path_factory.mktemp("teachers")
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(where)]
    argv += ["--batch_size", "27", "--num_workers", "0", "--epochs", "1", "--no-tensorboard"]
    argv += ["--encoder", "cnn", "--method", "joint", "--run_name", "x", "--modalities", "audio"]
    train.main(argv)
    return where / "x"


def test_umt_adds_the_distances_to_its_teachers(teacher_folder):
    method = build_method("umt", "--umt_teachers", f"audio={teacher_folder}", "--umt_weight", "3")
    torch.manual_seed(0)
    model = MultimodalModel(shapes_for(PAIR), 6, "cnn")
    inputs, target = {m: torch.randn(4, 1, 32, 32) for m in PAIR}, torch.tensor([0, 1, 2, 3])
    logits, features = model(inputs)
    losses = {k: cross_entropy(x, target) for k, x in logits.items()}
    teacher = method.teachers["audio"]
    assert not teacher.training
    method.teachers["visual"] = teacher  # of the same shape here
    distances = {m: (features[m] - teacher(inputs[m])).square().mean() for m in PAIR}
    loss, parameters = losses["multimodal"] + 3 * sum(distances.values()), list(model.parameters())
    expected = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    given = ForwardPass(losses, logits, features, target, 0, inputs=inputs)
    diagnostics = take_step(method, model, given)
    torch.testing.assert_close([p.grad for p in parameters], expected)
    for m, distance in distances.items():
        torch.testing.assert_close(diagnostics[f"distance/{m}"], distance.detach())
    state = torch.load(teacher_folder / "last.pt", weights_only=True)["model"]
    for name, value in method.teachers["audio"].state_dict().items():
        assert torch.equal(value, state[f"encoders.audio.{name}"])  # frozen, statistics too


def test_umt_refuses_the_run_of_another_modality(teacher_folder):
    with pytest.raises(ValueError, match="trained on audio; needs a run of visual alone"):
        build_method("umt", "--umt_teachers", f"visual={teacher_folder}")
