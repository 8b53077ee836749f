"""The real command lines: scripts, training, resuming, evaluating, reporting, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import evaluate
import train
from training import options
from utils.errors import BadInput
from utils.run_folder import read_jsonl

CODE = Path(__file__).resolve().parents[1]
QUICK = ["--encoder", "cnn", "--image_size", "32", "--batch_size", "18"]
QUICK += ["--num_workers", "0", "--no-tensorboard"]


@pytest.fixture
def flags(demo_root, tmp_path):
    """A command line on the small demo set: a run takes a second."""
    where = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    return [*where, *QUICK]


def shell(*command, **environment):
    """A command inside code/, with the interpreter that runs the tests as the active python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path} | environment
    return subprocess.run(command, cwd=CODE, env=env, capture_output=True, text=True)


def weights(folder, which="last"):
    return torch.load(folder / f"{which}.pt", weights_only=True)["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("script", ["mmpareto", "uniform_baseline", "one_joint_loss", "pareto"])
def test_scripts_train_evaluate_and_summarise(script, flags, tmp_path):
    encoder = "resnet18" if script == "mmpareto" else "cnn"
    argv = [*flags, "--encoder", encoder, "--epochs", "1", "--run_name", "x"]
    done = shell("sh", f"script/{script}.sh", *argv)
    assert done.returncode == 0, done.stderr
    assert "demo train: 54 of 54 samples found" in done.stdout
    assert re.search(r"epoch 0: test accuracy % multimodal \d+\.\d \| audio", done.stdout)
    assert re.search(r"best on test, as published +0 +\d+\.\d\d \(\d+\.\d\d\)", done.stdout)
    assert ("--probe linear" in done.stdout) == (script == "one_joint_loss")
    assert "\r" not in done.stdout + done.stderr  # no bars in a log file
    files = {"options.json", "metrics.jsonl", "steps.jsonl", "last.pt", "best.pt", "overview.png"}
    assert files <= {p.name for p in (tmp_path / "x").iterdir()}
    assert len(read_jsonl(tmp_path / "x" / "steps.jsonl")) == 3


def test_the_published_defaults():
    opt = options.parse(["--dataset", "cremad"])
    published = dict(
        batch_size=64, epochs=50, optimizer="sgd", learning_rate=0.002, lr_decay_step=0,
        random_seed=0, gamma=1.5, rescale="tensor", image_size=224, frames_per_clip=2,
        val_fraction=0, clip_grad=0, modalities=["audio", "visual"], method="mmpareto",
        encoder="resnet18", fusion="concat",
    )  # fmt: skip
    assert {k: getattr(opt, k) for k in published} == published


def test_without_cremad_the_demo_set_is_used_and_said(monkeypatch, demo_root, tmp_path, capsys):
    monkeypatch.setattr(options, "DATA", tmp_path / "data")
    shutil.copytree(demo_root, tmp_path / "data" / "demo")
    train.main(["--ckpt_path", str(tmp_path), "--epochs", "1", "--run_name", "x", *QUICK])
    lines = capsys.readouterr().out.strip().splitlines()
    assert "GENERATED DEMO SET" in lines[0] and "GENERATED DEMO SET" in lines[-1]
    assert json.loads((tmp_path / "x" / "options.json").read_text())["options"]["dataset"] == "demo"
    # once CREMA-D is there, it is taken
    shutil.copytree(demo_root, tmp_path / "data" / "cremad")
    opt = options.parse([])
    assert opt.dataset == "cremad" and not options.notice([]) and opt.epochs == 50


def test_the_demo_set_generates_itself(monkeypatch, tmp_path):
    from dataset.prepare import demo

    monkeypatch.setattr(demo, "ACTORS", 1)
    opt = options.parse(["--dataset", "demo", "--data_root", str(tmp_path / "d" / "demo")])
    monkeypatch.setattr(demo.prepare, "__defaults__", (0, 1, 1))
    from dataset.demo import Dataset

    assert len(Dataset(opt.data_root).samples("train")) == 54
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["demo"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ["--method", "mmparetto"],
            "--method mmparetto: no file methods/mmparetto.py; choose from",
        ),
        (["--dataset", "cremadd"], "--dataset cremadd: no file dataset/cremadd.py; choose from"),
        (["--encoder", "resnet19"], "--encoder resnet19: no file models/encoders/resnet19.py"),
        (["--fusion", "add"], "--fusion add: no file models/fusion/add.py"),
        (["--modalities", "audio,smell"], "--modalities audio,smell: choose from audio,visual"),
        (["--modalities", "audio,audio"], "each at most once"),
        (["--modalities", ","], "--modalities"),
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
        (["--epochs", "0"], "--epochs 0: must be at least 1"),
        (["--learning_rate", "-1"], "--learning_rate -1.0: must be a positive number"),
        (["--learning_rate", "nan"], "--learning_rate nan"),
        (["--lr_decay_ratio", "0"], "--lr_decay_ratio 0.0"),
        (["--val_fraction", "1"], "--val_fraction 1.0: must be at least 0 and below 1"),
        (["--val_fraction", "0.001"], "leaves no validation sample"),
        (["--clip_grad", "-1"], "--clip_grad -1.0: must be at least 0"),
        (["--gamma", "0"], "--gamma 0.0: must be > 0"),
        (["--method", "uniform", "--encoder_grad_scale", "0"], "--encoder_grad_scale 0.0"),
        (["--image_size", "0"], "--image_size 0: must be at least 1"),
        (["--frames_per_clip", "0"], "--frames_per_clip 0: must be at least 1"),
        (["--random_seed", "-1"], "--random_seed -1"),
        (["--num_workers", "-1"], "--num_workers -1"),
        (["--gpu_ids", "0,1"], "--gpu_ids 0,1: one process per GPU, so start 2: NPROC=2"),
        (["--gpu_ids", "a"], "--gpu_ids a: give numbers of GPUs"),
        (["--batch_size", "55"], "--batch_size 55: larger than the training split; at most 54"),
        (["--accumulate", "0"], "--accumulate 0: must be at least 1"),
        (["--tf32"], "--tf32: needs --device cuda, this run is on cpu"),
        (["--sync_batchnorm"], "--sync_batchnorm: needs --device cuda"),
        (["--cache_pixels", "-1"], "--cache_pixels -1: must be at least 0"),
        (["--augment", "device", "--cache", "off"], "--augment device: needs the cache"),
        (["--cache_dir", "/dev/null/x"], "--cache_dir /dev/null/x: cannot hold the cache"),
        (["--gpu_ids", "0", "--device", "cpu"], "means nothing with --device cpu"),
        (["--run_name", "../x"], "--run_name ../x: must be a plain folder name"),
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
    options.answer_published_flags(["--clip_grad", "40", "--dataset", "CREMAD"])  # means something
    assert options.dataset_name("CREMAD") == "cremad"
    assert options.dataset_name("KineticSound") == "kinetics_sounds"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("argv", [["--device", "cuda"], ["--gpu_ids", "0"]])
def test_an_absent_gpu_is_an_error(argv, flags):
    with pytest.raises(BadInput, match="--device cuda: not available here; use --device cpu"):
        train.main(flags + argv)


@pytest.mark.parametrize(
    "argv",
    [["--method", "uniform", "--gamma", "2"], ["--modalities", "audio", "--frames_per_clip", "2"]],
)
def test_a_flag_that_would_do_nothing_is_refused(argv, flags):
    quick = [f for f in flags if argv[0] == "--method" or f not in ("--image_size", "32")]
    with pytest.raises(BadInput, match=f"{argv[-2]}: no flag of this run; choose from --accum"):
        train.main(quick + argv)


def test_bad_input_on_the_command_line_is_one_line_and_status_2(flags):
    done = shell("sh", "script/mmpareto.sh", *flags, "--gamma", "-1")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --gamma -1.0: must be > 0"


def test_cremad_without_its_data_prints_the_prepare_command(tmp_path):
    argv = [
        "--dataset",
        "cremad",
        "--data_root",
        str(tmp_path / "none"),
        "--ckpt_path",
        str(tmp_path),
    ]
    with pytest.raises(BadInput, match="Prepare it with: sh script/prepare.sh cremad"):
        train.main(argv)


def test_missing_clips_are_counted_aloud(demo_root, tmp_path, flags, capsys):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root)
    clip = (root / "train.csv").read_text().split(",")[0]
    (root / "audio" / f"{clip}.pt").unlink()
    train.main([*flags, "--data_root", str(root), "--epochs", "1", "--run_name", "x"])
    printed = capsys.readouterr().out
    assert "demo train: 53 of 54 samples found" in printed
    assert f"WARNING: 1 without audio: {clip}" in printed
    shutil.rmtree(root / "visual")
    with pytest.raises(BadInput, match="no train sample is there"):
        train.main([*flags, "--data_root", str(root), "--run_name", "y"])


def test_a_damaged_prepared_file_is_named(demo_root, tmp_path, flags):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root)
    clip = (root / "train.csv").read_text().split(",")[0]
    (root / "audio" / f"{clip}.pt").write_bytes(b"half a file")
    argv = [*flags, "--data_root", str(root), "--epochs", "1", "--run_name", "x"]
    with pytest.raises(BadInput, match=f"{clip}.pt: unreadable"):
        train.main(argv)


@pytest.mark.parametrize("method", ["mmpareto", "joint"])
def test_one_modality_trains_the_unimodal_baseline(method, flags, tmp_path):
    train.main([*flags, "--modalities", "visual", "--method", method, "--epochs", "1"])
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"demo-visual-{method}-seed0"
    last = read_jsonl(folder / "metrics.jsonl")[-1]
    assert {k for k in last if "accuracy" in k} == {"test/accuracy/visual"}


def test_runs_repeat_and_do_not_depend_on_workers(flags, tmp_path):
    train.main([*flags, "--epochs", "2", "--run_name", "a"])
    train.main([*flags, "--epochs", "2", "--run_name", "b", "--num_workers", "2"])
    train.main([*flags, "--epochs", "1", "--run_name", "c", "--random_seed", "1"])
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("kill_at_step", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_kill_and_resume_is_bitwise_the_same(kill_at_step, flags, tmp_path):
    """Killed in the first epoch (before any checkpoint) and in the third."""
    argv = [*flags, "--epochs", "4", "--lr_decay_step", "2", "--val_fraction", "0.2"]
    train.main([*argv, "--run_name", "whole"])
    killer = (
        "import os, signal, train\n"
        "from training.record import Recorder\n"
        "add = Recorder.add_step\n"
        "def add_step(self, *args):\n"
        "    add(self, *args)\n"
        f"    if self.step == {kill_at_step}: self.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Recorder.add_step = add_step\n"
        f"train.main({[*argv, '--run_name', 'cut']!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", killer], cwd=CODE, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 9, "half a li')  # as a kill in the middle of a write leaves it
    train.main([*argv, "--run_name", "cut", "--resume"])
    for which in ("last", "best"):
        assert same(weights(tmp_path / "whole", which), weights(tmp_path / "cut", which))
    for name in ("steps.jsonl", "metrics.jsonl"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()


def test_runs_are_neither_overwritten_nor_resumed_differently(flags, tmp_path, capsys):
    train.main([*flags, "--epochs", "1", "--run_name", "x"])
    before = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    with pytest.raises(
        BadInput, match="exists; add --resume to continue it, or choose another name"
    ):
        train.main([*flags, "--epochs", "1", "--run_name", "x"])
    with pytest.raises(BadInput, match="was begun with --gamma 1.5, not 2.0"):
        train.main([*flags, "--epochs", "1", "--run_name", "x", "--gamma", "2", "--resume"])
    with pytest.raises(BadInput, match="was begun with --method mmpareto, not joint"):
        train.main([*flags, "--epochs", "1", "--run_name", "x", "--method", "joint", "--resume"])
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    capsys.readouterr()
    train.main([*flags, "--epochs", "1", "--run_name", "x", "--resume"])  # it is finished
    assert "last epoch" in capsys.readouterr().out
    assert before["last.pt"] == (tmp_path / "x" / "last.pt").read_bytes()


def test_unnamed_runs_are_numbered_on(flags, tmp_path):
    for _ in range(2):
        train.main([*flags, "--epochs", "1"])
    train.main([*flags, "--epochs", "1", "--resume"])
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["demo-mmpareto-seed0", "demo-mmpareto-seed0-2"]


def test_a_loss_that_is_not_finite_stops_the_run_by_name(flags, tmp_path):
    with pytest.raises(BadInput, match=r"\S+ is (nan|inf) at epoch 0, step \d: the run stops here"):
        train.main([*flags, "--epochs", "1", "--learning_rate", "1e30", "--run_name", "x"])
    assert not (tmp_path / "x" / "last.pt").exists()
    assert len(read_jsonl(tmp_path / "x" / "steps.jsonl")) == 3


def test_ctrl_c_leaves_a_resumable_run(flags, tmp_path):
    argv = [*flags, "--num_workers", "1", "--epochs", "50", "--run_name", "x"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *argv],
        cwd=CODE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # the suite itself may have been started with Ctrl-C ignored, as shells do behind an `&`
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "x" / "last.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        printed.strip()
        == "interrupted; last.pt holds the last complete epoch; continue: --resume --run_name x"
    )
    assert "model" in torch.load(tmp_path / "x" / "last.pt", weights_only=True)


def test_validation_chooses_the_best(flags, tmp_path, capsys):
    train.main([*flags, "--epochs", "3", "--val_fraction", "0.25", "--run_name", "x"])
    records = read_jsonl(tmp_path / "x" / "metrics.jsonl")
    best = max(records, key=lambda r: r["val/accuracy/multimodal"])
    state = torch.load(tmp_path / "x" / "best.pt", weights_only=True)
    assert state["progress"]["epoch"] == best["epoch"] + 1
    printed = capsys.readouterr().out
    assert re.search(rf"best on validation +{best['epoch']} ", printed)
    evaluate.main([str(tmp_path / "x"), "--split", "val", "--checkpoint", "best"])
    assert f"{100 * best['val/accuracy/multimodal']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_rates_and_clipping(optimizer, flags, tmp_path):
    argv = [*flags, "--optimizer", optimizer, "--learning_rate", "1e-3", "--lr_decay_step", "1"]
    argv += ["--epochs", "2", "--clip_grad", "1.0", "--rescale", "encoder", "--run_name", "x"]
    argv += ["--weight_decay", "0.03"]
    train.main(argv)
    state = torch.load(tmp_path / "x" / "last.pt", weights_only=True)
    (group,) = state["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(1e-5) and group["weight_decay"] == 0.03


@pytest.mark.parametrize(
    "argv, tolerance",
    [
        (["--amp", "bf16"], 0.02),
        pytest.param(["--amp", "fp16"], 0.02, marks=pytest.mark.slow),
        (["--no-channels_last"], 1e-4),
    ],
    ids=str,
)
def test_number_formats_and_layouts_give_the_losses_of_float32(argv, tolerance, flags, tmp_path):
    """But for rounding; one epoch from the same weights."""
    start = [*flags, "--epochs", "1", "--learning_rate", "1e-5", "--val_fraction", "0.2"]
    # fp16 is slow on a CPU; bf16 of PyTorch 2.11 overflows there in pictures of 16 pixels and less
    start += ["--image_size", "8" if "fp16" in argv else "32"]
    train.main([*start, "--run_name", "plain"])
    train.main([*start, "--run_name", "x", *argv])
    plain, changed = (read_jsonl(tmp_path / name / "steps.jsonl") for name in ("plain", "x"))
    assert len(changed) == len(plain) == 3
    for a, b in zip(changed, plain):
        assert a["loss/multimodal"] == pytest.approx(b["loss/multimodal"], rel=tolerance)
        for key in b:
            if key.startswith("norm/") and key in a:
                assert a[key] == pytest.approx(b[key], rel=10 * tolerance)  # not times a loss scale
    evaluate.main([str(tmp_path / "x")])


@pytest.mark.parametrize("method", ["mmpareto", "joint"])
def test_a_batch_in_parts_takes_the_step_of_the_whole_batch(method, flags, tmp_path, monkeypatch):
    """Without batch normalisation, which sees the parts. The last batch is 2 of 54 samples, fewer
    than there are parts."""
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: x)
    start = [*flags, "--epochs", "1", "--batch_size", "26", "--method", method]
    train.main([*start, "--run_name", "whole"])
    train.main([*start, "--run_name", "parts", "--accumulate", "3"])
    whole, parts = (read_jsonl(tmp_path / name / "steps.jsonl") for name in ("whole", "parts"))
    assert len(whole) == 3
    for a, b in zip(parts, whole):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_an_overflow_of_the_loss_scale_skips_the_step(flags, tmp_path, monkeypatch):
    from training import precision

    monkeypatch.setattr(
        precision, "scaler", lambda opt: torch.amp.GradScaler("cpu", init_scale=2.0**120)
    )
    small = ["--image_size", "8", "--modalities", "audio,visual", "--amp", "fp16"]
    train.main([*flags, *small, "--epochs", "1", "--run_name", "x"])
    steps = read_jsonl(tmp_path / "x" / "steps.jsonl")
    assert len(steps) == 3
    assert all(set(step) >= {"loss/multimodal", "loss/audio"} for step in steps)
    assert not any(key.startswith("cosine/") for step in steps for key in step)
    scale = torch.load(tmp_path / "x" / "last.pt", weights_only=True)["scaler"]["scale"]
    assert scale == 2.0**117  # halved by every step that was skipped


@pytest.mark.slow
def test_compiled_encoders_train_alike(flags, tmp_path, monkeypatch):
    """Compiled without code generation, which takes minutes: the same graphs, cut the same way."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compile_module(self, backend="aot_eager")
    )
    start = [*flags, "--epochs", "1", "--learning_rate", "1e-5"]
    train.main([*start, "--run_name", "plain"])
    train.main([*start, "--run_name", "x", "--compile"])
    for a, b in zip(*(read_jsonl(tmp_path / name / "steps.jsonl") for name in ("plain", "x"))):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-3)
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "x").keys()


def test_a_format_that_the_device_cannot_do_is_an_error(flags, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("not implemented for Half")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    with pytest.raises(BadInput, match="--amp fp16: this cpu cannot; use --amp off"):
        options.parse([*flags, "--amp", "fp16"])


def test_the_cache_changes_no_result_and_can_be_left_out(avmnist_root, tmp_path):
    start = ["--dataset", "avmnist", "--data_root", str(avmnist_root), "--ckpt_path", str(tmp_path)]
    start += ["--epochs", "1", "--batch_size", "20", "--num_workers", "0", "--no-tensorboard"]
    train.main([*start, "--run_name", "off", "--cache", "off"])
    train.main([*start, "--run_name", "on", "--cache_dir", str(tmp_path / "cache")])
    assert same(weights(tmp_path / "off"), weights(tmp_path / "on"))


def test_a_part_that_cannot_be_normalised_is_an_error_at_the_start(avmnist_root, tmp_path):
    """60 samples of 28 pixels: the last of the epoch would be alone."""
    start = ["--dataset", "avmnist", "--data_root", str(avmnist_root), "--ckpt_path", str(tmp_path)]
    start += ["--num_workers", "0", "--run_name", "x"]
    for argv in (["--batch_size", "59"], ["--batch_size", "1"], ["--accumulate", "60"]):
        with pytest.raises(BadInput, match="leaves a part of one sample of 60, which cannot be"):
            train.main([*start, "--batch_size", "60", *argv])
    assert not (tmp_path / "x").exists()


def test_augmenting_on_the_device_trains_on_the_same_crops(flags, tmp_path):
    losses = {}
    for where in ("loader", "device"):
        run = ["--epochs", "1", "--run_name", where, "--augment", where]
        train.main([*flags, *run, "--learning_rate", "1e-6"])
        steps = read_jsonl(tmp_path / where / "steps.jsonl")
        losses[where] = [step["loss/visual"] for step in steps]
    assert losses["loader"] == pytest.approx(losses["device"], rel=0.01)


def test_evaluate_repeats_the_metrics_and_probes(flags, tmp_path, capsys):
    folder = tmp_path / "x"
    train.main([*flags, "--epochs", "2", "--method", "joint", "--run_name", "x"])
    evaluate.main([str(folder), "--probe", "linear", "--json", str(tmp_path / "scores.json")])
    scores = json.loads((tmp_path / "scores.json").read_text())
    last = read_jsonl(folder / "metrics.jsonl")[-1]
    for name in ("accuracy/multimodal", "macro_f1/audio", "accuracy/visual"):
        assert scores[name] == last[f"test/{name}"]
    stored = json.loads((folder / "probe_linear.json").read_text())["scores"]
    assert stored == scores and "accuracy/audio probe" in scores
    printed = capsys.readouterr().out
    assert "accuracy per class" in printed and "confusion, multimodal" in printed
    row = re.search(r"^ANG +3 .*$", printed, re.M)
    assert row, printed
    with pytest.raises(BadInput, match="--split val: this run held out nothing"):
        evaluate.main([str(folder), "--split", "val"])
    with pytest.raises(BadInput, match="no run folder"):
        evaluate.main([str(tmp_path / "nowhere")])


def test_tensorboard_tells_the_story_on_one_page(flags, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    argv = [flag for flag in flags if flag != "--no-tensorboard"]
    train.main([*argv, "--epochs", "2", "--run_name", "x"])
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
    steps = read_jsonl(tmp_path / "x" / "steps.jsonl")
    cosines = [r["cosine/audio"] for r in steps if r["epoch"] == 1]
    rate = sum(cosine <= 0 for cosine in cosines) / len(cosines)
    assert events.Scalars("conflict_rate/audio")[1].value == pytest.approx(rate)
    times = read_jsonl(tmp_path / "x" / "times.jsonl")
    assert [r["epoch"] for r in times] == [0, 1] and all(r["seconds"] > 0 for r in times)


def test_avmnist_trains_on_real_digits(avmnist_root, tmp_path):
    argv = ["--dataset", "avmnist", "--data_root", str(avmnist_root), "--ckpt_path", str(tmp_path)]
    train.main([*argv, "--epochs", "2", "--num_workers", "0", "--batch_size", "20"])
    steps = read_jsonl(tmp_path / "avmnist-mmpareto-seed0" / "steps.jsonl")
    assert steps[-1]["loss/multimodal"] < 0.8 * steps[0]["loss/multimodal"]
    assert (tmp_path / "avmnist-mmpareto-seed0" / "overview.png").is_file()
    assert list((tmp_path / "avmnist-mmpareto-seed0").glob("events*"))


def test_help_names_defaults_and_the_methods_own_flags():
    done = shell(sys.executable, "train.py", "--help", "--method", "uniform")
    assert done.returncode == 0
    assert "--encoder_grad_scale" in done.stdout and "--gamma" not in done.stdout
    assert "(default: 0.002)" in done.stdout or "(default: 0.01)" in done.stdout
