"""The step in loops that nobody here wrote: what it refuses, and what it must carry unharmed.

Every case either raises and leaves all gradients alone, or is the formula, written here a second
time from autograd.grad.
"""

import copy
import random
import re
from functools import partial

import pytest
import torch
from commands import CODE
from formula import Model, by_formula, members_of
from torch import nn
from torch.nn.utils import parametrizations

from mmpareto import LossGradients, mmpareto_backward


def check_formula(model, groups, losses, members, rtol=1e-10, **arguments):
    """Of a call: `.grad` of every parameter is what stood there plus the formula's."""
    parameters = list(model.parameters())
    before = {p: None if p.grad is None else p.grad.clone() for p in parameters}
    result = by_formula(losses, members, parameters)
    diagnostics = mmpareto_backward(losses, groups, **arguments)
    assert all(torch.isfinite(value) for value in diagnostics.values())
    for p, gradient in result.items():
        if before[p] is not None:
            gradient = before[p] if gradient is None else gradient + before[p]
        if gradient is None:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, gradient, rtol=rtol, atol=1e-12)
    return diagnostics


def snapshot(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def check_refused(model, call, message):
    """Raises one clear line, and leaves the gradients of all parameters as they were."""
    for number, p in enumerate(model.parameters()):
        p.grad = torch.full_like(p, number) if number % 2 else None
    before, values = snapshot(model), [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
    after = snapshot(model)
    assert [g is None for g in after] == [g is None for g in before]
    assert all(a is None or torch.equal(a, b) for a, b in zip(after, before))
    assert all(torch.equal(p, value) for p, value in zip(model.parameters(), values))


# Groups: {name: what a group may wrongly be given as} and the error


def used_up(model):
    parameters = model.audio.parameters()
    list(parameters)
    return parameters


def with_hook(model):
    optimizer = torch.optim.SGD(model.audio.parameters(), 0.1)
    model.audio.weight.register_post_accumulate_grad_hook(lambda p: optimizer.step())
    return model.audio


def with_spectral_norm(model):
    model.audio = parametrizations.spectral_norm(nn.Linear(4, 5)).double()
    return [model.audio.weight, model.audio.bias]


BAD_GROUPS = {
    "an iterator from an earlier step": (used_up, "iterator, used up; give the module"),
    "an empty iterator": (lambda model: iter(()), "iterator, used up"),
    "one parameter": (lambda model: model.audio.weight, "real parameters"),
    "one bias": (lambda model: model.audio.bias, "real parameters"),
    "a scale": (lambda model: nn.Parameter(torch.ones(())), "real parameters"),
    "features": (lambda model: [model.audio(torch.ones(2, 4).double())], "no feature"),
    "features as they are": (lambda model: model.audio(torch.ones(2, 4).double()), "no feature"),
    "a weight under spectral norm": (with_spectral_norm, "computed weight"),
    "state_dict's values": (lambda model: model.audio.state_dict().values(), "copy or buffer"),
    "detached": (lambda model: [p.detach() for p in model.audio.parameters()], "copy or buffer"),
    "p.data": (lambda model: [p.data for p in model.audio.parameters()], "copy or buffer"),
    "half a view": (lambda model: [model.audio.weight[:2]], "real parameters"),
    "flattened": (lambda model: [model.audio.weight.view(-1)], "real parameters"),
    "names and parameters": (lambda model: model.audio.named_parameters(), "real parameters"),
    "names": (lambda model: model.audio.state_dict(), "real parameters"),
    "a name": (lambda model: "audio", "real parameters"),
    "iterators": (lambda model: [model.audio.parameters()], "real parameters"),
    "twice": (lambda model: [*model.audio.parameters()] * 2, "is in audio and, again, in audio"),
    "in two groups": (
        lambda model: [model.visual, model.audio],
        "is in audio and, again, in visual",
    ),
    "a module and its own parameters": (
        lambda m: [m.audio, *m.audio.parameters()],
        "again, in audio",
    ),
    "an optimizer that steps in the backward pass": (with_hook, "steps within the backward pass"),
}


@pytest.mark.parametrize("case", BAD_GROUPS)
@pytest.mark.parametrize("built", ["by the call", "once"])
def test_what_is_no_group_of_parameters_is_refused(case, built):
    give, message = BAD_GROUPS[case]
    model = Model()
    groups = {"audio": give(model), "visual": model.visual}
    losses = model.losses()
    if built == "once":
        check_refused(model, lambda: LossGradients(groups).add(losses), message)
    else:
        check_refused(model, lambda: mmpareto_backward(losses, groups), message)


def test_groups_that_are_no_dictionary_are_refused():
    model = Model()
    losses = model.losses()
    for groups in ([model.audio, model.visual], model.audio, None):
        call = partial(mmpareto_backward, losses, groups)
        check_refused(model, call, "groups: must be {name: module}")


def stale_copy(model):
    return {"audio": copy.deepcopy(model.audio), "visual": copy.deepcopy(model).visual}


def stale_list(model):
    groups = {name: list(module.parameters()) for name, module in model.groups().items()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return groups


def all_frozen(model):
    model.audio.requires_grad_(False)
    model.visual.requires_grad_(False)
    return model.groups()


@pytest.mark.parametrize("groups_of", [stale_copy, stale_list, all_frozen, lambda model: {}])
def test_groups_of_which_no_loss_reaches_any_are_refused(groups_of):
    model = Model()
    groups = groups_of(model)
    check_refused(model, lambda: mmpareto_backward(model.losses(), groups), "no loss reaches any")


BAD_LOSSES = {
    "a list": (lambda losses: list(losses.values()), r"losses: must be \{name: loss\}"),
    "their sum": (lambda losses: sum(losses.values()), r"losses: must be \{name: loss\}"),
    "not reduced": (lambda losses: losses | {"audio": losses["audio"] + torch.ones(8)}, "'audio'"),
    "a number": (lambda losses: losses | {"audio": 0.7}, "'audio'.*one real number"),
    "detached": (
        lambda losses: losses | {"audio": losses["audio"].detach()},
        "'audio'.*no gradient",
    ),
    "complex": (
        lambda losses: losses | {"audio": losses["audio"] * 1j},
        "'audio'.*one real number",
    ),
    "empty": (lambda losses: {}, "no loss reaches any"),
    "all absent": (lambda losses: dict.fromkeys(losses), "no loss reaches any"),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_what_is_no_loss_is_refused(case):
    change, message = BAD_LOSSES[case]
    model = Model()
    losses = change(model.losses())
    check_refused(model, lambda: mmpareto_backward(losses, model.groups()), message)


def test_complex_parameters_are_refused():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 5, dtype=torch.complex128))

        def forward(self, x):
            return (x.to(torch.complex128) @ self.weight).abs()

    model = Model(Complex())
    model.audio.weight = nn.Parameter(torch.ones(4, 5, dtype=torch.complex128))
    check_refused(
        model, lambda: mmpareto_backward(model.losses(), model.groups()), "real parameters"
    )


def test_an_optimizer_hidden_in_a_hook_of_the_graph_is_refused():
    """As torch.distributed.optim does it: on the node that accumulates."""
    model = Model()
    node = model.audio.weight.view_as(model.audio.weight).grad_fn.next_functions[0][0]
    optimizer = torch.optim.SGD([model.audio.weight], 0.1)
    node.register_hook(lambda *unused: optimizer.step())
    with pytest.raises(ValueError, match="steps within the backward pass"):
        mmpareto_backward(model.losses(), model.groups())
    assert all(g is None for g in snapshot(model))


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no memory left")


@pytest.mark.parametrize("failing", ["multimodal", "audio", "visual"])
@pytest.mark.parametrize("where", ["in the graph", "before", "after"])
def test_a_pass_that_fails_leaves_all_gradients_and_sums_as_they_were(failing, where):
    model = Model()
    gradients = LossGradients(model.groups())
    gradients.add({name: 0.5 * loss for name, loss in model.losses(1).items()})
    model.zero_grad()
    sums = {n: {p: g.clone() for p, g in s.items()} for n, s in gradients.sums.items()}
    losses = model.losses()
    if where == "in the graph":
        losses[failing] = Fails.apply(losses[failing])

    def backward(loss, retain_graph):
        fails = loss is losses[failing]
        if fails and where == "before":
            raise ValueError("no memory left")
        loss.backward(retain_graph=retain_graph)
        if fails and where == "after":
            raise ValueError("no memory left")

    check_refused(model, lambda: gradients.add(losses, backward), "no memory left")
    assert sums.keys() == gradients.sums.keys()
    for name, of_loss in sums.items():
        assert all(torch.equal(gradients.sums[name][p], g) for p, g in of_loss.items())


# What works and must


def frozen(model):
    model.audio.requires_grad_(False)


def half_frozen(model):
    model.visual[0].requires_grad_(False)


def without_parameters(model):
    model.audio = nn.Sequential(nn.Flatten(), nn.ReflectionPad1d((0, 1)))


def tied(model):
    model.visual = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5)).double()
    model.visual[1].weight = model.visual[0].weight


def lazy(model):
    model.audio = nn.LazyLinear(5, dtype=torch.float64)


def mixed(model):
    model.visual[2].float()
    model.visual[1] = Cast(torch.float32)
    model.visual.append(Cast(torch.float64))


def spectral(model):
    model.audio = parametrizations.spectral_norm(nn.Linear(4, 5)).double().eval()


def checkpointed(model):
    model.audio = Checkpointed(model.audio, use_reentrant=False)


def checkpointed_as_of_old(model):
    model.audio = Checkpointed(model.audio, use_reentrant=True)
    model.visual = Checkpointed(model.visual, use_reentrant=True)


def recurrent(model):
    model.audio = Recurrent().double()


def adapted(model):
    model.visual = LowRank(model.visual[0].requires_grad_(False)).double()


def looked_up(model):
    model.audio = LookUp().double()


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


class Checkpointed(nn.Module):
    def __init__(self, inner, use_reentrant):
        super().__init__()
        self.inner, self.use_reentrant = inner, use_reentrant

    def forward(self, x):
        x = x.requires_grad_() if self.use_reentrant else x
        checkpoint = torch.utils.checkpoint.checkpoint
        return checkpoint(self.inner, x, use_reentrant=self.use_reentrant)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.GRU(2, 5, batch_first=True)

    def forward(self, x):
        return self.inner(x.view(len(x), 2, 2))[0][:, -1]


class LowRank(nn.Module):
    """LoRA: a frozen layer and a trained one of rank 2 beside it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.down, self.up = inner, nn.Linear(4, 2), nn.Linear(2, 6)
        self.last = nn.Linear(6, 5)

    def forward(self, x):
        return self.last(self.inner(x) + self.up(self.down(x)))


class LookUp(nn.Module):
    """An embedding with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Embedding(7, 5, sparse=True)

    def forward(self, x):
        return self.inner(x[:, 0].abs().long().clamp(max=6))


WORKS = [
    frozen,
    half_frozen,
    without_parameters,
    tied,
    lazy,
    mixed,
    spectral,
    checkpointed,
    checkpointed_as_of_old,
    recurrent,
    adapted,
    looked_up,
]


@pytest.mark.parametrize("change", WORKS, ids=[change.__name__ for change in WORKS])
def test_what_other_encoders_do_comes_out_as_the_formula(change):
    """In three steps of one loop, groups built once."""
    model = Model()
    change(model)
    model.losses()  # lazy layers get their shapes
    groups, cosines = model.groups(), []
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    rtol = 1e-5 if change is mixed else 1e-10
    for step in range(3):
        optimizer.zero_grad()
        reference = copy.deepcopy(model)
        if change is checkpointed_as_of_old:  # autograd.grad cannot look into it
            reference.audio, reference.visual = reference.audio.inner, reference.visual.inner
        members = members_of(reference.groups())
        result = by_formula(reference.losses(step), members, list(reference.parameters()))
        diagnostics = mmpareto_backward(model.losses(step), groups)
        cosines += [value for key, value in diagnostics.items() if key.startswith("cosine")]
        for p, gradient in zip(model.parameters(), result.values()):
            if gradient is None:
                assert p.grad is None
            else:
                torch.testing.assert_close(p.grad, gradient, rtol=rtol, atol=rtol / 100)
        optimizer.step()
    assert cosines


def test_batch_statistics_under_a_checkpoint_are_those_of_one_more_pass_per_loss():
    """Documented in docs/training.md: the forward pass is run again for each loss."""
    model = Model(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    model.audio = Checkpointed(model.audio, use_reentrant=False)
    mmpareto_backward(model.losses(), model.groups())
    assert model.audio.inner[1].num_batches_tracked == 1 + 2  # once per loss that reaches it


def test_a_modality_that_is_absent_leaves_its_encoder_alone():
    model = Model()
    losses = model.losses() | {"visual": None}
    losses["multimodal"] = (
        model.heads["audio"](model.audio(torch.ones(2, 4).double())).square().sum()
    )
    check_formula(model, model.groups(), losses, members_of(model.groups()))
    assert all(p.grad is None for p in model.visual.parameters())


@pytest.mark.parametrize("form", ["modules", "lists", "ModuleDict", "lists of modules", "tuples"])
def test_groups_may_be_given_in_every_usual_form(form):
    model = Model()
    groups = {
        "modules": model.groups(),
        "lists": {name: list(module.parameters()) for name, module in model.groups().items()},
        "ModuleDict": nn.ModuleDict(model.groups()),
        "lists of modules": {"audio": [model.audio], "visual": list(model.visual)},
        "tuples": {name: tuple(module.parameters()) for name, module in model.groups().items()},
    }[form]
    for step in range(2):  # of modules built once the second step is as the first
        model.zero_grad()
        diagnostics = check_formula(model, groups, model.losses(step), members_of(model.groups()))
        assert {"cosine/audio", "cosine/visual"} <= diagnostics.keys()


def test_an_average_of_weights_may_stand_beside_the_trained_model():
    model = Model()
    average = torch.optim.swa_utils.AveragedModel(model)
    check_formula(model, model.groups(), model.losses(), members_of(model.groups()))
    average.update_parameters(model)
    assert all(p.grad is None for p in average.parameters())
    with pytest.raises(ValueError, match="no loss reaches any"):
        mmpareto_backward(model.losses(), average.module.groups())


def test_sharpness_aware_steps_and_lbfgs_call_it_several_times_a_step():
    model = Model()
    members = members_of(model.groups())
    check_formula(model, model.groups(), model.losses(), members)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * p.grad / norm)  # SAM's ascent
    model.zero_grad()
    check_formula(model, model.groups(), model.losses(), members)

    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    calls = []

    def closure():
        optimizer.zero_grad()
        losses = model.losses()
        check_formula(model, model.groups(), losses, members)
        calls.append(float(sum(losses.values()).detach()))
        return calls[-1]

    optimizer.step(closure)
    assert len(calls) >= 3 and min(calls[1:]) < calls[0]


def test_a_compiled_model_runs_or_says_the_lines_that_make_it_run():
    from torch._functorch import config

    tag = torch.compiler.config.patch(cache_key_tag="kept")

    model = Model()
    compiled = torch.compile(Losses(model), backend="aot_eager")
    groups, members = model.groups(), members_of(model.groups())
    result = by_formula(model.losses(), members, list(model.parameters()))
    call = partial(mmpareto_backward, compiled(0), groups)
    with config.patch(donated_buffer=True), tag:
        check_refused(model, call, "donated_buffer = False")
    with config.patch(donated_buffer=False):
        check_refused(model, call, "cache_key_tag = ")
        model.zero_grad()
        with tag:
            call()
    for p, gradient in result.items():
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_model_is_right_with_the_lines_of_the_documentation(tmp_path, monkeypatch):
    from torch._functorch import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config, "donated_buffer", True)
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "")
    text = (CODE.parent / "docs" / "training.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^### torch.compile\n\n```python\n(.*?)```", text, re.M | re.S)
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.LayerNorm(5)]
    model = Model(visual=nn.Sequential(*layers))
    expected = by_formula(model.losses(), members_of(model.groups()), list(model.parameters()))
    sum(torch.compile(model.losses)().values()).backward()  # leaves its code in the cache
    torch._dynamo.reset()
    model.zero_grad()
    exec(lines)
    mmpareto_backward(torch.compile(model.losses)(), model.groups())
    for p, gradient in expected.items():
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-12)


class Losses(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, seed):
        return self.model.losses(seed)


# At random


def random_case(seed):
    """Layers in groups or in none; some frozen, some shared, some not reached by some losses."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(draw.randint(2, 6))).double()
    for p in layers.parameters():
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator))
        p.requires_grad_(draw.random() < 0.85)
    if len(layers) > 2 and draw.random() < 0.3:
        layers[1].weight = layers[0].weight
    names = [None, "a", "b", "c"][: draw.randint(2, 4)]
    group_of = {}
    for layer in layers:  # a tied weight follows its first layer
        for p in layer.parameters():
            group_of.setdefault(p, group_of.get(layer.weight) or draw.choice(names))
    groups = {name: [p for p, g in group_of.items() if g == name] for name in names[1:]}
    losses = {}
    for number in range(draw.randint(1, 4)):
        x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        target = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        for layer in draw.sample(list(layers), draw.randint(1, len(layers))):
            x = layer(x).tanh()
        loss = 10 ** draw.uniform(-2, 2) * (x - target).square().mean()
        losses[f"loss {number}"] = loss if loss.requires_grad else None
    return draw, layers, groups, losses


def reaches(loss, parameters):
    if not parameters:
        return False
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return any(g is not None for g in gradients)


def test_any_groups_frozen_shared_and_reached_at_random_are_the_formula_or_refused(fuzz):
    refused = conflicts = 0
    for seed in fuzz:
        draw, layers, groups, losses = random_case(seed)
        given = {}
        for name, parameters in groups.items():
            forms = [list, tuple, nn.ParameterList] + ([iter] if parameters else [])
            given[name] = draw.choice(forms)(parameters)
        fault = draw.choice([None] * 6 + ["twice", "computed", "copies", "none", "not a number"])
        some = next((name for name, parameters in groups.items() if parameters), None)
        if fault == "twice" and some:
            given["again"] = groups[some][:1]
        elif fault == "computed" and some:
            given[some] = [2 * p for p in groups[some]]
        elif fault == "copies":
            given = {name: [p.detach().clone() for p in ps] for name, ps in groups.items()}
        elif fault == "none":
            given = {name: copy.deepcopy(nn.ParameterList(ps)) for name, ps in groups.items()}
        elif fault == "not a number":
            losses["loss 0"] = torch.ones(2, requires_grad=True)
        else:
            fault = None
        trained = [p for ps in groups.values() for p in ps if p.requires_grad]
        alive = [loss for loss in losses.values() if loss is not None]
        if fault is None and not any(reaches(loss, trained) for loss in alive):
            fault = "none"
        if fault is not None:
            refused += 1
            check_refused(layers, lambda g=given, x=losses: mmpareto_backward(x, g), ".")
            continue
        diagnostics = check_formula(layers, given, losses, groups.values(), rtol=1e-7)
        conflicts += any(v <= 0 for key, v in diagnostics.items() if key.startswith("cosine"))
    assert refused > len(fuzz) / 10 and conflicts > len(fuzz) / 10
