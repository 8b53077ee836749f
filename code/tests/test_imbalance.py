"""The methods against imbalanced modalities: formulas on small cases, limits, refusals."""

import pytest
import torch
from steps import build_method, take_step
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import train
from methods import ForwardPass, g_blending, umt
from models.fusion.concat import Fusion
from models.fusion.cosine import Fusion as CosineFusion
from models.multimodal import MultimodalModel

CLASSES = 3


build = build_method


class Linear(nn.Module):
    """Encoders that are matrices, the published fusion and heads."""

    def __init__(self, modalities=("audio", "visual")):
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({m: nn.Linear(4, 5) for m in modalities})
        self.heads = nn.ModuleDict({m: nn.Linear(5, CLASSES) for m in modalities})
        self.fusion = Fusion(dict.fromkeys(modalities, 5), CLASSES)
        self.double()

    def forward(self, inputs):
        features = {m: encoder(inputs[m]) for m, encoder in self.encoders.items()}
        logits = {"multimodal": self.fusion(features)}
        return logits | {m: self.heads[m](f) for m, f in features.items()}, features

    def encoder_parameters(self):
        return {m: list(e.parameters()) for m, e in self.encoders.items()}

    def groups(self, losses):
        return self.encoder_parameters()


def batch_of(model, seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(size, 4, generator=generator).double() for m in model.encoders}
    return inputs, torch.arange(size) % CLASSES


def step(method, model, batch, epoch=0):
    """({parameter: gradient}, diagnostics, logits, features) of one step."""
    model.zero_grad()
    inputs, target = batch
    logits, features = model(inputs)
    losses = {k: cross_entropy(x, target) for k, x in logits.items()}
    diagnostics = take_step(method, model, ForwardPass(losses, logits, features, target, epoch))
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    return gradients, diagnostics, logits, features


def joint(model, batch):
    return step(build("joint"), model, batch)[0]


def assert_factors(gradients, plain, factors):
    """Encoders' gradients are those of one joint loss times a factor each, the rest is equal."""
    for name, gradient in gradients.items():
        if gradient is None:
            assert plain[name] is None
            continue
        room, modality, *_ = name.split(".")
        factor = factors[modality] if room == "encoders" else 1.0
        torch.testing.assert_close(gradient, factor * plain[name])


def test_unimodal_parts_add_up_to_the_fused_logits():
    model = Linear(("audio", "visual", "flow"))
    features = model({m: x for m, x in batch_of(model)[0].items()})[1]
    parts = model.fusion.unimodal(features)
    torch.testing.assert_close(sum(parts.values()), model.fusion(features))
    alone = model.fusion({m: f if m == "visual" else 0 * f for m, f in features.items()})
    bias = model.fusion.linear.bias
    torch.testing.assert_close(parts["visual"], alone - bias + bias / 3)


# OGM


def scores_of(model, features, target):
    parts = model.fusion.unimodal(features)
    return {m: x.softmax(1)[torch.arange(len(target)), target].sum() for m, x in parts.items()}


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_ogm_slows_the_encoder_that_is_ahead_by_its_formula(alpha):
    model = Linear()
    batch = batch_of(model)
    plain = joint(model, batch)
    gradients, diagnostics, _, features = step(
        build("ogm", "--ogm_alpha", str(alpha)), model, batch
    )
    scores = scores_of(model, features, batch[1])
    ahead, behind = sorted(scores, key=scores.get, reverse=True)
    factor = 1 - (alpha * scores[ahead] / scores[behind]).tanh()
    assert 0 < factor < 1
    assert_factors(gradients, plain, {ahead: factor, behind: 1.0})
    torch.testing.assert_close(diagnostics[f"factor/{ahead}"], factor)


def test_ogm_without_strength_or_after_its_epochs_is_one_joint_loss():
    model = Linear()
    batch = batch_of(model)
    plain = joint(model, batch)
    ones = {"audio": 1.0, "visual": 1.0}
    assert_factors(step(build("ogm", "--ogm_alpha", "0"), model, batch)[0], plain, ones)
    method = build("ogm", "--ogm_epochs", "2")
    for epoch, modulated in ((1, True), (2, False)):
        method.start_epoch(epoch, None, {})
        diagnostics = step(method, model, batch)[1]
        factors = [float(diagnostics[f"factor/{m}"]) for m in ones]
        assert (min(factors) < 1) == modulated


def test_ogm_of_three_compares_with_the_mean_of_the_others():
    model = Linear(("audio", "visual", "flow"))
    batch = batch_of(model)
    _, diagnostics, _, features = step(build("ogm"), model, batch)
    scores = scores_of(model, features, batch[1])
    for m, score in scores.items():
        others = sum(v for k, v in scores.items() if k != m) / 2
        factor = 1 - (0.1 * score / others).tanh() if score > others else torch.ones(())
        torch.testing.assert_close(float(diagnostics[f"factor/{m}"]), float(factor.detach()))


class Convolutions(Linear):
    """Encoders with one convolution, the tensors to which OGM-GE adds its noise."""

    def __init__(self):
        super().__init__()
        make = lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 300, 2), nn.Flatten())  # noqa: E731
        self.encoders = nn.ModuleDict(
            {m: nn.Sequential(make(), nn.Linear(300, 5)) for m in ("audio", "visual")}
        ).double()


def test_ogm_ge_is_ogm_and_noise_with_the_deviation_of_each_convolutions_gradient():
    model = Convolutions()
    batch = batch_of(model)
    plain = joint(model, batch)
    gentle = step(build("ogm"), model, batch)[0]
    method = build("ogm_ge")
    method.start_epoch(0, None, {})
    noisy = step(method, model, batch)[0]
    for name, gradient in noisy.items():
        if gradient is None:
            continue
        noise = gradient - gentle[name]
        if name.startswith("encoders") and gradient.ndim == 4:
            ratio = noise.std() / plain[name].std()
            assert 0.9 < ratio < 1.1 and noise.mean().abs() < 0.15 * noise.std()
        else:
            assert (noise == 0).all()
    method.start_epoch(0, None, {})
    again = step(method, model, batch)[0]
    assert all(g is None or torch.equal(g, again[n]) for n, g in noisy.items())
    method.start_epoch(1, None, {})
    other = step(method, model, batch)[0]
    assert not torch.equal(other["encoders.audio.0.1.weight"], noisy["encoders.audio.0.1.weight"])


# AGM


def test_agm_follows_its_formula_over_two_steps():
    model, method = Linear(), build("agm", "--agm_alpha", "0.7")
    average = None
    for number in (1, 2):
        batch = batch_of(model, seed=number)
        plain = joint(model, batch)
        gradients, _, _, features = step(method, model, batch)
        parts = model.fusion.unimodal(features)
        scores = torch.stack([cross_entropy(parts[m], batch[1]) for m in ("audio", "visual")])
        average = scores if average is None else average + (scores - average) / number
        lead, usual = (scores.flip(0) - scores).exp(), (average.flip(0) - average).exp()
        factors = dict(zip(("audio", "visual"), (0.7 * (usual - lead)).exp()))
        assert_factors(gradients, plain, factors)
        assert number == 1 or max(factors.values()) > 1 > min(factors.values())
    copy = build("agm", "--agm_alpha", "0.7")
    copy.load_state_dict(method.state_dict())
    batch = batch_of(model, seed=5)
    resumed, whole = step(copy, model, batch)[0], step(method, model, batch)[0]
    assert all(g is None or torch.equal(g, whole[n]) for n, g in resumed.items())


def test_agm_with_equal_scores_or_without_strength_is_one_joint_loss():
    model = Linear()
    batch = batch_of(model)
    plain = joint(model, batch)
    ones = {"audio": 1.0, "visual": 1.0}
    idle = build("agm", "--agm_alpha", "0")
    for seed in (1, 2):
        step(idle, model, batch_of(model, seed=seed))
    assert_factors(step(idle, model, batch)[0], plain, ones)
    # both modalities say the same
    model.encoders["visual"].load_state_dict(model.encoders["audio"].state_dict())
    with torch.no_grad():
        model.fusion.linear.weight[:, 5:] = model.fusion.linear.weight[:, :5]
    equal = build("agm")
    for seed in (1, 2):
        inputs, target = batch_of(model, seed=seed)
        same = ({m: inputs["audio"] for m in inputs}, target)
        plain = joint(model, same)
        assert_factors(step(equal, model, same)[0], plain, ones)


# PMR


def prototypes_of(model, batch):
    features = model(batch[0])[1]
    member = one_hot(batch[1], CLASSES).double()
    return {m: (member.T @ f / member.sum(0)[:, None]).detach() for m, f in features.items()}


def test_pmr_adds_the_loss_of_the_encoder_behind_by_its_formula():
    model, method = Linear(), build("pmr", "--pmr_alpha", "2", "--pmr_mu", "0.5")
    whole, batch = batch_of(model, 7, size=30), batch_of(model)
    method.start_epoch(0, model, {"train_plain": [whole]})
    prototypes = prototypes_of(model, whole)
    for m, values in prototypes.items():
        torch.testing.assert_close(method.memory[m], values)
    gradients, _, _, _ = step(method, model, batch)

    logits, features = model(batch[0])
    target = batch[1]
    p = {m: (-(f[:, None] - prototypes[m]).norm(dim=2)).softmax(1) for m, f in features.items()}
    right = {m: x[torch.arange(len(target)), target] for m, x in p.items()}
    ratio = {"audio": right["audio"].sum() / right["visual"].sum()}
    ratio["visual"] = 1 / ratio["audio"]
    loss = cross_entropy(logits["multimodal"], target)
    for m in p:
        behind, ahead = (1 / ratio[m] - 1).clamp(0, 1), (ratio[m] - 1).clamp(0, 1)
        entropy = -(p[m] * p[m].log()).sum(1).mean()
        loss = loss - 2 * behind.detach() * right[m].log().mean()
        loss = loss - 0.5 * ahead.detach() * entropy
    model.zero_grad()
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad)
    later = step(method, model, batch, epoch=5)[0]  # the entropy is for the first epochs
    ahead = max(ratio, key=ratio.get)
    plain = joint(model, batch)
    torch.testing.assert_close(later[f"encoders.{ahead}.weight"], plain[f"encoders.{ahead}.weight"])
    assert not torch.allclose(
        gradients[f"encoders.{ahead}.weight"], plain[f"encoders.{ahead}.weight"]
    )


def test_pmr_without_factors_is_one_joint_loss_and_prototypes_have_momentum():
    model, method = Linear(), build("pmr", "--pmr_alpha", "0", "--pmr_mu", "0")
    batch, other = batch_of(model), batch_of(model, 3, size=30)
    method.start_epoch(0, model, {"train_plain": [batch]})
    assert_factors(step(method, model, batch)[0], joint(model, batch), {"audio": 1, "visual": 1})
    before = dict(method.memory)
    method.start_epoch(1, model, {"train_plain": [other]})
    for m, values in prototypes_of(model, other).items():
        torch.testing.assert_close(method.memory[m], 0.2 * before[m] + 0.8 * values)
    copy = build("pmr")
    copy.load_state_dict(method.state_dict())
    assert all(torch.equal(copy.memory[m], method.memory[m]) for m in before)


# G-Blending


def test_blending_weights_by_hand():
    before = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    now = torch.tensor(
        [[0.4, 0.6], [0.7, 0.8], [0.2, 1.1]]
    )  # gains 0.4, 0.2, -0.1; growths 0.2, 0.1
    weights = g_blending.blending_weights(before, now)
    ratios = torch.tensor([0.4 / 0.04, 0.2 / 0.01, 0.0])
    torch.testing.assert_close(weights, 3 * ratios / ratios.sum())
    alike = g_blending.blending_weights(before, torch.tensor([[0.4, 0.6]] * 3))
    torch.testing.assert_close(alike, torch.ones(3))
    assert g_blending.blending_weights(before, before + 0.1) is None


def test_g_blending_starts_uniform_and_then_weighs_the_losses():
    model, method = Linear(), build("g_blending")
    batch, held_out = batch_of(model, size=12), batch_of(model, 4, size=12)
    loaders = {"train_plain": [batch], "val": [held_out]}
    method.start_epoch(0, model, loaders)
    uniform = build("uniform")
    first, plain = step(method, model, batch)[0], step(uniform, model, batch)[0]
    assert all(torch.equal(g, plain[n]) for n, g in first.items())
    before = method.memory["before"].clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(5):
        step(uniform, model, batch)
        optimizer.step()
    method.start_epoch(1, model, loaders)
    weights = g_blending.blending_weights(before, method.memory["before"])
    weights = torch.ones(3) if weights is None else weights
    gradients = step(method, model, batch)[0]
    logits, _ = model(batch[0])
    model.zero_grad()
    sum(w * cross_entropy(x, batch[1]) for w, x in zip(weights, logits.values())).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    copy = build("g_blending")
    copy.load_state_dict(method.state_dict())
    assert torch.equal(copy.memory["before"], method.memory["before"])


# Bad input


@pytest.mark.parametrize(
    "name, argv, message",
    [
        ("ogm", ["--ogm_alpha", "-1"], "--ogm_alpha -1.0: must be at least 0"),
        ("ogm_ge", ["--ogm_epochs", "-1"], "--ogm_epochs -1: must be at least 0"),
        ("agm", ["--agm_alpha", "nan"], "--agm_alpha nan: must be at least 0"),
        ("pmr", ["--pmr_momentum", "1"], "--pmr_momentum 1.0: must be within"),
        ("pmr", ["--pmr_mu", "-1"], "--pmr_mu -1.0: must be at least 0"),
        ("g_blending", ["--g_blending_every", "0"], "--g_blending_every 0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_named(name, argv, message):
    with pytest.raises(ValueError, match=message):
        build(name, *argv)


# UMT


@pytest.fixture(scope="module")
def teachers(demo_root, tmp_path_factory):
    """Real runs of one modality each."""
    where = tmp_path_factory.mktemp("teachers")
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(where)]
    argv += ["--batch_size", "27", "--num_workers", "0", "--epochs", "1", "--no-tensorboard"]
    for modality in ("audio", "visual"):
        flags = ["--image_size", "32"] if modality == "visual" else []
        train.main([*argv, *flags, "--method", "joint", "--modalities", modality])
    return {m: where / f"demo-{m}-joint-seed0" for m in ("audio", "visual")}


def test_umt_adds_the_distance_to_its_teachers(teachers):
    named = ",".join(f"{m}={folder}" for m, folder in teachers.items())
    method = build("umt", "--umt_teachers", named, "--umt_weight", "3")
    torch.manual_seed(0)
    model = MultimodalModel({"audio": (1, 48, 48), "visual": (2, 3, 48, 48)}, 6)
    inputs = {"audio": torch.randn(4, 1, 32, 32), "visual": torch.randn(4, 3, 32, 32)}
    target = torch.tensor([0, 1, 2, 3])
    logits, features = model(inputs)
    losses = {k: cross_entropy(x, target) for k, x in logits.items()}
    given = ForwardPass(losses, logits, features, target, 0, inputs=inputs)
    loss = losses["multimodal"]
    for modality, folder in teachers.items():
        teacher = umt.load_teacher(folder, modality)
        assert not teacher.training
        loss = loss + 3 * (features[modality] - teacher(inputs[modality])).square().mean()
    expected = torch.autograd.grad(
        loss, list(model.parameters()), retain_graph=True, allow_unused=True
    )
    diagnostics = take_step(method, model, given)
    for parameter, gradient in zip(model.parameters(), expected):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient)
    assert diagnostics["distance/audio"] > 0
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
        build("umt", "--umt_teachers", text.replace("VISUAL", str(teachers["visual"])))


def test_the_cosine_fusion_knows_no_lengths():
    torch.manual_seed(0)
    fusion = CosineFusion({"audio": 4, "visual": 6}, CLASSES)
    features = {"audio": torch.randn(5, 4), "visual": torch.randn(5, 6)}
    parts, whole = fusion.unimodal(features), fusion(features)
    weight = fusion.weights["audio"].weight
    k, i = 1, 2
    cosine = torch.cosine_similarity(weight[k], features["audio"][i], dim=0)
    torch.testing.assert_close(parts["audio"][i, k], 10 * cosine)
    torch.testing.assert_close(whole, parts["audio"] + parts["visual"])
    longer = {"audio": 7 * features["audio"], "visual": features["visual"]}
    torch.testing.assert_close(fusion(longer), whole)
