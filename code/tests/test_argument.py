"""argument.py: every link of the paper's argument, against its formula and on trained runs."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import flags_for, run, shell
from torch.nn.functional import cross_entropy
from toy import Toy

import argument
import report
from analysis import argument as links
from analysis import landscape
from analysis.records import read
from analysis.runs import ARGUMENT, group, read_runs
from utils import registry
from utils.errors import BadInput


def test_the_spread_is_the_trace_of_the_covariance():
    vectors, spread = torch.randn(7, 5, dtype=torch.double), links.Spread()
    for vector in vectors:
        spread.add(vector)
    assert spread.trace() == pytest.approx(np.cov(vectors.numpy().T).trace(), rel=1e-12)


def test_what_is_measured_of_an_encoder_follows_its_formula():
    model = Toy()
    batches = [model.batch(seed) for seed in range(6)]
    rows = {"multimodal": [], "audio": []}
    for inputs, target in batches:
        for branch, of_branch in rows.items():
            loss = cross_entropy(model(inputs)[0][branch], target)
            gradients = torch.autograd.grad(loss, model.encoders["audio"].parameters())
            of_branch.append(np.concatenate([g.flatten().numpy() for g in gradients]))
    g_m, g_u = (np.stack(of_branch) for of_branch in rows.values())
    apart = g_u - g_m
    alpha = ((apart * g_u).sum(1) / (apart**2).sum(1)).clip(0, 1)  # the paper, Eq. 8 in closed form
    pareto = 2 * alpha[:, None] * g_m + 2 * (1 - alpha[:, None]) * g_u
    length, noise = (lambda g: np.linalg.norm(g, axis=1)), (lambda g: np.cov(g.T).trace())
    expected = {
        "norm ratio": length(g_u).mean() / length(g_m).mean(),
        "variance ratio": length(g_u).var() / length(g_m).var(),
        "k": noise(g_u) / noise(g_m),
        "alpha": alpha.mean(),
        "noise ratio": noise(pareto) / noise(g_m + g_u),
    }
    measured = links.of_encoders(model, batches)
    for name, value in expected.items():
        assert measured[f"{name}/audio"] == pytest.approx(value, rel=1e-9), name
    assert all(p.grad is None for p in model.parameters())
    assert {name.split("/")[1] for name in measured} == {"audio", "visual"}


def test_directions_do_not_depend_on_the_scale_of_the_weights():
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    weights = [p.detach() for p in layer.parameters() if p.ndim > 1]
    length = torch.cat([w.flatten() for w in weights]).norm()
    steps = landscape.as_long(layer, 0)
    assert torch.cat([s.flatten() for s in steps]).norm() == pytest.approx(length.item())
    assert all((s == 0).all() for s in steps if s.ndim == 1)
    before = [p.clone() for p in layer.parameters()]
    with torch.no_grad():
        for p in layer.parameters():
            p *= 7
    for step, again in zip(steps, landscape.as_long(layer, 0)):
        torch.testing.assert_close(7 * step, again)
    for step, again in zip(landscape.by_filter(layer, 0), before):
        if step.ndim > 1:
            torch.testing.assert_close(step.norm(dim=1), 7 * again.norm(dim=1))


@pytest.mark.parametrize("measure", ["k", "sharpness"])
@pytest.mark.parametrize(
    "values, above, said",
    [
        ([1.5, 1.6, 1.7], True, "holds"),
        ([0.5, 0.6, 0.7], True, "**does not hold**"),
        ([0.5, 0.6, 0.7], False, "holds"),
        ([1.5, 1.6, 1.7], False, "**does not hold**"),
        ([0.5, 1.5, 1.1], True, "open"),
        ([1.5], True, "not measured"),
        ([], True, "not measured"),
    ],
)
def test_a_link_holds_where_the_whole_interval_says_so(values, above, said, measure):
    link = links.Link("", measure, "uniform", above=above, bound=1)
    assert links.Finding(link, "", values).verdict == said


def test_means_of_ratios_are_geometric():
    link = links.Link("", "norm ratio", "uniform")
    low, high = (links.Finding(link, "", [x, 100 * x]) for x in (0.02, 3.0))
    assert low.mean == pytest.approx(0.2) and high.mean == pytest.approx(30)
    assert high.interval == pytest.approx([150 * end for end in low.interval])  # positive, too
    assert links.Finding(link, "", [0.0, 0.0, 0.0]).interval[0] > 0  # no noise at all


def test_a_single_mini_batch_is_refused():
    model = Toy()
    with pytest.raises(BadInput, match="one mini-batch"):
        links.of_encoders(model, [model.batch(0)])


@pytest.fixture
def runs(trained, tmp_path):
    names = ("uniform", "pareto")
    return [shutil.copytree(trained(name), tmp_path / name) for name in names]


def test_runs_are_measured_once_and_recorded(runs, tmp_path, capsys):
    argument.main([*map(str, runs)])
    uniform, pareto = (json.loads((run / ARGUMENT).read_text())["measured"] for run in runs)
    kinds = {"norm ratio", "variance ratio", "k", "alpha", "noise ratio"}
    of_encoders = {f"{kind}/{m}" for kind in kinds for m in ("audio", "visual")}
    assert uniform.keys() == of_encoders | {"sharpness", "relative rise"}
    assert pareto.keys() == uniform.keys() | {"favoured/audio", "favoured/visual"}
    steps = [json.loads(line) for line in (runs[1] / "steps.jsonl").read_text().splitlines()]
    above = [step["weight/audio/multimodal"] > 0.5 for step in steps]
    assert pareto["favoured/audio"] == pytest.approx(100 * np.mean(above))
    assert all(np.isfinite(value) for value in [*uniform.values(), *pareto.values()])

    before = [(run / ARGUMENT).stat().st_mtime_ns for run in runs]
    capsys.readouterr()
    argument.main([*map(str, runs)])
    printed = capsys.readouterr().out
    assert "Remark 1" in printed and "not measured" in printed  # one seed of each
    assert before == [(run / ARGUMENT).stat().st_mtime_ns for run in runs]
    report.main([*map(str, runs), "--records", str(tmp_path / "kept")])
    capsys.readouterr()
    argument.main([str(tmp_path / "kept")])
    assert capsys.readouterr().out == printed
    measures = read_runs(runs[:1])[0].measures
    assert measures["argument/k/audio"] == float(f"{uniform['k/audio']:.6g}")
    assert len(links.table(group(read_runs(runs))).rows) > len(links.LINKS)


def test_what_is_of_other_weights_is_refused(runs):
    argument.main([str(runs[0])])
    shutil.copy(runs[1] / "last.pt", runs[0] / "last.pt")
    with pytest.raises(BadInput, match="argument.json: .*run argument.py"):
        report.main([str(runs[0])])


def test_gradients_of_untrained_heads_are_not_measured(trained, tmp_path):
    argument.main([str(shutil.copytree(trained("joint"), tmp_path / "joint"))])
    assert read_runs([tmp_path / "joint"])[0].argument.keys() == {"sharpness", "relative rise"}


def test_several_data_sets_have_a_table_each(tmp_path, capsys):
    names = ("avmnist", "cgmnist")  # of records with different commits
    page, results = tmp_path / "page.md", registry.CODE.parent / "results"
    argument.main([*(str(results / name) for name in names), "--output", str(page)])
    printed, written = capsys.readouterr().out, page.read_text()
    for name in names:
        groups = group(read([results / name]))
        assert links.caption(groups) in printed and links.caption(groups) in written
        assert f"\n{name}\n" in f"\n{printed}" and f"**{name}**" in written
        assert all(" | ".join(row[:7]) in written for row in links.table(groups).rows)


@pytest.mark.slow
def test_the_script_trains_measures_and_draws(demo_root, tmp_path):
    command = ["sh", "script/argument.sh", "demo", "--data_root", str(demo_root), "--seeds", "0,1"]
    command += ["--epochs", "1", "--encoder", "cnn", "--image_size", "32", "--no-tensorboard"]
    for done in (0, 8):
        finished = shell(*command, RUNS=str(tmp_path))
        assert finished.returncode == 0, finished.stderr
        assert f"8 runs, {done} of them done already" in finished.stdout
    for suffix in ("md", "png", "svg", "pdf"):
        assert (tmp_path / f"argument.{suffix}").stat().st_size > 1000
    rows = [row.split(" | ") for row in (tmp_path / "argument.md").read_text().splitlines()]
    values = [row for row in rows if len(row) > 6 and "minus" in row[1]]
    assert len(values) > 5 and all(row[4] == "2" for row in values)


def test_a_run_of_one_modality_is_named(demo_root, tmp_path):
    flags = flags_for(demo_root, tmp_path)
    del flags[(at := flags.index("--image_size")) : at + 2]  # of pictures
    run(flags, "x", "--method", "joint", "--modalities", "audio")
    with pytest.raises(BadInput, match="one modality has no second gradient"):
        argument.main([str(tmp_path / "x")])
