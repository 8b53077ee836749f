"""The step, the data path and runs on a GPU; skipped where there is none."""

import json

import pytest
import torch
from commands import flags_for, run
from steps import build_method, build_model, forward, load_method, start, take_step

import benchmark
from dataset.modalities.frames import crop_resize_flip
from utils import registry
from utils.run_folder import read_jsonl

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: not tested here")
NEVER_WAIT = [
    name for name in registry.names("methods") if "waits_for_device" not in load_method(name).needs
]


@pytest.mark.parametrize("name", NEVER_WAIT)
def test_the_step_never_waits_for_the_device(name):
    model, method = build_model(name, ("audio", "visual", "flow")).cuda(), build_method(name)
    start(method, model)
    for mode in ("default", "error"):  # the first round warms up libraries that do wait once
        batch = forward(model)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
        try:
            take_step(method, model, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", sorted({*registry.names("methods")} - {"ogm_ge"}))  # draws noise
def test_the_step_of_every_method_is_that_of_the_cpu(name):
    gradients = {}
    for device in ("cpu", "cuda"):
        model, method = build_model(name).double().to(device), build_method(name)
        start(method, model)
        take_step(method, model, forward(model))
        gradients[device] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert gradients["cpu"].keys() == gradients["cuda"].keys()
    for parameter, gradient in gradients["cpu"].items():
        torch.testing.assert_close(
            gradients["cuda"][parameter].cpu(), gradient, rtol=1e-6, atol=1e-8
        )


def test_crops_on_the_device_are_those_of_the_cpu():
    clips = torch.randint(256, (2, 2, 3, 36, 48), dtype=torch.uint8)
    boxes = torch.tensor([[[0, 0, 36, 48, 0], [3, 5, 20, 30, 1]]]).expand(2, 2, 5)
    on_device = crop_resize_flip(clips.cuda(), boxes.cuda(), 24).cpu()
    torch.testing.assert_close(on_device, crop_resize_flip(clips, boxes, 24), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "argv",
    [
        ["--augment", "device", "--amp", "bf16"],
        ["--amp", "fp16", "--accumulate", "2"],
        ["--tf32", "--no-channels_last"],
        ["--compile"],
    ],
    ids=" ".join,
)
def test_a_run_on_the_gpu(argv, demo_root, tmp_path):
    flags = [*flags_for(demo_root, tmp_path), "--encoder", "resnet18", "--image_size", "48"]
    run(flags, "x", "--device", "cuda", *argv)
    assert len(read_jsonl(tmp_path / "x" / "metrics.jsonl")) == 1


def test_memory_stays_within_one_and_a_half_copies(tmp_path):
    output = tmp_path / "measured.json"
    argv = ["--only", "memory", "--batch_size", "16", "--device", "cuda", "--json", str(output)]
    benchmark.main(argv)
    measured = json.loads(output.read_text())
    beyond = measured["memory.mmpareto"] - measured["memory.uniform"]
    assert beyond <= 1.5 * measured["memory.encoder_gradients"]
