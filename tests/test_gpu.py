"""The same code on a GPU: equal to the CPU core within 1e-4. Run with `pytest -m gpu`; skipped without a GPU."""

from __future__ import annotations

import pytest
import torch

from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf
from tag2mask.losses import dense_energy_loss
from tag2mask.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=generator), (64, 80), mode="bicubic")
    rgb = (smooth.clamp(0, 1) * 255).to(torch.uint8)
    probs = torch.randn(2, 4, 64, 80, generator=generator).softmax(1)
    labels = torch.randint(0, 4, (2, 64, 80), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.5] = 255
    valid = torch.ones(2, 64, 80, dtype=torch.bool)
    valid[1, :, 60:] = False
    return rgb, probs, labels, valid


@pytest.mark.parametrize("params", [CRFParams.mining(), CRFParams.inference()])
def test_crf_equals_the_core(case, params):
    rgb, probs, _, valid = case
    on_gpu = dense_crf(rgb.cuda(), probs.cuda(), params, valid.cuda())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), dense_crf(rgb, probs, params, valid), atol=1e-4, rtol=0)


@pytest.mark.parametrize("gradient", ["surrogate", "exact"])
def test_energy_equals_the_core(case, gradient):
    rgb, probs, labels, valid = case
    results = []
    for device in ("cpu", "cuda"):
        leaf = probs.to(device).requires_grad_()
        loss = dense_energy_loss(rgb.to(device), leaf, labels.to(device), valid.to(device), gradient=gradient)
        loss.backward()
        results.append((loss.item(), leaf.grad.cpu()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-4)
    assert (results[1][1] - results[0][1]).norm() <= 1e-4 * results[0][1].norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_on_the_gpu(tiny_config, precision):
    run = train(tiny_config.replace(device="cuda", precision=precision))
    assert (run / "model.safetensors").is_file()
    assert (run / "report.html").is_file()
