"""The step and a run on a GPU; skipped where there is none."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import train
from methods.mmpareto import integrate, mmpareto_backward
from models.multimodal import MultimodalModel
from utils.record import read_jsonl

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
    expected, _ = integrate(gradients, 1.5, rescale)
    result, _ = integrate([[g.cuda() for g in gs] for gs in gradients], 1.5, rescale)
    for a, b in zip(result, expected):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("modalities", [("audio", "visual"), ("audio", "visual", "flow")])
def test_the_step_never_waits_for_the_device(modalities):
    model = MultimodalModel(dict.fromkeys(modalities, 1), 4).cuda()
    inputs = {m: torch.randn(4, 1, 64, 64, device="cuda") for m in modalities}
    target = torch.randint(4, (4,), device="cuda")
    for check in (False, True):  # the first round warms up libraries that do wait once
        logits, _ = model(inputs)
        losses = {name: cross_entropy(x, target) for name, x in logits.items()}
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if check else "default")
        try:
            mmpareto_backward(losses, model.encoder_parameters(), check_finite=False)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_a_run_on_the_gpu(demo_root, tmp_path):
    argv = ["--dataset", "demo", "--data_root", str(demo_root), "--ckpt_path", str(tmp_path)]
    train.main([*argv, "--epochs", "1", "--device", "cuda", "--image_size", "32"])
    assert len(read_jsonl(tmp_path / "demo-mmpareto-seed0" / "metrics.jsonl")) == 1
