"""The documentation: links lead somewhere, what is computed from the code agrees with it, and the
example files of docs/extending.md run."""

import re
import shlex
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch
from steps import build_model, forward, load_method, start, take_step

import sweep
from models.fusion import LateFusion
from training import grid, options
from utils import registry

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES += sorted(ROOT.glob("results/**/*.md")) + sorted(ROOT.glob("code/examples/*.md"))
BLOCK = re.compile(r"^```.*?^```", re.M | re.S)


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    anchors = set()
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        anchors.add(anchor)
    return anchors


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_anchors_to_a_heading(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors_of(target), f"{link}: no such heading in {target.name}"


def fusions_for(needs: set[str], kind: str) -> str:
    """Of the late or the inner fusions those that give what a method needs."""
    suiting, of_kind = [], []
    for name in registry.names("models/fusion"):
        fusion = registry.load_class("models/fusion", name, "--fusion")
        is_late = issubclass(fusion, LateFusion)
        if is_late != (kind == "late"):
            continue
        of_kind.append(name)
        is_met = {
            "unimodal_logits": fusion.has_unimodal_logits,
            "gates": fusion.has_gates,
            "late_fusion": is_late,
        }
        if all(is_met[need] for need in needs & is_met.keys()):
            suiting.append(name)
    return "all" if suiting == of_kind else ", ".join(f"`{name}`" for name in suiting) or "none"


def matrix() -> str:
    columns = ["in parts", "late fusions", "inner fusions", "modalities", "validation"]
    columns += ["several processes", "other needs", "waits"]
    lines = ["| " + " | ".join(["`--method`", *columns]) + " |", "|" + " --- |" * 9]
    for name in registry.names("methods"):
        needs = load_method(name).needs
        cells = [
            f"`{name}`",
            "no" if "whole_batch" in needs else "yes",
            fusions_for(needs, "late"),
            fusions_for(needs, "inner"),
            "two" if "two_modalities" in needs else "any number",
            "`--val_fraction`" if "validation" in needs else "",
            "yes",  # a method says what to sum over processes; tests/test_distributed.py runs each
            "`--umt_teachers`" if "teachers" in needs else "",
            "yes" if "waits_for_device" in needs else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_matrix_of_methods_is_what_their_needs_say():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    (stands,) = re.findall(r"<!-- matrix.*?-->\n(.*?)<!-- end of the matrix -->", text, re.S)
    assert stands.strip() == matrix(), f"docs/methods.md needs this table:\n\n{matrix()}\n"


# docs/faq.md


def test_flags_that_stand_for_the_published_ones_exist():
    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| published flag \|.*?\n\n", text, re.M | re.S)
    rows = [line.split("|") for line in table.strip().splitlines()]
    (ours,) = (position for position, cell in enumerate(rows[0]) if cell.strip() == "ours")
    flags = re.findall(r"`--([\w-]+)", " ".join(row[ours] for row in rows))
    assert len(flags) > 15
    known = options.build_parser(["--dataset", "cremad"])[0].actions
    assert not [flag for flag in flags if flag not in known]


@pytest.fixture
def example(monkeypatch):
    """(name of a file) -> the module that docs/extending.md gives for it."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^```python\n# ([\w/]+)\.py\n(.*?)^```", text, re.M | re.S))

    def load(name):
        module = types.ModuleType(name.replace("/", "."))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(files[name], f"{name}.py", "exec"), vars(module))
        assert module.__doc__
        return module

    return load


@pytest.mark.parametrize("name", ["half", "one_length"])
def test_the_example_of_a_method_takes_a_step(example, name):
    model, method = build_model("uniform"), example(f"methods/{name}").Method()
    start(method, model)
    take_step(method, model, forward(model))
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_examples_of_an_encoder_and_a_fusion_give_features_and_logits(example):
    encoder = example("models/encoders/linear").Encoder((4, 3, 8, 8))
    assert encoder(torch.randn(2, 4, 3, 8, 8)).shape == (2, encoder.feature_dim)
    assert encoder(torch.randn(2, 3, 8, 8)).shape == (2, encoder.feature_dim)
    fusion = example("models/fusion/maximum").Fusion({"audio": 5, "visual": 7}, 3)
    features = {"audio": torch.randn(2, 5), "visual": torch.randn(2, 7)}
    assert fusion(features).shape == (2, 3)


def test_the_example_of_a_data_set_reads_a_tree(example, tmp_path):
    for name, lines in (("stat", "cat\ndog\n"), ("train", "a,cat\nb,dog\n"), ("test", "c,dog\n")):
        (tmp_path / f"{name}.csv").write_text(lines)
    dataset = example("dataset/pets").Dataset(tmp_path)
    assert dataset.classes == ["cat", "dog"] and len(dataset.samples("train")) == 2
    (tmp_path / "voice").mkdir()
    soundfile.write(tmp_path / "voice" / "a.wav", np.random.default_rng(0).normal(size=8000), 8000)
    kind = registry.load_class("dataset/modalities", dataset.modalities["voice"], "")
    assert kind(tmp_path / "voice", True).ids() == {"a"}


def test_the_example_of_a_kind_of_file_reads_it(example, tmp_path):
    np.savetxt(tmp_path / "a.csv", np.ones((50, 6)), delimiter=",")
    reader = example("dataset/modalities/sensor").Modality(tmp_path, train=True)
    assert reader.ids() == {"a"} and reader.read("a").shape == reader.shape


def test_the_example_of_a_derived_modality_returns_as_many_pictures(example):
    picture = cv2.merge([np.eye(9, dtype=np.uint8)] * 3)
    (blurred,) = example("dataset/derived/blur").derive([picture])
    assert blurred.shape == picture.shape


def test_the_example_of_a_figure_draws(example):
    run = types.SimpleNamespace(folder=Path("runs/a-seed0"), measures={"minutes": 3.0})
    assert example("figures/minutes").draw([run], None).axes


PAPER = ROOT / "docs" / "paper.md"
NOT_OF_TRAINING = ("reproduce.sh", "multitask.sh", "argument.sh")
COMMANDS = sorted(set(re.findall(r"`((?:python|sh) [^`]+)`", PAPER.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_do_what_the_paper_does_are_understood(command):
    """Runs are planned and flags read, nothing is trained."""
    name, *words = shlex.split(command)[1:]
    script = name if name.endswith(".sh") else None
    assert (registry.CODE / name).is_file()
    if name == "sweep.py":
        assert grid.plan(*sweep.read_options(words))
    elif name == "draw.py":
        figure, runs = words
        assert figure in registry.names("figures") and runs in ("RUN", "RUNS")
    elif script and name.removeprefix("script/") not in NOT_OF_TRAINING:
        assert options.parse(words)


def test_the_papers_recipe_is_the_papers_text():
    """Its Sec. 4 and Eq. 16; the default is the published code's."""
    lines = [command for command in COMMANDS if "script/mmpareto.sh" in command]
    published, paper = (
        options.parse(["--dataset", "cremad", *shlex.split(line)[2:]]) for line in lines
    )
    assert (published.rescale, published.learning_rate, published.gamma) == ("tensor", 0.002, 1.5)
    assert (paper.rescale, paper.learning_rate, paper.gamma) == ("encoder", 0.001, 1.5)
    assert (paper.optimizer, paper.momentum, paper.batch_size) == ("sgd", None, 64)
