"""The same code on a GPU: equal to the CPU core within 1e-4. Run with `pytest -m gpu`; skipped without a GPU."""

from __future__ import annotations

import pytest
import torch

from tag2mask.config import CRFParams
from tag2mask.crf import dense_crf
from tag2mask.filtering import Lattice
from tag2mask.losses import dense_energy_loss
from tag2mask.torch_lattice import TorchLattice, picture_features
from tag2mask.training.first_step import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


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


def test_crf_of_a_ragged_batch_equals_the_core(case):
    rgb, probs, _, valid = case
    scores = torch.stack([probs, probs.flip(1)], 1)
    present = torch.tensor([[True, False, True, True], [True, True, False, False]])
    on_gpu = dense_crf(rgb.cuda(), scores.cuda(), CRFParams.mining(), valid.cuda(), present.cuda())
    want = dense_crf(rgb, scores, CRFParams.mining(), valid, present)
    torch.testing.assert_close(on_gpu.cpu(), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize("transpose", [False, True])
def test_lattice_equals_the_core_and_is_never_waited_for(case, transpose):
    rgb, probs, _, _ = case
    features = picture_features((64, 80), 20.0, rgb=rgb.cuda(), sigma_rgb=13.0, device=torch.device("cuda"))
    lattice = TorchLattice(features, torch.arange(2, device="cuda").repeat_interleave(64 * 80), 2)
    values = probs.cuda().permute(0, 2, 3, 1).flatten(0, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = lattice.rows(values, transpose=transpose)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    out = out.reshape(2, 64, 80, 4).permute(0, 3, 1, 2).cpu()
    for i in range(2):
        core = Lattice.bilateral(rgb[i], 20.0, 13.0)
        want = core.transpose(probs[i]) if transpose else core.filter(probs[i])
        torch.testing.assert_close(out[i], want, rtol=1e-4, atol=1e-4)


def test_equal_inputs_give_equal_bits(case):
    rgb, probs, labels, valid = (x.cuda() for x in case)
    marginals, slopes = [], []
    torch.use_deterministic_algorithms(True, warn_only=False)  # an operation without a fixed order of sums would raise
    try:
        for _ in range(3):
            marginals.append(dense_crf(rgb, probs, CRFParams.mining(), valid))
            leaf = probs.clone().requires_grad_()
            dense_energy_loss(rgb, leaf, labels, valid, gradient="exact").backward()
            slopes.append(leaf.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    for results in (marginals, slopes):
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_exact_gradient_passes_gradcheck_on_the_gpu(case):
    rgb, probs, _, valid = (x[..., :6, :8].contiguous().cuda() for x in case)
    unlabeled = torch.full((2, 6, 8), 255, device="cuda")

    def energy(p):
        return dense_energy_loss(rgb, p, unlabeled, valid, 15.0, 6.0, scale=1.0, weight=0.1, gradient="exact")

    assert torch.autograd.gradcheck(energy, probs.double().requires_grad_())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_trains_on_the_gpu(tiny_config, precision):
    run = train(tiny_config.replace(device="cuda", precision=precision))
    assert (run / "model.safetensors").is_file()
    assert (run / "report.html").is_file()
