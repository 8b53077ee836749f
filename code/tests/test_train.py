"""train.py and evaluate.py: scripts, bad input, what a run writes, resuming, number formats."""

import json
import os
import re
import shutil
import signal
import sys
from argparse import Namespace
from collections import Counter
from functools import partial

import pytest
import torch
from commands import flags_for, run, shell, start, wait_for

import evaluate
import train
from analysis.trained import load_run
from dataset import avmnist
from dataset import demo as demo_set
from dataset._loader import split_again, split_speakers
from dataset._samples import Sample
from dataset.prepare import demo
from models import metrics
from training import options, precision
from training.record import Recorder
from utils.errors import BadInput
from utils.run_folder import read_jsonl


@pytest.fixture
def flags(demo_root, tmp_path):
    return flags_for(demo_root, tmp_path)


def weights(folder, which="last"):
    return torch.load(folder / f"{which}.pt", weights_only=True)["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def steps_of(folder):
    return read_jsonl(folder / "steps.jsonl")


@pytest.mark.parametrize("script, encoder", [("mmpareto", "resnet18"), ("one_joint_loss", "cnn")])
def test_a_script_trains_evaluates_and_summarises(script, encoder, flags, tmp_path):
    argv = [*flags, "--encoder", encoder, "--epochs", "1", "--run_name", "x"]
    done = shell("sh", f"script/{script}.sh", *argv)
    assert done.returncode == 0, done.stderr
    assert "demo train: 54 of 54 samples found" in done.stdout
    assert re.search(r"best on test, as published +0 +\d+\.\d\d \(\d+\.\d\d\)", done.stdout)
    assert ("--probe linear" in done.stdout) == (script == "one_joint_loss")
    assert "\r" not in done.stdout + done.stderr  # no bars in a log file
    assert (tmp_path / "x" / "overview.png").is_file()
    assert len(steps_of(tmp_path / "x")) == 3


def test_bad_input_on_the_command_line_is_one_line_and_status_2(flags):
    done = shell("sh", "script/mmpareto.sh", *flags, "--gamma", "-1")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --gamma -1.0: must be > 0"


def test_the_published_defaults():
    parsed = options.parse(["--dataset", "cremad"])
    published = dict(
        batch_size=64, epochs=50, optimizer="sgd", learning_rate=0.002, schedule="constant",
        random_seed=0, gamma=1.5, rescale="tensor", image_size=224, frames_per_clip=2,
        val_fraction=0, clip_grad=0, modalities=["audio", "visual"], method="mmpareto",
        encoder="resnet18", fusion="concat",
    )  # fmt: skip
    assert {k: vars(parsed)[k] for k in published} == published


def test_without_cremad_the_demo_set_is_generated_and_said(flags, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(options, "DATA", tmp_path / "data")
    monkeypatch.setattr(demo, "prepare", partial(demo.prepare, actors=1, jobs=1))
    run(flags[4:], "x")  # names neither data set nor its folder
    lines = capsys.readouterr().out.strip().splitlines()
    assert "GENERATED DEMO SET" in lines[0] and "GENERATED DEMO SET" in lines[-1]
    assert json.loads((tmp_path / "x" / "options.json").read_text())["options"]["dataset"] == "demo"
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["demo"]
    shutil.copytree(tmp_path / "data" / "demo", tmp_path / "data" / "cremad")
    assert options.parse([]).dataset == "cremad" and not options.notice([])


# One frame of 28 pixels, of which ResNet-18 leaves one
ONE_PIXEL = ["--encoder", "resnet18", "--image_size", "28", "--frames_per_clip", "1"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--method", "mmparetto"], "no file methods/mmparetto.py; choose from"),
        (["--batch_size", "55"], "--batch_size 55: larger than the training split; at most 54"),
        (["--learning_rate", "nan"], "--learning_rate nan: must be a positive number"),
        (["--gamma", "0"], "--gamma 0.0: must be > 0"),  # of a method
        (["--frames_per_clip", "0"], "--frames_per_clip 0: must be at least 1"),  # of a modality
        (ONE_PIXEL + ["--batch_size", "53"], "leaves a part of one sample of 54, which cannot"),
        (ONE_PIXEL + ["--accumulate", "18"], "leaves a part of one sample of 54, which cannot"),
        (["--gpu_ids", "0,1"], "--gpu_ids 0,1: one process per GPU, so start 2: NPROC=2"),
        (["--resume", "--run_name", "nothing"], "holds no run to continue"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(argv, message, flags, tmp_path):
    with pytest.raises(BadInput, match=re.escape(message)):
        train.main(flags + argv)
    assert not list(tmp_path.iterdir())


def test_the_published_command_line_is_answered_flag_by_flag(flags):
    published = "--train --dataset CREMAD --model MMPareto --n_classes=6 --use_tensorboard"
    with pytest.raises(BadInput) as answer:
        train.main([*published.split(), "--clip_grad", *flags])
    _, *lines = str(answer.value).splitlines()
    answered = [line.strip().split(":")[0] for line in lines]
    assert answered == ["--train", "--model", "--n_classes", "--use_tensorboard", "--clip_grad"]


def test_missing_clips_are_counted_and_damaged_ones_named(demo_root, tmp_path, flags, capsys):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root, ignore=shutil.ignore_patterns("cache"))
    missing, damaged = [
        line.split(",")[0] for line in (root / "train.csv").read_text().splitlines()[:2]
    ]
    (root / "audio" / f"{missing}.pt").unlink()
    run(flags, "x", "--data_root", str(root))
    printed = capsys.readouterr().out
    assert "demo train: 53 of 54 samples found" in printed
    assert f"WARNING: 1 without audio: {missing}" in printed
    (root / "audio" / f"{damaged}.pt").write_bytes(b"half a file")
    with pytest.raises(BadInput, match=f"{damaged}.pt: unreadable"):
        run(flags, "y", "--data_root", str(root), "--cache", "off")


def test_a_run_of_one_modality_is_named_by_it_and_scores_it_alone(flags, tmp_path):
    train.main([*flags, "--modalities", "visual", "--epochs", "1"])
    (folder,) = tmp_path.iterdir()
    assert folder.name == "demo-visual-mmpareto-seed0"
    last = read_jsonl(folder / "metrics.jsonl")[-1]
    assert {k for k in last if "accuracy" in k} == {"test/accuracy/visual"}


def test_runs_repeat_and_do_not_depend_on_workers(flags, tmp_path):
    run(flags, "a", "--epochs", "2")
    run(flags, "b", "--epochs", "2", "--num_workers", "2")
    run(flags, "c", "--epochs", "2", "--random_seed", "1")
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_every_epoch_has_other_batches_and_other_crops(flags, tmp_path):
    """The weights stay, and sound is not augmented: its losses change with the batches only. In one
    batch of all samples those of pictures change with the crops only."""
    start = [*flags, "--learning_rate", "1e-12"]
    run(start, "batches", "--epochs", "2")
    run(start, "crops", "--epochs", "2", "--batch_size", "54")
    for name, branch in (("batches", "audio"), ("crops", "visual")):
        losses = {0: [], 1: []}
        for step in steps_of(tmp_path / name):
            losses[step["epoch"]].append(step[f"loss/{branch}"])
        assert len(losses[0]) == len(losses[1]) > 0
        for first, second in zip(losses[0], losses[1]):
            assert abs(first - second) > 1e-4


def test_a_finished_run_is_neither_overwritten_nor_resumed_differently(flags, tmp_path, capsys):
    run(flags, "x")
    before = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    with pytest.raises(BadInput, match="exists; add --resume to continue it, or choose another"):
        run(flags, "x")
    with pytest.raises(BadInput, match="was begun with --gamma 1.5, not 2.0"):
        run(flags, "x", "--gamma", "2", "--resume")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    capsys.readouterr()
    run(flags, "x", "--resume")
    assert "last epoch" in capsys.readouterr().out
    assert before["last.pt"] == (tmp_path / "x" / "last.pt").read_bytes()


def test_unnamed_runs_are_numbered_on(flags, tmp_path):
    for _ in range(2):
        train.main([*flags, "--epochs", "1"])
    train.main([*flags, "--epochs", "1", "--resume"])
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["demo-mmpareto-seed0", "demo-mmpareto-seed0-2"]


def stop_at(step):
    """Recorder.add_step that interrupts the run after this step."""
    add_step = Recorder.add_step

    def add_and_stop(self, *arguments):
        add_step(self, *arguments)
        if self.step == step:
            self.flush()
            raise KeyboardInterrupt

    return add_and_stop


@pytest.mark.parametrize(
    "step, schedule",
    [(1, ["constant"]), (7, ["step", "--lr_decay_step", "2"]), (7, ["cosine"])],
    ids=["before there is a checkpoint", "in the third epoch", "on a cosine"],
)
def test_a_stopped_run_resumes_to_the_same_bits(step, schedule, flags, tmp_path, monkeypatch):
    argv = ["--epochs", "4", "--val_fraction", "0.2", "--schedule", *schedule]
    run(flags, "whole", *argv)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Recorder, "add_step", stop_at(step))
        run(flags, "stopped", *argv)
    with open(tmp_path / "stopped" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 9, "half a li')  # as a kill in the middle of a write leaves it
    run(flags, "stopped", *argv, "--resume")
    for which in ("last", "best"):
        assert same(weights(tmp_path / "whole", which), weights(tmp_path / "stopped", which))
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "stopped" / name).read_text()


def test_all_samples_of_a_speaker_are_held_out(flags, tmp_path, demo_root, monkeypatch):
    def sentence(sample):  # as if each was said by another speaker: the set has one only
        return sample.split("_")[1]

    monkeypatch.setattr(demo_set.Dataset, "speaker_of", staticmethod(sentence))
    training = [line.split(",")[0] for line in (demo_root / "train.csv").read_text().splitlines()]
    speaker = sentence(training[0])
    run(flags, "x", "--val_speakers", speaker)
    samples = json.loads((tmp_path / "x" / "options.json").read_text())["data"]["samples"]
    held_out = sum(sentence(name) == speaker for name in training)
    assert 0 < held_out < len(training)
    assert samples["val"] == held_out and samples["train"] == len(training) - held_out
    assert "val/accuracy/multimodal" in read_jsonl(tmp_path / "x" / "metrics.jsonl")[0]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--val_speakers", "s77"], r"nobody in the training split is s77; choose from \d"),
        (["--val_speakers", "ALL"], "leaves nobody to train on"),
        (["--val_speakers", "1", "--val_fraction", "0.1"], "both hold out samples; give one"),
    ],
)
def test_speakers_that_cannot_be_held_out_are_named(argv, message, flags, tmp_path, demo_root):
    lines = (demo_root / "train.csv").read_text().splitlines()
    speakers = ",".join({line.split("_")[0] for line in lines})
    with pytest.raises(BadInput, match=message):
        run(flags, "x", *(speakers if word == "ALL" else word for word in argv))
    assert not (tmp_path / "x").exists()


def test_a_random_split_is_one_of_its_seed_with_as_many_samples_of_every_class(demo_root):
    dataset = demo_set.Dataset(demo_root)
    before = dataset.samples("train"), dataset.samples("test")

    def of(seed):
        training, test = split_again(*before, seed)
        for samples, those in zip((training, test), before):
            assert Counter(s.target for s in samples) == Counter(s.target for s in those)
        assert {s.id for s in training} | {s.id for s in test} == {s.id for s in sum(before, [])}
        return [s.id for s in test]

    assert of(3) == of(3) and len({tuple(of(seed)) for seed in range(5)}) == 5
    assert of(3) != [s.id for s in before[1]]


def test_runs_with_another_seed_have_another_random_split(flags, tmp_path):
    def tested(name):
        return [s.id for s in load_run(tmp_path / name, "last", "cpu")[2]["test"].dataset.samples]

    for name, seed in (("a", "0"), ("b", "1"), ("c", "0")):
        run(flags, name, "--random_split", "--random_seed", seed, "--epochs", "1")
    assert tested("a") == tested("c") != tested("b") and len(tested("a")) == len(tested("b"))


def test_a_set_without_speakers_says_so():
    samples = [Sample("0_1", 0)]
    with pytest.raises(BadInput, match="nobody in the training split is s1; avmnist has no speak"):
        split_speakers(avmnist.Dataset, samples, "s1")


def test_ctrl_c_leaves_a_resumable_run(flags, tmp_path):
    argv = [*flags, "--num_workers", "1", "--epochs", "50", "--run_name", "x"]
    process = start(sys.executable, "train.py", *argv)
    wait_for(tmp_path / "x" / "last.pt", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed.strip() == (
        "interrupted; last.pt holds the last complete epoch; continue: --resume --run_name x"
    )
    assert weights(tmp_path / "x")


def test_a_loss_that_is_not_finite_stops_the_run_by_name(flags, tmp_path):
    with pytest.raises(BadInput, match=r"\S+ is (nan|inf) at epoch 0, step \d: the run stops here"):
        run(flags, "x", "--learning_rate", "1e30")
    assert not (tmp_path / "x" / "last.pt").exists()
    assert len(steps_of(tmp_path / "x")) == 3


def test_best_pt_is_chosen_on_validation_where_there_is_one(flags, tmp_path, monkeypatch, capsys):
    accuracies = iter([0.2, 0.5, 0.3, 0.9, 0.8, 0.4])  # of the test and the validation split

    def score(logits, target):
        return metrics.score(logits, target) | {"accuracy/multimodal": next(accuracies)}

    monkeypatch.setattr(train, "score", score)
    run(flags, "x", "--epochs", "3", "--val_fraction", "0.25")
    state = torch.load(tmp_path / "x" / "best.pt", weights_only=True)
    assert state["progress"]["epoch"] == 1 + 1
    printed = capsys.readouterr().out
    assert re.search(r"best on validation +1 +30\.00", printed)
    assert re.search(r"best on test, as published +2 +80\.00", printed)
    scores = tmp_path / "scores.json"
    folder = str(tmp_path / "x")
    evaluate.main([folder, "--split", "val", "--checkpoint", "best", "--json", str(scores)])
    of_best = read_jsonl(tmp_path / "x" / "metrics.jsonl")[1]
    (result,) = json.loads(scores.read_text()).values()
    assert result["scores"]["macro_f1/audio"] == of_best["val/macro_f1/audio"]


def test_the_optimizer_and_the_decay_of_its_rate_are_those_of_the_flags(flags, tmp_path):
    argv = ["--optimizer", "adamw", "--learning_rate", "1e-3"]
    argv += ["--schedule", "step", "--lr_decay_step", "1"]
    run(flags, "x", *argv, "--weight_decay", "0.03", "--epochs", "2")
    state = torch.load(tmp_path / "x" / "last.pt", weights_only=True)["optimizer"]
    (group,) = state["param_groups"]
    assert group["lr"] == pytest.approx(1e-5)  # after two decays by 0.1
    assert group["weight_decay"] == 0.03
    assert "exp_avg" in state["state"][0]


def test_encoders_learn_at_the_rate_that_is_given_for_them(flags, tmp_path):
    """One step without momentum and decay: all that moves differs by the factor of the rate."""
    argv = ["--batch_size", "54", "--method", "uniform", "--momentum", "0", "--weight_decay", "0"]
    run(flags, "start", *argv, "--learning_rate", "1e-12")
    run(flags, "once", *argv)
    run(flags, "scaled", *argv, "--encoder_rate_scale", "audio=4,visual=0.25")
    start, once, scaled = (weights(tmp_path / name) for name in ("start", "once", "scaled"))
    factors = {"encoders.audio": 4, "encoders.visual": 0.25, "heads.audio": 1, "fusion": 1}
    for part, factor in factors.items():
        names = [n for n in start if n.startswith(part) and not n.endswith(("_mean", "_var"))]
        moved, expected = (
            torch.cat([(x[n] - start[n]).flatten() for n in names if x[n].is_floating_point()])
            for x in (scaled, once)
        )
        assert expected.norm() > 0
        assert (moved - factor * expected).norm() < 1e-3 * moved.norm()


@pytest.mark.parametrize("method", ["uniform", "mmpareto"])
def test_the_weight_of_a_unimodal_loss_scales_what_it_brings(method, flags, tmp_path):
    """Losses that weigh nothing leave their head as it was and make the step that of one joint
    loss; what is recorded are the losses themselves."""
    argv = ["--batch_size", "54", "--momentum", "0", "--weight_decay", "0"]
    run(flags, "start", *argv, "--learning_rate", "1e-12")
    run(flags, "joint", *argv, "--method", "joint")
    argv += ["--method", method] + (["--gamma", "1"] if method == "mmpareto" else [])
    for name, weight in {"none": "0", "one": "1", "three": "audio=3"}.items():
        run(flags, name, *argv, "--unimodal_weight", weight)
    names = ("start", "joint", "none", "one", "three")
    start, joint, none, one, three = (weights(tmp_path / name) for name in names)
    for part in start:
        if part.startswith("heads"):
            assert torch.equal(none[part], start[part])
        elif start[part].is_floating_point():
            torch.testing.assert_close(none[part], joint[part])
    head = "heads.audio.weight"
    moved = three[head] - start[head]
    torch.testing.assert_close(moved, 3 * (one[head] - start[head]), rtol=1e-3, atol=1e-7)
    assert torch.equal(three["heads.visual.weight"], one["heads.visual.weight"])
    first, second = (steps_of(tmp_path / name)[0] for name in ("one", "three"))
    assert first["loss/audio"] == second["loss/audio"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--encoder_rate_scale", "audio=2,touch=1"], "touch is no modality of this run; choose"),
        (["--encoder_rate_scale", "audio=0"], "must be a positive number"),
        (["--unimodal_weight", "audio=1,audio=2"], "names a modality twice"),
        (["--unimodal_weight", "audio="], "--unimodal_weight invalid float value"),
        (["--unimodal_weight", "2", "--method", "joint"], "--method joint trains no unimodal"),
        (["--unimodal_weight", "2", "--modalities", "visual"], "one modality has no loss beside"),
        (["--unimodal_weight", "2", "--method", "nash_mtl"], "makes all losses count alike"),
        (["--momentum", "0.5", "--optimizer", "adam"], "--momentum 0.5: is of --optimizer sgd"),
    ],
)
def test_rates_and_weights_of_modalities_are_checked(argv, message, flags):
    with pytest.raises(BadInput, match=message):
        train.main(flags + argv)


def test_a_clipped_gradient_moves_the_weights_by_no_more_than_its_norm(flags, tmp_path):
    """One step of size 1: gradients of norm 1e-3, and the weight decay of 1e-4."""
    run(flags, "x", "--batch_size", "54", "--learning_rate", "1", "--clip_grad", "1e-3")
    run(flags, "start", "--batch_size", "54", "--learning_rate", "1e-12")
    before, after = weights(tmp_path / "start"), weights(tmp_path / "x")
    moved = [
        after[name] - (1 - 1e-4) * before[name]
        for name in before
        if not name.split(".")[-1].startswith(("running", "num"))
    ]
    assert torch.cat([x.flatten() for x in moved]).norm() == pytest.approx(1e-3, rel=0.02)


@pytest.mark.parametrize(
    "argv, tolerance",
    [
        (["--amp", "bf16"], 0.02),
        (["--amp", "fp16"], 0.02),
        (["--no-channels_last"], 1e-4),
        pytest.param(["--compile"], 1e-4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_number_formats_and_layouts_give_the_losses_of_float32(
    argv, tolerance, flags, tmp_path, monkeypatch
):
    """But for rounding; one epoch from the same weights. Compiled without code generation, which
    takes minutes: the same graphs, cut the same way."""
    compiled = partial(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled(self))
    start = [*flags, "--learning_rate", "1e-5", "--val_fraction", "0.2"]
    # fp16 is slow on a CPU; bf16 of PyTorch 2.11 overflows there in pictures of 16 pixels and less
    start += ["--image_size", "8" if "fp16" in argv else "32"]
    run(start, "plain")
    run(start, "x", *argv)
    plain, changed = steps_of(tmp_path / "plain"), steps_of(tmp_path / "x")
    assert len(changed) == len(plain) == 3
    for a, b in zip(changed, plain):
        assert a["loss/multimodal"] == pytest.approx(b["loss/multimodal"], rel=tolerance)
        for key in b:
            if key.startswith("norm/") and key in a:
                assert a[key] == pytest.approx(b[key], rel=10 * tolerance)


def test_recorded_norms_are_divided_by_the_loss_scale_and_nothing_else_is(tmp_path):
    recorder = Recorder(tmp_path, 0, 0, Namespace(amp="fp16", tensorboard=False))
    diagnostics = {"norm/audio": torch.tensor(24.0), "cosine/audio": torch.tensor(0.5)}
    recorder.add_step(0, {"audio": torch.tensor(2.0)}, diagnostics, torch.tensor(8.0))
    recorder.flush()
    (step,) = steps_of(tmp_path)
    assert step == {
        "epoch": 0, "step": 0, "loss/audio": 2.0, "norm/audio": 3.0, "cosine/audio": 0.5
    }  # fmt: skip


@pytest.mark.slow
def test_an_overflow_of_the_loss_scale_skips_the_step(flags, tmp_path, monkeypatch):
    monkeypatch.setattr(
        precision, "scaler", lambda options: torch.amp.GradScaler("cpu", init_scale=2.0**120)
    )
    run(flags, "x", "--image_size", "8", "--amp", "fp16")
    steps = steps_of(tmp_path / "x")
    assert len(steps) == 3
    assert all(set(step) >= {"loss/multimodal", "loss/audio"} for step in steps)
    assert not any(key.startswith("cosine/") for step in steps for key in step)
    scale = torch.load(tmp_path / "x" / "last.pt", weights_only=True)["scaler"]["scale"]
    assert scale == 2.0**117  # halved by every step that was skipped


def test_augmenting_on_the_device_trains_on_the_same_crops(flags, tmp_path):
    losses = {}
    for where in ("loader", "device"):
        run(flags, where, "--augment", where, "--learning_rate", "1e-6")
        losses[where] = [step["loss/visual"] for step in steps_of(tmp_path / where)]
    assert losses["loader"] == pytest.approx(losses["device"], rel=0.01)


def test_macro_f1_counts_every_class_alike():
    """Three of class 0, one of class 1, all taken for class 0: F1 is 6/7 and 0, accuracy 3/4; a
    class that nobody has or predicts does not count."""
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 4)
    scores = metrics.score({"audio": logits}, torch.tensor([0, 0, 0, 1]))
    assert scores == pytest.approx({"accuracy/audio": 3 / 4, "macro_f1/audio": 3 / 7})


def test_evaluate_repeats_the_metrics_and_probes(trained, tmp_path, capsys):
    folder = tmp_path / "x"
    shutil.copytree(trained("joint"), folder)
    capsys.readouterr()
    evaluate.main([str(folder), "--probe", "linear", "--json", str(tmp_path / "scores.json")])
    result = json.loads((tmp_path / "scores.json").read_text())[str(folder)]
    scores, answers = result["scores"], result["answers"]
    last = read_jsonl(folder / "metrics.jsonl")[-1]
    for name in ("accuracy/multimodal", "macro_f1/audio", "accuracy/visual"):
        assert scores[name] == last[f"test/{name}"]
    stored = json.loads((folder / "probe_linear.json").read_text())["scores"]
    assert stored == scores and "accuracy/audio probe" in scores
    printed = capsys.readouterr().out
    assert re.search(r"^ANG +3 .*$", printed, re.M)
    assert (folder / "confusion_test_last.png").is_file()
    # what is told of every sample adds up to what is told of all
    hits = [answer["multimodal"] == answer["target"] for answer in answers.values()]
    assert len(hits) == 18 and sum(hits) / 18 == pytest.approx(scores["accuracy/multimodal"])
    counts, classes = result["confusion"]["audio"], result["classes"]
    (anger,) = [row for name, row in zip(classes, counts) if name == "ANG"]
    heard = [a["audio"] for a in answers.values() if a["target"] == "ANG"]
    assert anger == [heard.count(name) for name in classes]
    share = result["per_class"]["audio"]["ANG"]
    assert share == pytest.approx(heard.count("ANG") / 3)
    with pytest.raises(BadInput, match="--split val: .* held out nothing"):
        evaluate.main([str(folder), "--split", "val"])


def test_tensorboard_tells_the_story_on_one_page(flags, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    run([flag for flag in flags if flag != "--no-tensorboard"], "x", "--epochs", "2")
    events = EventAccumulator(str(tmp_path / "x"))
    events.Reload()
    tags = events.Tags()
    content = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    (page,) = Layout.FromString(content).category
    assert page.title == "MMPareto" and len(page.chart) == 7
    for chart in page.chart:  # every chart shows something, for each encoder or branch
        (pattern,) = chart.multiline.tag
        shown = [tag for tag in tags["scalars"] if re.fullmatch(pattern, tag)]
        assert any("audio" in tag for tag in shown) and any("visual" in tag for tag in shown)
    assert len(events.Scalars("conflict_rate/audio")) == 2  # one an epoch
    cosines = [r["cosine/audio"] for r in steps_of(tmp_path / "x") if r["epoch"] == 1]
    rate = sum(cosine <= 0 for cosine in cosines) / len(cosines)
    assert events.Scalars("conflict_rate/audio")[1].value == pytest.approx(rate)


def test_avmnist_is_learnt_from_real_digits(avmnist_root, tmp_path):
    run(flags_for(avmnist_root, tmp_path, "avmnist"), "x", "--epochs", "3")
    losses = [step["loss/multimodal"] for step in steps_of(tmp_path / "x")]
    assert losses[-1] < 0.8 * losses[0]
