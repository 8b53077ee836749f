"""Methods that look at each loss's gradient: formulas on small cases, limits, zero gradients."""

import copy
from math import log

import pytest
import torch
from scipy.optimize import nnls
from steps import build_method, take_step
from toy import CLASSES, Given, Toy

from methods import gradnorm, nash_mtl, pcgrad
from methods._per_loss import PerLoss
from mmpareto import cosines, mmpareto_backward
from utils import registry

PER_LOSS = [
    name
    for name in registry.names("methods")
    if issubclass(registry.load_class("methods", name, ""), PerLoss)
]
CLOSE = dict(rtol=1e-6, atol=1e-6)
ORTHOGONAL = [torch.eye(6).double()[i] * 2 for i in range(3)]


def step_and_diagnostics(method, *gradients, values=(0, 0, 0)):
    """.grad of one encoder on which the losses have these gradients, and these values."""
    names = ["multimodal", "audio", "other"][: len(gradients)]
    model = Given(audio=dict(zip(names, gradients)))
    diagnostics = take_step(method, model, model.forward_pass(values))
    assert all(torch.isfinite(v) for v in diagnostics.values())
    return model.encoders["audio"].grad, diagnostics


def step(method, *gradients):
    return step_and_diagnostics(method, *gradients)[0]


def vectors(n, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator).double() for _ in range(n)]


def conflicting(seed=1):
    first, second = vectors(2, seed)
    return first, -0.7 * first + 0.5 * second


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", PER_LOSS)
def test_a_common_factor_comes_through(name, n):
    given = vectors(n, 3)
    unscaled = step(build_method(name), *given)
    assert unscaled.isfinite().all() and unscaled.norm() > 0
    for factor in (2.0**-14, 2.0**40):
        scaled = step(build_method(name), *(factor * g for g in given))
        torch.testing.assert_close(scaled / factor, unscaled, **CLOSE)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", sorted({*PER_LOSS} - {"random_in_conflict"}))
def test_for_orthogonal_gradients_of_equal_length_every_method_is_the_uniform_baseline(name, n):
    argv = {"cagrad": ["--cagrad_c", "0"], "mmpareto": ["--gamma", "1"]}.get(name, [])
    given = ORTHOGONAL[:n]
    torch.testing.assert_close(step(build_method(name, *argv), *given), sum(given), **CLOSE)


@pytest.mark.parametrize("name", PER_LOSS)
def test_zero_and_opposed_gradients_stay_finite(name):
    first = vectors(1)[0]
    zero = torch.zeros_like(first)
    beside_zero = step(build_method(name), first, zero)
    assert beside_zero.isfinite().all() and (beside_zero @ first) >= 0
    for given in ((zero, first), (zero, zero), (first, -first), (zero, zero, first)):
        assert step(build_method(name), *given).isfinite().all()
    assert (step(build_method(name), zero, zero) == 0).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", PER_LOSS)
def test_what_is_not_finite_is_for_no_solver_and_makes_the_step_so(name, bad):
    """Solvers raise at it, and the run would end without a word on where it diverged."""
    for n in (2, 3):
        given = vectors(n)
        given[1][0] = bad
        model = Given(audio={f"loss {i}": row for i, row in enumerate(given)})
        diagnostics = take_step(build_method(name), model, model.forward_pass([0] * n))
        assert not model.encoders["audio"].grad.isfinite().all()
        assert not diagnostics["norm/audio/loss 1"].isfinite()


@pytest.mark.parametrize("name", PER_LOSS)
def test_together_is_one_decision_for_all_encoders(name):
    audio, audio_alone, visual, visual_alone = vectors(4, 5)
    model = Given(
        audio={"multimodal": audio, "audio": audio_alone},
        visual={"multimodal": visual, "visual": visual_alone},
    )
    argv = ["--groups", "together"]
    argv += ["--rescale", "encoder"] if name == "mmpareto" else []
    diagnostics = take_step(build_method(name, *argv), model, model.forward_pass())
    assert [k for k in diagnostics if k.startswith("cosine")] == ["cosine/encoders"]
    zero = torch.zeros_like(audio)
    rows = [audio, visual], [audio_alone, zero], [zero, visual_alone]
    expected = step(build_method(name, *argv), *(torch.cat(row) for row in rows))
    torch.testing.assert_close(torch.cat([p.grad for p in model.encoders.values()]), expected)


@pytest.mark.parametrize(
    "argv, arguments",
    [([], {}), (["--gamma", "2", "--rescale", "encoder"], dict(gamma=2.0, rescale="encoder"))],
)
def test_flags_of_mmpareto_are_the_arguments_of_the_step(argv, arguments):
    model = Toy()
    diagnostics = mmpareto_backward(model.losses(), model.encoder_parameters(), **arguments)
    assert diagnostics["cosine/audio"] < 0
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    take_step(build_method("mmpareto", *argv), model, model.forward_pass(model.batch()))
    torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_pcgrad_without_conflict_is_the_sum_and_with_it_the_formula():
    first, second = vectors(2, 0)
    second = second if first @ second > 0 else -second
    torch.testing.assert_close(step(build_method("pcgrad"), first, second), first + second)
    first, second = conflicting()
    product = first @ second
    expected = first - product / (second @ second) * second
    expected += second - product / (first @ first) * first
    torch.testing.assert_close(step(build_method("pcgrad"), first, second), expected)


def test_pcgrad_of_three_follows_an_order_that_is_drawn():
    gradients = torch.tensor([[1, 0, 0], [-0.5, 1, 0.2], [-0.3, -0.4, 1]]).double()  # all opposed
    gram = gradients @ gradients.T
    orders = torch.tensor([[2, 1, 0], [0, 1, 2], [1, 0, 2]])
    expected = torch.zeros(3).double()
    for i, order in enumerate(orders.tolist()):
        projected = gradients[i].clone()
        for j in order:
            product = projected @ gradients[j]
            if j != i and product < 0:
                projected -= product / (gradients[j] @ gradients[j]) * gradients[j]
        expected += projected
    torch.testing.assert_close(pcgrad.projected(gram, orders) @ gradients, expected)
    method = build_method("pcgrad")
    results = [step(method, *gradients) for _ in range(20)]
    assert any(not torch.equal(a, results[0]) for a in results)


def projected_onto_the_cone(gram, i):
    """(n,) weights w of the point w G nearest to gradient i among those that harm no loss: the
    least w'Gw with w >= e_i."""
    root = torch.linalg.cholesky(gram).T  # |root w|^2 = w'Gw
    weights, _ = nnls(root.numpy(), -root[:, i].numpy())
    weights[i] += 1
    return torch.from_numpy(weights)


@pytest.mark.parametrize("n", [2, 3])
def test_upgrad_sums_the_projections(n, fuzz):
    conflicts = 0
    for seed in fuzz:
        rows = torch.stack(vectors(n, seed, size=4))
        gram = rows @ rows.T
        weights = sum(projected_onto_the_cone(gram, i) for i in range(n))
        result = step(build_method("upgrad"), *rows)
        torch.testing.assert_close(result, weights @ rows, rtol=1e-7, atol=1e-7)
        assert (rows @ result >= -1e-7).all()
        conflicts += bool((gram < 0).any())
    assert conflicts > len(fuzz) / 3


@pytest.mark.parametrize("c", [0, 0.3, 0.8])
def test_cagrad_is_the_best_point_of_its_ball(c):
    given = torch.stack(conflicting(3))
    mean = given.mean(0)
    radius = c * mean.norm()
    paper = step(build_method("cagrad", "--cagrad_c", str(c), "--cagrad_rescale", "paper"), *given)
    code = step(build_method("cagrad", "--cagrad_c", str(c)), *given)
    torch.testing.assert_close(code, paper / (1 + c**2))
    result = paper / 2
    assert (result - mean).norm() <= radius + 1e-6
    # by duality: max over the ball of min_i <d, g_i> = min over w of <g_w, g_0> + c |g_0| |g_w|
    shares = torch.linspace(0, 1, 10001).double()[:, None]
    g_w = shares * given[0] + (1 - shares) * given[1]
    bound = (g_w @ mean + radius * g_w.norm(dim=1)).amin()
    torch.testing.assert_close((given @ result).amin(), bound, rtol=3e-4, atol=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_imtl_g_projects_alike_on_every_direction(n):
    given = vectors(n, 4)
    result = step(build_method("imtl_g"), *given)
    projections = torch.stack([result @ g / g.norm() for g in given])
    torch.testing.assert_close(projections, projections[:1].expand(n), **CLOSE)
    weights = torch.linalg.lstsq(torch.stack(given).T, result[:, None]).solution
    assert weights.sum() == pytest.approx(n, abs=1e-6)


@pytest.mark.parametrize("n", [2, 3])
def test_aligned_mtl_sums_rows_that_are_orthogonal_and_as_short_as_the_shortest_component(n):
    given = torch.stack(vectors(n, 7))
    u, s, vt = torch.linalg.svd(given, full_matrices=False)
    expected = (s[-1] * u @ vt).sum(0)
    torch.testing.assert_close(step(build_method("aligned_mtl"), *given), expected, **CLOSE)


@pytest.mark.parametrize("n", [2, 3])
def test_nash_solves_its_equation(n, fuzz):
    for seed in fuzz[::10]:
        given = torch.stack(vectors(n, seed))
        a = nash_mtl.bargained(cosines(given @ given.T)) / given.norm(dim=1)
        torch.testing.assert_close(given @ given.T @ a, 1 / a, **CLOSE)
        result = step(build_method("nash_mtl"), *given)
        torch.testing.assert_close(result, n * (a / a.sum()) @ given, **CLOSE)
        assert (given @ result > 0).all()  # every loss gains


def test_nash_leaves_a_zero_gradient_out():
    first, _ = conflicting()
    torch.testing.assert_close(step(build_method("nash_mtl"), first, 0 * first), first)


def as_of_old(state):
    """As checkpoints had it: a tensor of all losses for each group."""
    return {group: torch.stack(list(values.values())) for group, values in state.items()}


def test_metabalance_follows_its_formula_step_after_step_and_over_a_resume():
    argv = ["--metabalance_relax", "0.6", "--metabalance_beta", "0.8"]
    method = build_method("metabalance", *argv)
    averages = torch.zeros(3).double()
    for seed in range(3):
        given = vectors(3, seed)
        averages = 0.8 * averages + 0.2 * torch.stack([g.norm() for g in given])
        factors = [1] + [float(0.6 * averages[0] / a + 0.4) for a in averages[1:]]
        result = step(method, *given)
        torch.testing.assert_close(result, sum(f * g for f, g in zip(factors, given)))
        resumed = build_method("metabalance", *argv)
        resumed.load_state_dict(method.state_dict() if seed else as_of_old(method.state_dict()))
        method = resumed


@pytest.mark.parametrize("alpha, signs", [(0, (1, -1)), (1, (1, -1)), (3, (-1, -1))])
def test_gradnorm_moves_the_weights_towards_targets_with_the_power_alpha(alpha, signs):
    """Norms over their mean G = 1.5, 0.5; r = 1.2, 0.8, to the power 3 it is 1.728, 0.512: now the
    first norm, too, is below its target."""
    norms, losses = torch.tensor([3.0, 1.0]).double(), torch.tensor([1.2, 0.8]).double()
    updated = gradnorm.updated(torch.ones(2).double(), norms, losses, alpha, eta=0.1)
    moved = torch.tensor([1 - 0.1 * 1.5 * signs[0], 1 - 0.1 * 0.5 * signs[1]]).double()
    torch.testing.assert_close(updated, moved * 2 / moved.sum())


def test_gradnorm_uses_and_keeps_its_weights():
    first, second = conflicting()
    method = build_method("gradnorm", "--gradnorm_lr", "0.1", "--gradnorm_alpha", "2")
    given = (first, 4 * second)
    result, _ = step_and_diagnostics(method, *given, values=(0.1, 1.9))
    torch.testing.assert_close(result, sum(given))  # weights 1
    norms, losses = torch.stack([g.norm() for g in given]), torch.tensor([0.1, 1.9]).double()
    weights = gradnorm.updated(torch.ones(2).double(), norms, losses / log(CLASSES), 2, 0.1)
    assert norms[1] > norms[0] and weights[1] > weights[0]  # the loss behind gets the longer one
    for state in (method.state_dict(), as_of_old(method.state_dict())):
        resumed = build_method("gradnorm", "--gradnorm_lr", "0.1")
        resumed.load_state_dict(copy.deepcopy(state))
        result = step(resumed, first, second)
        torch.testing.assert_close(result, weights[0] * first + weights[1] * second)


def test_in_conflict_random_in_conflict_draw_the_direction_and_keep_the_length_of_the_sum(fuzz):
    first, second = conflicting()
    method, shares = build_method("random_in_conflict"), []
    for _ in fuzz:
        result, diagnostics = step_and_diagnostics(method, first, second)
        assert diagnostics["cosine/audio"] < 0
        torch.testing.assert_close(result.norm(), 1.5 * (first + second).norm())
        share = diagnostics["weight/audio/multimodal"]
        mixture = share * first + (1 - share) * second
        torch.testing.assert_close(result / result.norm(), mixture / mixture.norm())
        shares.append(share)
    shares = torch.stack(shares)  # uniform on [0, 1]: deviation 0.29
    assert 0.25 < shares.std() < 0.33 and abs(shares.mean() - 0.5) < 0.09


def test_without_conflict_random_in_conflict_are_the_sum_with_the_gain():
    first, second = ORTHOGONAL[0], sum(ORTHOGONAL)
    method = build_method("random_in_conflict")
    torch.testing.assert_close(step(method, first, second), 1.5 * (first + second))
    torch.testing.assert_close(step(method, first, 0 * first), 1.5 * first)


def test_random_in_conflict_follow_seed_and_epoch():
    def drawn(seed, epoch):
        method = build_method("random_in_conflict")
        method.start_epoch(epoch, None, {}, seed)
        return step(method, *conflicting())

    assert torch.equal(drawn(3, 2), drawn(3, 2))
    assert not torch.equal(drawn(3, 2), drawn(3, 1)) and not torch.equal(drawn(3, 2), drawn(4, 2))


def test_mgda_ub_is_the_weighted_sum_with_weights_of_least_norm_at_the_features():
    model = Toy()
    diagnostics = take_step(build_method("mgda_ub"), model, model.forward_pass(model.batch()))
    forward = model.forward_pass(model.batch())
    losses, rest = forward.losses, [*model.fusion.parameters(), *model.heads.parameters()]

    def gradients(loss, inputs):
        return torch.autograd.grad(loss, inputs, retain_graph=True)

    expected = []
    for m, encoder in model.encoders.items():
        a, b = (gradients(losses[k], forward.features[m])[0].flatten() for k in ("multimodal", m))
        share = (((b - a) @ b) / (a - b).square().sum()).clamp(0, 1)
        torch.testing.assert_close(diagnostics[f"weight/{m}/multimodal"], share)
        mixture = 2 * share * losses["multimodal"] + 2 * (1 - share) * losses[m]
        expected += gradients(mixture, list(encoder.parameters()))
    expected += gradients(sum(losses.values()), rest)
    parameters = [*model.encoders.parameters(), *rest]
    torch.testing.assert_close([p.grad for p in parameters], expected)


def test_a_flag_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"--metabalance_beta 1.0: must be within \[0, 1\)"):
        build_method("metabalance", "--metabalance_beta", "1.0")


@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
def test_mgda_ub_seeks_its_weights_among_gradients_that_are_divided(normalize):
    model = Toy()
    forward = model.forward_pass(model.batch())
    flags = ["--mgda_normalize", normalize]
    diagnostics = take_step(
        build_method("mgda_ub", *flags), model, model.forward_pass(model.batch())
    )
    for m, feature in forward.features.items():
        branches = [forward.losses[name] for name in ("multimodal", m)]
        z = [torch.autograd.grad(b, feature, retain_graph=True)[0].flatten() for b in branches]
        by = {"none": lambda b, z: 1, "l2": lambda b, z: z.norm(), "loss": lambda b, z: b.item()}
        by["loss+"] = lambda b, z: b.item() * z.norm()
        first, second = (x / by[normalize](b, x) for b, x in zip(branches, z))
        share = ((second - first) @ second / (first - second).square().sum()).clamp(0, 1)
        torch.testing.assert_close(diagnostics[f"weight/{m}/multimodal"], share)


def test_rlw_weighs_losses_by_a_softmax_that_is_drawn_for_each_batch():
    model, seen = Toy(), []
    method = build_method("rlw")
    method.start_epoch(2, model, {}, seed=3)
    for _ in range(200):
        diagnostics = take_step(method, model, model.forward_pass(model.batch()))
        seen.append(torch.stack(list(diagnostics[f"weight/{b}"] for b in model.losses())))
    losses = model.losses()
    expected = torch.autograd.grad(
        sum(map(torch.mul, seen[-1], losses.values())), list(model.parameters())
    )
    last = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    method.start_epoch(2, model, {}, seed=3)
    for _ in range(200):
        model.zero_grad()
        take_step(method, model, model.forward_pass(model.batch()))
    torch.testing.assert_close([p.grad for p in model.parameters()], list(expected))
    assert not torch.equal(last[0], expected[0])  # which had gathered
    weights = torch.stack(seen)
    torch.testing.assert_close(weights.sum(1), torch.full((200,), 3.0))
    assert ((weights.mean(0) - 1).abs() < 0.15).all()
    logs = weights.log() - weights.log().mean(1, keepdim=True)
    assert logs.var(0).mean() == pytest.approx(2 / 3, rel=0.15)  # of N(0, 1), its mean taken away


def test_rlw_has_the_same_weights_in_all_parts_of_a_batch():
    model, method = Toy(), build_method("rlw")
    whole, half = model.batch(), model.batch()
    method.backward(model.forward_pass(whole), model)
    method.backward(model.forward_pass(half), model)
    twice = [p.grad for p in model.parameters()]
    method.integrate(model)
    model.zero_grad()
    method = build_method("rlw")
    take_step(method, model, model.forward_pass(whole))
    torch.testing.assert_close(twice, [2 * p.grad for p in model.parameters()])


@pytest.mark.parametrize(
    "name", ["DualProj", "GradVac", "IMTLG", "MGDA", "PCD", "PCGrad", "UPGrad"]
)
def test_torchjds_weightings_are_torchjds(name):
    """Two steps, as some remember; the order that some draw does not matter with two losses."""
    from torchjd import aggregation

    method, its_own = (
        build_method("torchjd", "--torchjd_weighting", name),
        vars(aggregation)[name](),
    )
    n = 2 if name in ("DualProj", "IMTLG", "MGDA", "UPGrad") else 1  # means, times n
    for seed in range(3):
        rows = torch.stack(vectors(2, seed))
        rows /= rows.norm(dim=1).amax()
        expected = n * its_own(rows)
        torch.testing.assert_close(step(method, *rows), expected, rtol=1e-6, atol=1e-6)
        resumed = build_method("torchjd", "--torchjd_weighting", name)
        resumed.load_state_dict(copy.deepcopy(method.state_dict()))
        method = resumed


def test_torchjds_weightings_draw_the_methods_random_numbers():
    def drawn(seed):
        method = build_method("torchjd")
        method.start_epoch(0, None, {}, seed)
        return step(method, *vectors(4, 6))

    first, state = drawn(0), torch.get_rng_state()
    assert torch.equal(drawn(0), first) and torch.equal(torch.get_rng_state(), state)
    assert any(not torch.equal(drawn(seed), first) for seed in range(1, 9))


@pytest.mark.parametrize(
    "name, message",
    [
        ("Krum", "TorchJD has no default for n_byzantine"),
        ("CAGrad", "TorchJD has no default for c"),
        ("Mean", "choose from AlignedMTL, DualProj, GradVac"),
        ("GradDrop", "choose from AlignedMTL"),
        ("GramianWeightedAggregator", "choose from AlignedMTL"),
    ],
)
def test_a_weighting_that_needs_more_is_refused(name, message):
    with pytest.raises(ValueError, match=f"--torchjd_weighting {name}: {message}"):
        build_method("torchjd", "--torchjd_weighting", name)


def test_dgl_feeds_encoders_by_unimodal_losses_and_the_fusion_by_the_multimodal_one():
    model = Toy()
    take_step(build_method("dgl", "--dgl_alpha", "3"), model, model.forward_pass(model.batch()))
    multimodal, *unimodal = model.losses().values()
    others = [*model.encoders.parameters(), *model.heads.parameters()]
    expected = [3 * g for g in torch.autograd.grad(sum(unimodal), others)]
    torch.testing.assert_close([p.grad for p in others], expected)
    fusion = list(model.fusion.parameters())
    of_fusion = list(torch.autograd.grad(multimodal, fusion))
    torch.testing.assert_close([p.grad for p in fusion], of_fusion)
