"""What the commands answer before anything runs: help, words that no flag takes, names of runs, and
what to run next."""

import math
import random
import re
import shlex
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from commands import CODE, flags_for, run

import draw
import sweep
import train
from training import grid, messages, options
from training.flags import TOUCHES
from training.options import build_parser, parse
from training.stored import completed, flags_of, jsonable
from utils import registry
from utils.errors import BadInput

ON_DEMO = ["--dataset", "demo"]


def refused(argv: list[str]) -> str:
    with pytest.raises(BadInput) as problem:
        parse([*ON_DEMO, *argv])
    return str(problem.value)


def test_help_has_a_group_for_each_part_of_a_run_and_tells_what_may_change():
    parser, _ = build_parser(ON_DEMO)
    titles = [group.title for group in parser._action_groups if group._group_actions]
    assert titles[1:6] == ["data", "model", "optimisation", "machine", "run"]
    assert titles[6:] == ["method mmpareto", "encoder resnet18", "modality file frames"]
    marked = {a.dest for a in parser.actions.values() if "(*)" in (a.help or "")}
    assert marked == {f for f, touched in parser.touches.items() if touched in ("speed", "place")}
    assert {"num_workers", "run_name", "cache"} <= marked and "epochs" not in marked
    assert set(parser.touches.values()) <= TOUCHES.keys()
    assert "(*) changes no result" in parser.format_help()


@pytest.mark.parametrize(
    "word, meant",
    [
        ("--lr", "--learning_rate"),  # initials
        ("--wd=1", "--weight_decay"),
        ("--bs", "--batch_size"),
        ("--seed", "--random_seed"),  # a word of it
        ("--workers", "--num_workers"),
        ("--image", "--image_size"),  # its beginning
        ("--epoch", "--epochs"),  # a slip
        ("--batchsize", "--batch_size"),
        ("--data", "--dataset or --data_root"),
    ],
)
def test_a_flag_of_another_program_is_answered_with_ours(word, meant):
    name = word.split("=")[0]
    assert refused([word, "1"]) == f"{name}: no flag of this run; did you mean {meant}?"


@pytest.mark.parametrize(
    "argv, owner",
    [
        (["--method", "uniform", "--gamma", "2"], "--method mmpareto, --method published"),
        (["--umt_teachers", "audio=x"], "--method umt"),
        (["--method", "joint", "--no-cosine_scale"], None),
        (["--sample_rate", "8000"], "modality file waveform"),
    ],
)
def test_a_flag_of_another_choice_is_answered_with_whose_it_is(argv, owner):
    answer = refused(argv)
    if owner:
        assert f"no flag of this run, but of {owner}" in answer
    else:
        assert answer.endswith("no flag of this run; python train.py --help lists them")
    assert "\n" not in answer and len(answer) < 200


def test_a_word_that_belongs_to_no_flag_is_named():
    assert refused(["mmpareto"]) == "mmpareto: belongs to no flag"


def test_a_sweep_answers_alike():
    with pytest.raises(BadInput, match="--lr: no flag of these runs; did you mean --learning_rate"):
        sweep.main(["--methods", "joint", *ON_DEMO, "--lr", "0.1,0.2"])
    with pytest.raises(BadInput, match="--gamma: no flag of these runs, but of --method mmpareto"):
        sweep.main(["--methods", "joint,uniform", *ON_DEMO, "--gamma", "1,2"])


def test_draw_lists_its_figures_each_with_what_it_shows(capsys):
    draw.main(["--help"])
    lines = capsys.readouterr().out.split("figures:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == registry.names("figures")
    assert all(len(line) > 30 for line in lines)
    with pytest.raises(BadInput, match="name a figure: argument, comparison"):
        draw.main([])


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_the_rate_of_every_epoch_is_that_of_the_schedule(schedule):
    def rate_of(epoch: int) -> float:
        return {
            "constant": 0.2,
            "step": 0.2 * 0.5 ** (epoch // 3),
            "cosine": 0.1 * (1 + math.cos(math.pi * epoch / 8)),
        }[schedule]

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    chosen = Namespace(schedule=schedule, lr_decay_step=3, lr_decay_ratio=0.5, epochs=8)
    scheduler = train.build_scheduler(chosen, optimizer)
    for epoch in range(8):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate_of(epoch), abs=1e-15)
        optimizer.step()
        scheduler.step()


def test_flags_of_a_schedule_that_is_not_chosen_are_refused_and_its_own_have_defaults():
    answer = refused(["--lr_decay_step", "30"])
    assert "--lr_decay_step 30: is of --schedule step, not" in answer and "never steps it" in answer
    assert "not constant" in refused(["--schedule", "constant", "--lr_decay_ratio", "0.1"])
    chosen = parse([*ON_DEMO, "--schedule", "step", "--lr_decay_ratio", "0.5"])
    assert (chosen.lr_decay_step, chosen.lr_decay_ratio) == (30, 0.5)


@pytest.mark.parametrize(
    "stored, now",
    [
        ({"lr_decay_step": 0, "lr_decay_ratio": 0.1}, ("constant", None, None)),
        ({"lr_decay_step": 7, "lr_decay_ratio": 0.5}, ("step", 7, 0.5)),
        ({}, ("constant", None, None)),
    ],
)
def test_a_run_older_than_the_schedule_is_read_with_the_one_it_had(stored, now):
    now_stored = jsonable(vars(parse(ON_DEMO)))
    older = {k: v for k, v in now_stored.items() if k not in ("schedule", *stored)}
    read = completed(Path("runs/x"), {"options": older | stored, "environment": {}})
    assert (read["schedule"], read["lr_decay_step"], read["lr_decay_ratio"]) == now


@pytest.mark.parametrize(
    "method, flag, now, before",
    [("agm", "agm_head", True, False), ("cagrad", "cagrad_rescale", "code", "paper")],
)
def test_a_run_older_than_a_flag_that_changed_its_method_is_read_as_the_run_it_was(
    method, flag, now, before
):
    stored = jsonable(vars(parse([*ON_DEMO, "--method", method])))
    assert stored.pop(flag) == now
    read = completed(Path("runs/x"), {"options": stored, "environment": {}})
    assert read[flag] == before
    assert flag not in completed(
        Path("runs/x"), {"options": jsonable(vars(parse(ON_DEMO))), "environment": {}}
    )


def test_only_the_losses_that_a_method_trains_are_said(demo_root, tmp_path, capsys):
    flags = flags_for(demo_root, tmp_path)
    run(flags, "x", "--method", "joint")
    run(flags, "y")
    joint, mmpareto = capsys.readouterr().out.split("next: ")[:2]
    assert re.search("audio encoder: .*objectives multimodal$", joint, re.MULTILINE)
    assert re.search("audio encoder: .*objectives multimodal, audio$", mmpareto, re.MULTILINE)


def test_a_run_on_ones_own_data_is_called_after_its_folder(own_data, tmp_path, monkeypatch):
    flags = ["--dataset", "folder", "--ckpt_path", str(tmp_path), "--modalities", "sound,depth"]
    assert parse([*flags, "--data_root", str(own_data)]).run_name == "own-mmpareto-seed0"
    monkeypatch.chdir(own_data)
    assert parse([*flags, "--data_root", "."]).run_name == "own-mmpareto-seed0"
    options_of_grid, rest = sweep.read_options(
        [*flags[:4], "--methods", "joint", "--data_root", str(own_data)]
    )
    assert [r.folder.name for r in grid.plan(options_of_grid, rest)] == ["own-joint-seed0"]


def test_a_run_says_what_to_run_next_and_that_runs(demo_root, tmp_path, capsys, monkeypatch):
    """The lines are carried out as they stand, the script by the command in it."""
    flags = flags_for(demo_root, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train, "draw_run", lambda folder: "not drawn")
        train.main([*flags, "--epochs", "1", "--gamma", "2", "--method=mmpareto"])
        title, script, picture = capsys.readouterr().out.split("next: ")[1].splitlines()
        assert title == "the same with one joint loss, then both in one picture"
        _, file, *argv = shlex.split(script)
        assert "train.py --method joint" in (CODE / file).read_text() and "--gamma" not in argv
        train.main(["--method", "joint", *argv])
    assert {"demo-mmpareto-seed0", "demo-joint-seed0"} == {p.name for p in tmp_path.iterdir()}
    only, same_picture = capsys.readouterr().out.split("next: ")[1].splitlines()
    assert only == "both in one picture"  # MMPareto's run is there already
    _, command, *argv = shlex.split(picture)
    assert command == "draw.py" and set(argv) == set(shlex.split(same_picture)[2:])
    draw.main([*argv, "--output", str(tmp_path / "both")])
    assert (tmp_path / "both.png").is_file()


def test_the_next_command_names_the_python_that_runs(monkeypatch, tmp_path):
    for name in ("active", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "active" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "active"))
    assert messages.interpreter() == "python"
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path / "other")
    assert messages.interpreter() == "../active/python"


VALUES = [
    "0",
    "1",
    "-1",
    "2",
    "0.5",
    "1e9",
    "nan",
    "inf",
    "",
    " ",
    "x",
    "audio",
    "audio,visual",
    "a=b",
]
VALUES += [
    "step",
    "cosine",
    "joint",
    "resnet18",
    "cnn",
    "concat",
    "/",
    "..",
    "é",
    "--",
    "1,2",
    "\0",
]


def random_line(rng: random.Random) -> list[str]:
    """Some flags, right, slightly wrong or of another choice, with some values or none."""
    method = rng.choice(registry.names("methods"))
    known = sorted(flags_of(method, "resnet18", "concat", (("visual", "frames"),))[0])
    line = ["--method", method] if rng.random() < 0.5 else []
    for _ in range(rng.randint(0, 4)):
        flag = rng.choice(known)
        if rng.random() < 0.3:
            place = rng.randrange(len(flag))
            flag = flag[:place] + rng.choice(["", "-", "_", "x", "É"]) + flag[place + 1 :]
        line.append(f"--{flag}")
        if rng.random() < 0.85:
            line.append(rng.choice(VALUES))
    rng.shuffle(line)
    return line


@pytest.mark.slow
def test_any_command_line_is_read_or_answered_in_one_line(fuzz, tmp_path):
    outcomes = {True: 0, False: 0}
    for seed in range(3 * len(fuzz)):
        line = random_line(random.Random(seed))
        try:
            chosen = parse([*ON_DEMO, "--ckpt_path", str(tmp_path), *line])
        except BadInput as problem:
            answer = str(problem)
            assert len(answer) < 400, (line, answer)
            assert "\n" not in answer or "published code's flags" in answer, (line, answer)
            outcomes[False] += 1
        except SystemExit as end:  # --help, cut from another flag
            assert end.code == 0, line
        else:
            assert Path(chosen.run_name).name == chosen.run_name, line
            options.build_method(chosen)
            outcomes[True] += 1
    assert min(outcomes.values()) > len(fuzz) / 10, outcomes
    assert not list(tmp_path.iterdir())
