"""The step, the data path and runs on a GPU; skipped where there is none."""

import json

import pytest
import torch
from steps import build_method, build_model, forward, start, take_step

import benchmark
import train
from dataset.modalities.frames import crop_resize_flip
from mmpareto import integrate
from utils import registry
from utils.run_folder import read_jsonl

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: not tested here")


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("rescale", ["tensor", "encoder"])
def test_equal_to_the_cpu(n, rescale):
    generator = torch.Generator().manual_seed(0)
    gradients = [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in [(64, 32), (64,)]]
        for _ in range(n)
    ]
    gradients[1] = [b - a for a, b in zip(gradients[0], gradients[1])]
    on_gpu = [[g.cuda() for g in gs] for gs in gradients]
    integrate(gradients, 1.5, rescale)
    integrate(on_gpu, 1.5, rescale)
    for a, b in zip(on_gpu[0], gradients[0]):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
@pytest.mark.parametrize("name", registry.names("methods"))
def test_the_step_never_waits_for_the_device(name, modalities):
    model, method = build_model(name, modalities).cuda(), build_method(name)
    start(method, model)
    for check in (False, True):  # the first round warms up libraries that do wait once
        given = forward(model)
        torch.cuda.synchronize()
        strict = check and "waits_for_device" not in method.needs
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
        try:
            take_step(method, model, given)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", registry.names("methods"))
def test_the_step_of_every_method_is_that_of_the_cpu(name):
    found = {}
    for device in ("cpu", "cuda"):
        model, method = build_model(name).double().to(device), build_method(name)
        start(method, model)
        take_step(method, model, forward(model))
        found[device] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert found["cpu"].keys() == found["cuda"].keys()
    noisy = name == "ogm_ge"  # every device draws its own noise
    for parameter, gradient in found["cpu"].items():
        other = found["cuda"][parameter].cpu()
        if noisy:
            torch.testing.assert_close(other.norm(), gradient.norm(), rtol=0.2, atol=1e-6)
        else:
            torch.testing.assert_close(other, gradient, rtol=1e-6, atol=1e-8)


def test_crops_on_the_device_are_those_of_the_cpu():
    clips = torch.randint(256, (2, 2, 3, 36, 48), dtype=torch.uint8)
    boxes = torch.tensor([[[0, 0, 36, 48, 0], [3, 5, 20, 30, 1]]]).expand(2, 2, 5)
    on_device = crop_resize_flip(clips.cuda(), boxes.cuda(), 24).cpu()
    torch.testing.assert_close(on_device, crop_resize_flip(clips, boxes, 24), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--augment", "device"],
        ["--amp", "bf16"],
        ["--amp", "fp16", "--accumulate", "2"],
        ["--tf32", "--no-channels_last"],
        ["--compile"],
    ],
    ids=" ".join,
)
def test_a_run_on_the_gpu(argv, demo_root, tmp_path):
    start = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    start += ["--batch_size", "18", "--epochs", "1", "--device", "cuda", "--image_size", "48"]
    train.main([*start, *argv])
    assert len(read_jsonl(tmp_path / "demo-mmpareto-seed0" / "metrics.jsonl")) == 1


def test_memory_stays_within_one_and_a_half_copies(tmp_path):
    args = ["--only", "memory", "--batch_size", "16", "--device", "cuda", "--json"]
    benchmark.main([*args, str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    beyond = found["memory.mmpareto"] - found["memory.uniform"]
    assert beyond <= 1.5 * found["memory.encoder_gradients"]
