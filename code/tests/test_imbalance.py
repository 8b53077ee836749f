"""The methods against imbalanced modalities: formulas on small cases, limits, refusals."""

import pytest
import torch
from steps import build_method, take_step
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from toy import CLASSES, Toy

import train
from methods import ForwardPass, g_blending, umt
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


def assert_equal(gradients, expected):
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name])


def assert_factors(gradients, plain, factors):
    """Encoders' gradients are those of one joint loss times a factor each, the rest is equal."""
    expected = dict(plain)
    for name, gradient in plain.items():
        room, modality, *_ = name.split(".")
        if room == "encoders":
            expected[name] = factors[modality] * gradient
    assert_equal(gradients, expected)


# OGM


def scores_of(model, forward):
    """{modality: the sum over the batch of its own probability of the target}."""
    parts = model.fusion.unimodal(forward.features)
    rows = torch.arange(len(forward.target))
    return {m: x.softmax(1)[rows, forward.target].sum().detach() for m, x in parts.items()}


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_ogm_slows_the_encoder_that_is_ahead_by_its_formula(alpha):
    model = Toy()
    batch = model.batch()
    plain = joint(model, batch)
    method = build_method("ogm", "--ogm_alpha", str(alpha))
    gradients, diagnostics, forward = step(method, model, batch)
    scores = scores_of(model, forward)
    ahead, behind = sorted(scores, key=scores.get, reverse=True)
    factor = 1 - (alpha * scores[ahead] / scores[behind]).tanh()
    assert 0 < factor < 1
    assert_factors(gradients, plain, {ahead: factor, behind: 1.0})
    torch.testing.assert_close(diagnostics[f"factor/{ahead}"], factor)


def test_ogm_after_its_epochs_is_one_joint_loss():
    model, method = Toy(), build_method("ogm", "--ogm_epochs", "2")
    batch = model.batch()
    method.start_epoch(1, None, {})
    assert min(step(method, model, batch)[1][f"factor/{m}"] for m in PAIR) < 1
    method.start_epoch(2, None, {})
    assert_factors(step(method, model, batch)[0], joint(model, batch), ONES)


def test_ogm_of_three_compares_with_the_mean_of_the_others():
    model = Toy(THREE)
    _, diagnostics, forward = step(build_method("ogm"), model, model.batch())
    scores = scores_of(model, forward)
    for m, score in scores.items():
        others = sum(v for k, v in scores.items() if k != m) / 2
        factor = 1 - (0.1 * score / others).tanh() if score > others else torch.ones_like(score)
        torch.testing.assert_close(diagnostics[f"factor/{m}"], factor)


def test_ogm_ge_is_ogm_and_noise_with_the_deviation_of_each_convolutions_gradient():
    model = Toy()
    for m in PAIR:  # one convolution: such tensors alone get noise
        convolution = nn.Conv2d(1, 300, 2).double()
        layers = [nn.Unflatten(1, (1, 2, 2)), convolution, nn.Flatten(), nn.Linear(300, 5).double()]
        model.encoders[m] = nn.Sequential(*layers)
    batch = model.batch()
    plain = joint(model, batch)
    without_noise = step(build_method("ogm"), model, batch)[0]
    method = build_method("ogm_ge")

    def gradients_in(epoch):
        method.start_epoch(epoch, None, {})
        return step(method, model, batch)[0]

    gradients = gradients_in(0)
    for m in PAIR:
        name = f"encoders.{m}.1.weight"
        noise = gradients[name] - without_noise.pop(name)
        ratio = noise.std() / plain[name].std()
        assert 0.9 < ratio < 1.1 and noise.mean().abs() < 0.15 * noise.std()
        assert torch.equal(gradients_in(0)[name], gradients[name])
        assert not torch.equal(gradients_in(1)[name], gradients[name])
    assert_equal({name: gradients[name] for name in without_noise}, without_noise)


# AGM


def test_agm_follows_its_formula_step_after_step_and_over_a_resume():
    model, method = Toy(), build_method("agm", "--agm_alpha", "0.7")
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
        resumed = build_method("agm", "--agm_alpha", "0.7")
        resumed.load_state_dict(method.state_dict())
        method = resumed


# PMR


def prototypes_of(model, batch):
    member = one_hot(batch[1], CLASSES).double()
    features = model.forward_pass(batch).features
    return {m: (member.T @ f / member.sum(0)[:, None]).detach() for m, f in features.items()}


def test_pmr_adds_the_loss_of_the_encoder_behind_by_its_formula():
    model, method = Toy(), build_method("pmr", "--pmr_alpha", "2", "--pmr_mu", "0.5")
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
        behind, ahead = (1 / ratio[m] - 1).clamp(0, 1), (ratio[m] - 1).clamp(0, 1)
        entropy = -(p[m] * p[m].log()).sum(1).mean()
        loss = loss - 2 * behind * right[m].log().mean() - 0.5 * ahead * entropy
    model.zero_grad()
    loss.backward()
    assert_equal(gradients, {n: p.grad for n, p in model.named_parameters()})

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


# G-Blending


def test_blending_weights_by_hand():
    before = torch.ones(3, 2)  # losses in training and on held-out samples
    now = torch.tensor([[0.4, 0.6], [0.7, 0.8], [0.2, 1.1]])  # gains .4, .2, -.1; growths .2, .1
    ratios = torch.tensor([0.4 / 0.04, 0.2 / 0.01, 0.0])
    weights = g_blending.blending_weights(before, now)
    torch.testing.assert_close(weights, 3 * ratios / ratios.sum())
    alike = g_blending.blending_weights(before, torch.tensor([[0.4, 0.6]] * 3))
    torch.testing.assert_close(alike, torch.ones(3))
    assert g_blending.blending_weights(before, before + 0.1) is None


def test_g_blending_starts_uniform_and_then_weighs_the_losses():
    model, method, uniform = Toy(), build_method("g_blending"), build_method("uniform")
    inputs, target = batch = model.batch(size=12)
    generator = torch.Generator().manual_seed(0)
    noisy = {m: x + 0.3 * torch.randn(x.shape, generator=generator) for m, x in inputs.items()}
    loaders = {"train_plain": [batch], "val": [(noisy, target)]}
    method.start_epoch(0, model, loaders)
    assert_equal(step(method, model, batch)[0], step(uniform, model, batch)[0])
    before = method.memory["before"].clone()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.05 * p.grad
    resumed = build_method("g_blending")
    resumed.load_state_dict(method.state_dict())
    resumed.start_epoch(1, model, loaders)
    weights = g_blending.blending_weights(before, resumed.memory["before"])
    assert weights.max() > 1.1
    gradients = step(resumed, model, batch)[0]
    losses = model.forward_pass(batch).losses
    model.zero_grad()
    sum(w * loss for w, loss in zip(weights, losses.values())).backward()
    assert_equal(gradients, {n: p.grad for n, p in model.named_parameters()})


# UMT


@pytest.fixture(scope="module")
def teachers(demo_root, tmp_path_factory):
    """Real runs of one modality each."""
    where = tmp_path_factory.mktemp("teachers")
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(where)]
    argv += ["--batch_size", "27", "--num_workers", "0", "--epochs", "1", "--no-tensorboard"]
    for modality in PAIR:
        flags = ["--image_size", "32"] if modality == "visual" else []
        flags += ["--encoder", "cnn", "--method", "joint", "--run_name", modality]
        train.main([*argv, *flags, "--modalities", modality])
    return {m: where / m for m in PAIR}


def test_umt_adds_the_distance_to_its_teachers(teachers):
    folders = ",".join(f"{m}={folder}" for m, folder in teachers.items())
    method = build_method("umt", "--umt_teachers", folders, "--umt_weight", "3")
    torch.manual_seed(0)
    model = MultimodalModel({"audio": (1, 48, 48), "visual": (2, 3, 48, 48)}, 6, "cnn")
    inputs = {"audio": torch.randn(4, 1, 32, 32), "visual": torch.randn(4, 3, 32, 32)}
    target = torch.tensor([0, 1, 2, 3])
    logits, features = model(inputs)
    losses = {k: cross_entropy(x, target) for k, x in logits.items()}
    loss, distances = losses["multimodal"], {}
    for modality, folder in teachers.items():
        teacher = umt.load_teacher(folder, modality)
        assert not teacher.training
        distance = (features[modality] - teacher(inputs[modality])).square().mean()
        distances[f"distance/{modality}"] = distance.detach()
        loss = loss + 3 * distance
    parameters = list(model.parameters())
    expected = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    given = ForwardPass(losses, logits, features, target, 0, inputs=inputs)
    diagnostics = take_step(method, model, given)
    for parameter, gradient in zip(parameters, expected):
        torch.testing.assert_close(parameter.grad, gradient)
    for name, distance in distances.items():
        torch.testing.assert_close(diagnostics[name], distance)
    state = torch.load(teachers["audio"] / "last.pt", weights_only=True)["model"]
    for name, value in method.teachers["audio"].state_dict().items():
        assert torch.equal(value, state[f"encoders.audio.{name}"])  # frozen, statistics too


@pytest.mark.parametrize(
    "text, message",
    [
        ("audio", "--umt_teachers audio: name runs"),
        ("audio=nowhere", "--umt_teachers audio=nowhere: .*needs a run of audio alone"),
        ("audio=VISUAL", "trained on visual; needs a run of audio alone"),
    ],
)
def test_umt_names_what_is_no_teacher(text, message, teachers):
    with pytest.raises(ValueError, match=message):
        build_method("umt", "--umt_teachers", text.replace("VISUAL", str(teachers["visual"])))
