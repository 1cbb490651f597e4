from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import exact
import numpy as np
import pytest
import torch

from tag2mask.filtering import Lattice, load_core
from tag2mask.losses import (
    balanced_cross_entropy,
    class_distance_loss,
    cross_entropy,
    dense_energy_loss,
    dice_cross_entropy,
    tag_loss,
)

GOLDEN = Path(__file__).parent / "golden"
needs_core = pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
BACKENDS = [pytest.param("core", marks=needs_core), "torch"]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def energy_case(batch: int = 2, classes: int = 3, size: int = 12, dtype: torch.dtype = torch.float32):
    rgb = (random(batch, 3, size, size) * 60 + 60).to(torch.uint8)
    probs = (3 * random(batch, classes, size, size, seed=1, dtype=dtype)).softmax(1)
    labels = torch.where(random(batch, size, size, seed=2) < 0.5, 255, 1)
    valid = torch.ones(batch, size, size, dtype=torch.bool)
    valid[-1, : size // 3] = False
    return rgb, probs, labels, valid


# -------------------------------------------------------------------------------------------------- tags


def test_tag_loss_by_hand() -> None:
    logits, tags = torch.tensor([[0.5, -2.0], [3.0, 0.0]]), torch.tensor([[True, False], [False, True]])
    terms = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(-2.0)), math.log1p(math.exp(3.0)), math.log(2)]
    assert float(tag_loss(logits, tags)) == pytest.approx(sum(terms) / 4, rel=1e-6)


def test_a_picture_without_tags_still_teaches() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    tag_loss(logits, torch.zeros(1, 3, dtype=torch.bool)).backward()
    torch.testing.assert_close(logits.grad, torch.full((1, 3), 0.5 / 3))


# ----------------------------------------------------------------------------------------- cross entropy


def test_dice_cross_entropy_counts_each_label_of_the_batch_alike() -> None:
    logits, labels = random(2, 4, 6, 6), torch.zeros(2, 6, 6, dtype=torch.int64)
    labels[0, 2, 3], labels[1, :, :3], labels[1, 0] = 1, 3, 255  # one pixel of 1, none of 2, many of 3
    losses, given = [], labels != 255
    for label in (0, 1, 3):
        drawn, true = logits.softmax(1)[:, label][given], (labels == label)[given].float()
        losses.append(1 - 2 * (drawn * true).sum() / (drawn.sum() + true.sum()))
    dice = torch.stack(losses).mean()
    torch.testing.assert_close(dice_cross_entropy(logits, labels), cross_entropy(logits, labels) + dice)


def test_dice_cross_entropy_punishes_an_object_drawn_too_large() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    labels[:, 10:13, 10:13] = 1

    def drawn(margin: int) -> torch.Tensor:
        at = torch.zeros(1, 32, 32)
        at[:, 10 - margin : 13 + margin, 10 - margin : 13 + margin] = 1
        return torch.stack([4 - 8 * at, 8 * at - 4], dim=1)

    def price(loss: Callable[..., torch.Tensor]) -> float:
        return float(loss(drawn(3), labels) - loss(drawn(0), labels))

    assert price(dice_cross_entropy) > 0.3 + price(cross_entropy)


def test_dice_cross_entropy_learns_nothing_from_unlabeled_pixels() -> None:
    logits = random(2, 3, 4, 4).requires_grad_()
    labels = torch.full((2, 4, 4), 255)
    labels[0, :2] = 1
    dice_cross_entropy(logits, labels).backward()
    assert logits.grad is not None and bool((logits.grad[0, :, :2] != 0).all())
    assert bool((logits.grad[0, :, 2:] == 0).all() and (logits.grad[1] == 0).all())
    assert float(dice_cross_entropy(logits.detach(), torch.full((2, 4, 4), 255))) == 0


def test_cross_entropy_is_the_mean_of_each_side() -> None:
    logits = random(2, 3, 4, 4)
    labels = torch.full((2, 4, 4), 255)
    labels[0, 0, 0] = 0
    labels[0, 1, 1:3] = 2
    labels[1, 3, 3] = 1
    minus_log = -logits.log_softmax(1)
    background = minus_log[0, 0, 0, 0]
    foreground = (minus_log[0, 2, 1, 1] + minus_log[0, 2, 1, 2] + minus_log[1, 1, 3, 3]) / 3
    torch.testing.assert_close(balanced_cross_entropy(logits, labels), background + foreground)


def test_cross_entropy_resizes_the_logits() -> None:
    logits = torch.tensor([[[[0.0, 8.0]], [[0.0, 0.0]]]])  # [1, 2, 1, 2] -> width 4: 0, 2, 6, 8
    labels = torch.tensor([[[1, 255, 255, 255]]])
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(math.log(2))
    labels = torch.tensor([[[255, 0, 255, 255]]])
    assert float(balanced_cross_entropy(logits, labels)) == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-5)


@pytest.mark.parametrize("label", [0, 1, 255])
def test_cross_entropy_with_an_empty_side_is_finite(label: int) -> None:
    logits = random(2, 3, 4, 4).requires_grad_()
    loss = balanced_cross_entropy(logits, torch.full((2, 4, 4), label))
    loss.backward()
    want = 0.0 if label == 255 else -logits.log_softmax(1)[:, label].mean()
    torch.testing.assert_close(loss, torch.as_tensor(want))
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad == 0).all()) == (label == 255)


# ------------------------------------------------------------------------------------------------ energy


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["energy_k3", "energy_k21"])
def test_energy_golden(name: str, backend: str) -> None:
    case = np.load(GOLDEN / f"{name}.npz")
    probs = torch.from_numpy(case["logits"]).float().softmax(1).requires_grad_()
    labels, valid = torch.from_numpy(case["labels"]).long(), torch.from_numpy(case["valid"])
    loss = dense_energy_loss(torch.from_numpy(case["rgb"]), probs, labels, valid, backend=backend)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["loss"]), rel=1e-4)
    want = torch.from_numpy(case["grad_probs"])
    assert float((probs.grad - want).norm() / want.norm()) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gradient", ["surrogate", "exact"])
def test_energy_from_the_kernel_matrix(gradient: str, backend: str) -> None:
    rgb, probs, labels, valid = energy_case()
    probs.requires_grad_()
    loss = dense_energy_loss(
        rgb, probs, labels, valid, 15.0, 6.0, scale=1.0, weight=0.01, gradient=gradient, backend=backend
    )
    loss.backward()
    want, slope = 0.0, torch.zeros_like(probs)
    for b in range(2):
        eye = torch.eye(144).reshape(144, 12, 12)
        kernel = Lattice.bilateral(rgb[b], 6.0, 15.0, backend="torch").filter(eye).flatten(1).T  # [i, j]
        m = valid[b].flatten().float()
        p = probs.detach()[b].flatten(1)
        s = torch.where(labels[b].flatten() == 255, torch.ones(144), (m - p.amax(0)).clamp(min=0))
        q = m * p
        for c in range(3):
            a = kernel @ q[c]
            want -= 0.005 * float((s * q[c] * a).sum())
            back = 2 * s * a if gradient == "surrogate" else s * a + kernel.T @ (s * q[c])
            slope[b, c] = (-0.005 * m * back).reshape(12, 12)
    assert float(loss.detach()) == pytest.approx(want, rel=1e-5)
    torch.testing.assert_close(probs.grad, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_energy_of_float_pictures(scale: float, backend: str) -> None:
    rgb, probs, labels, valid = energy_case()
    losses, slopes = [], []
    for picture in (rgb, rgb.float(), rgb * 0.9 + 10.4):
        leaf = probs.clone().requires_grad_()
        loss = dense_energy_loss(picture, leaf, labels, valid, 15.0, 6.0, scale, weight=1.0, backend=backend)
        loss.backward()
        losses.append(loss.detach())
        slopes.append(leaf.grad)
    assert torch.equal(losses[0], losses[1]) and torch.equal(slopes[0], slopes[1])
    unlabeled, small = torch.full_like(labels, 255), (rgb * 0.9 + 10.4)[..., :: round(1 / scale), :: round(1 / scale)]
    got = dense_energy_loss(rgb * 0.9 + 10.4, probs, unlabeled, None, 15.0, 6.0, scale, weight=1.0, backend=backend)
    q = torch.nn.functional.interpolate(probs, scale_factor=scale, mode="bilinear")
    filtered = torch.stack([Lattice.bilateral(x, 6.0 * scale, 15.0).filter(y) for x, y in zip(small, q, strict=True)])
    torch.testing.assert_close(got, -(q * filtered).sum() / 2, rtol=1e-5, atol=0)


def test_exact_gradient_passes_gradcheck() -> None:
    # The gate must not move with the probabilities: 1 on unlabeled pixels, 0 where a labeled one is above 1.
    rgb, probs, labels, valid = energy_case(1, 2, 6, torch.float64)
    probs = torch.where((labels != 255)[:, None], probs + 1.5, probs).detach().requires_grad_()

    def energy(p: torch.Tensor, gradient: str = "exact") -> torch.Tensor:
        return dense_energy_loss(rgb, p, labels, valid, 15.0, 6.0, scale=1.0, weight=0.1, gradient=gradient)

    assert torch.autograd.gradcheck(energy, probs)
    assert not torch.autograd.gradcheck(lambda p: energy(p, "surrogate"), probs, raise_exception=False)


def test_exact_gradient_passes_gradcheck_at_half_size() -> None:
    rgb, probs, _, valid = energy_case(1, 2, 6, torch.float64)
    unlabeled = torch.full((1, 6, 6), 255)

    def energy(p: torch.Tensor) -> torch.Tensor:
        return dense_energy_loss(rgb, p, unlabeled, valid, 15.0, 6.0, weight=0.1, gradient="exact")

    assert torch.autograd.gradcheck(energy, probs.requires_grad_())


def test_gradients_are_related_where_the_gate_is_constant() -> None:
    # With S = 1 the exact gradient is K q + K^T q, the surrogate 2 K q: nearly equal, since K is nearly symmetric.
    rgb, probs, _, _ = energy_case(size=24)
    grads = []
    for gradient in ("surrogate", "exact"):
        p = probs.clone().requires_grad_()
        dense_energy_loss(rgb, p, torch.full((2, 24, 24), 255), None, 15.0, 10.0, gradient=gradient).backward()
        grads.append(p.grad.flatten())
    assert float(torch.cosine_similarity(*grads, dim=0)) > 0.995


def test_energy_is_a_known_share_of_the_exact_energy() -> None:
    rgb = torch.from_numpy(np.load(GOLDEN / "crf_mining_chelsea.npz")["rgb"][:72:2, :96:2]).permute(2, 0, 1)[None]
    probs = (4 * random(1, 3, 36, 48)).softmax(1)
    got = dense_energy_loss(
        rgb.contiguous(), probs, torch.full((1, 36, 48), 255), None, 15.0, 10.0, scale=1.0, weight=1.0
    )
    kernel = exact.gaussian_kernel(exact.features(rgb[0].numpy(), 10.0, 15.0))
    p = probs[0].flatten(1).numpy()
    assert 0.5 < float(got) / -float((p * (p @ kernel)).sum()) < 0.7


def test_sizes_are_resampled_as_published() -> None:
    # Nearest takes the even pixels, bilinear the mean of two: odd pixels of rgb, labels and valid must not matter.
    rgb, probs, labels, valid = energy_case(size=13)
    want = dense_energy_loss(rgb, probs, labels, valid, 15.0, 10.0)
    odd = torch.ones(13, 13, dtype=torch.bool)
    odd[:12:2, :12:2] = False
    rgb[:, :, odd], labels[:, odd], valid[:, odd] = 0, 7, False
    assert torch.equal(dense_energy_loss(rgb, probs, labels, valid, 15.0, 10.0), want)


def test_padding_gets_no_gradient() -> None:
    rgb, probs, labels, valid = energy_case()
    probs.requires_grad_()
    dense_energy_loss(rgb, probs, labels, valid).backward()
    assert bool((probs.grad.mT[1, :, :, :4] == 0).all())
    assert bool((probs.grad[1, :, 4:] != 0).any())


@needs_core
@pytest.mark.parametrize("gradient", ["surrogate", "exact"])
def test_energy_on_torch_equals_the_core(gradient: str) -> None:
    rgb, probs, labels, valid = energy_case(3, 4, 40)
    losses, slopes = [], []
    for backend in ("core", "torch"):
        leaf = probs.clone().requires_grad_()
        loss = dense_energy_loss(rgb, leaf, labels, valid, gradient=gradient, backend=backend)
        loss.backward()
        losses.append(float(loss.detach()))
        slopes.append(leaf.grad)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert float((slopes[1] - slopes[0]).norm()) <= 1e-5 * float(slopes[0].norm())


def energy_and_slope(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    rgb, probs, labels, valid = case
    leaf = probs.clone().requires_grad_()
    loss = dense_energy_loss(rgb, leaf, labels, valid, weight=1.0, gradient="exact", backend="torch")
    loss.backward()
    return loss.detach(), leaf.grad


def test_energy_of_a_batch_on_torch_is_the_mean_of_its_pictures() -> None:
    case = energy_case(3, 4, 40)
    loss, slope = energy_and_slope(case)
    alone = [energy_and_slope(tuple(x[i : i + 1] for x in case)) for i in range(3)]
    assert float(loss) == pytest.approx(sum(float(one) for one, _ in alone) / 3, rel=1e-5)
    torch.testing.assert_close(3 * slope, torch.cat([one for _, one in alone]), rtol=1e-5, atol=1e-4)


def test_energy_and_its_gradient_repeat_bit_by_bit_on_torch() -> None:
    case, before, results = energy_case(3, 4, 40), torch.get_num_threads(), []
    try:
        for threads in (1, 1, 3):
            torch.set_num_threads(threads)
            results.append(energy_and_slope(case))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][1], slope) for _, slope in results[1:])


def test_energy_gradient_of_a_batch_passes_gradcheck() -> None:
    rgb, probs, _, valid = energy_case(2, 2, 4, torch.float64)
    unlabeled = torch.full((2, 4, 4), 255)

    def energy(p: torch.Tensor) -> torch.Tensor:
        return dense_energy_loss(rgb, p, unlabeled, valid, 15.0, 6.0, scale=1.0, weight=0.1, gradient="exact")

    assert torch.autograd.gradcheck(energy, probs.requires_grad_())


@needs_core
def test_energy_threads_change_nothing() -> None:
    rgb, probs, labels, valid = energy_case(batch=4)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = dense_energy_loss(rgb, probs, labels, valid)
        torch.set_num_threads(3)
        three = dense_energy_loss(rgb, probs, labels, valid)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)


# ---------------------------------------------------------------------------------------- class distance


@pytest.mark.parametrize("name", ["mixed", "background_only", "one_image_without_background"])
def test_class_distance_golden(name: str) -> None:
    case = np.load(GOLDEN / f"class_distance_{name}.npz")
    features = torch.from_numpy(case["features"]).float().requires_grad_()
    loss = class_distance_loss(torch.from_numpy(case["seg_logits"]).float(), features)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["loss"]), rel=1e-4)
    want = torch.from_numpy(case["grad_features"])
    assert float((features.grad - want).norm() / want.norm()) < 1e-4


def test_class_distance_anchors() -> None:
    labels = torch.tensor([[[0, 0, 1, 2]], [[0, 1, 1, 2]]])
    logits = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    same = torch.ones(2, 5, 1, 4)
    assert float(class_distance_loss(logits, same)) == pytest.approx(2.0, abs=1e-5)  # intra 0, every cosine 1
    orthogonal = torch.nn.functional.one_hot(labels, 5).permute(0, 3, 1, 2).float()
    assert float(class_distance_loss(logits, orthogonal)) == pytest.approx(1.0, abs=1e-5)  # intra 0, every cosine 0
    no_background = torch.nn.functional.one_hot(labels.clamp(min=1), 4).permute(0, 3, 1, 2).float()
    # Intra (2 + 2 + 0 + 0) / (2 + 2), half of the cosines 1 between objects, and 1 in place of the background.
    assert float(class_distance_loss(no_background, same)) == pytest.approx(1 + 0.5 * 2 + 1, abs=1e-5)
    assert float(class_distance_loss(logits[:, :1] + 1, same)) == pytest.approx(0.0, abs=1e-5)


# ------------------------------------------------------------------------------------------------ errors


def test_bad_inputs() -> None:
    rgb, probs, labels, valid = energy_case()
    seg, feature = random(2, 3, 4, 4), random(2, 5, 4, 4)
    bad = [
        (lambda: tag_loss(torch.zeros(2, 3), torch.zeros(2, 4)), "tag_logits"),
        (lambda: tag_loss(torch.zeros(3), torch.zeros(3)), "tag_logits"),
        (lambda: balanced_cross_entropy(seg[0], labels), "seg_logits"),
        (lambda: balanced_cross_entropy(seg, labels[:1]), "labels must be"),
        (lambda: balanced_cross_entropy(seg, labels.int()), "int64"),
        (lambda: balanced_cross_entropy(seg, labels.clamp(max=3)), r"0\.\.2"),
        (lambda: balanced_cross_entropy(seg, labels - 2), r"0\.\.2"),
        (lambda: dense_energy_loss(rgb.int(), probs, labels, valid), "rgb must be uint8 or float"),
        (lambda: dense_energy_loss(rgb / 60 - 2, probs, labels, valid), "levels of 0-255"),
        (lambda: dense_energy_loss(rgb * float("nan"), probs, labels, valid), "leave no NaN"),
        (lambda: dense_energy_loss(rgb[..., :-1], probs, labels, valid), "rgb must be"),
        (lambda: dense_energy_loss(rgb, probs[0], labels, valid), "probs must be"),
        (lambda: dense_energy_loss(rgb, probs, labels.int(), valid), "labels must be int64"),
        (lambda: dense_energy_loss(rgb, probs, labels, valid.float()), "valid must be bool"),
        (lambda: dense_energy_loss(rgb, probs, labels, valid, sigma_xy=0), "sigma_xy"),
        (lambda: dense_energy_loss(rgb, probs, labels, valid, scale=0.01), "nothing is left"),
        (lambda: dense_energy_loss(rgb, probs, labels, valid, gradient="true"), "surrogate or exact"),
        (lambda: class_distance_loss(seg, feature[:1]), "agree"),
        (lambda: class_distance_loss(seg, feature[0]), "features must be"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
