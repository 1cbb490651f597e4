"""The stand-in for the extension `bilateralfilter` against a lattice in plain numpy and against published losses."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lattice_twin import lattice_filter, picture_features

from tag2mask.compat.bilateralfilter import bilateralfilter, bilateralfilter_batch
from tag2mask.filtering import load_core
from tag2mask.losses import dense_energy_loss

try:
    pydensecrf: Any = importlib.import_module("pydensecrf.densecrf")
except ImportError:
    pydensecrf = None

GOLDEN = Path(__file__).parent / "golden"
SIZES = [(40, 52), (161, 159), (321, 321)]
"""A multiple of four pixels, three and one more."""
MEAN, STD = np.float32([[[123.675]], [[116.28]], [[103.53]]]), np.float32([[[58.395]], [[57.12]], [[57.375]]])


def colors(height: int, width: int, darker: int = 1) -> np.ndarray:
    """float32 [3, H, W], a photo that was normalized and restored in float32, so that few levels are whole."""
    rgb = torch.from_numpy(np.load(GOLDEN / "crf_mining_chelsea.npz")["rgb"]).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(rgb, (height, width), mode="bilinear")[0].numpy()
    normalized = (np.rint(resized) // darker - MEAN) / STD
    return normalized * STD + MEAN


def probabilities(channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """float32 [K, H, W] that sum to 1, smooth as those of a network."""
    coarse = torch.randn(1, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(2 * coarse, (height, width), mode="bilinear")[0]
    return fine.softmax(0).numpy()


def by_twin(image: np.ndarray, values: np.ndarray, sigma_rgb: float, sigma_xy: float, block: int = 4) -> np.ndarray:
    f = picture_features(image, sigma_rgb, sigma_xy)
    return lattice_filter(f, values.reshape(len(values), -1), block=block).reshape(values.shape)


@pytest.mark.parametrize("size", SIZES)
def test_equals_the_lattice_that_is_filled_up_with_zeros(size: tuple[int, int]) -> None:
    image, values = colors(*size, darker=4), probabilities(3, *size)
    out = np.full(values.size, np.nan, np.float32)
    assert bilateralfilter(image.ravel(), values.ravel(), out, *size, 15.0, 50.0) is None
    want = by_twin(image, values, 15, 50)
    np.testing.assert_allclose(out.reshape(values.shape), want, rtol=0, atol=1e-6 * want.max())
    if size[0] * size[1] % 4:  # black pixels in the corner are not there
        assert np.abs(by_twin(image, values, 15, 50, block=1) - want).max() > 1e-3 * want.max()


@pytest.mark.skipif(pydensecrf is None, reason="pydensecrf is not installed")
@pytest.mark.parametrize("size", [(40, 52), (35, 53)])
def test_the_twin_is_the_published_lattice(size: tuple[int, int]) -> None:
    # pydensecrf has the lattice of the extension. Of one step of two labels, log Q0 - log Q1 is the filter of q0 - q1.
    image = np.ascontiguousarray(np.rint(colors(*size, darker=6)).transpose(1, 2, 0).astype(np.uint8))
    energy = np.zeros((2, image[..., 0].size), np.float32)
    energy[0] = np.linspace(-3, 3, energy.shape[1])
    q = 1 / (1 + np.exp(energy[0].astype(np.float64)))
    crf = pydensecrf.DenseCRF2D(size[1], size[0], 2)
    crf.setUnaryEnergy(energy)
    weight = 0.01
    crf.addPairwiseBilateral(20, 15, image, weight, normalization=pydensecrf.NO_NORMALIZATION)
    after = np.array(crf.inference(1)).astype(np.float64)
    got = (np.log(after[0]) - np.log(after[1]) + energy[0]) / weight
    values = (2 * q - 1).reshape(1, *size)
    want = by_twin(image.transpose(2, 0, 1).astype(np.float32), values, 15, 20).ravel()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    if size[0] * size[1] % 4:
        without = by_twin(image.transpose(2, 0, 1).astype(np.float32), values, 15, 20, block=1).ravel()
        assert np.abs(got - without).max() > 1e-3 * np.abs(want).max()


def test_a_batch_is_its_pictures_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 258, 257  # more than 65536 pixels, which other calls share among threads
    images = np.stack([colors(height, width, darker) for darker in (1, 2, 3)])
    values = np.stack([probabilities(2, height, width, seed) for seed in range(3)])
    results = []
    for threads in ("1", "4"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        monkeypatch.setattr("tag2mask.base.processes.usable_cores", lambda: 8)
        out = np.zeros(values.size, np.float32)
        bilateralfilter_batch(images.ravel(), values.ravel(), out, 3, 2, height, width, 15.0, 50.0)
        results.append(out.reshape(values.shape))
    np.testing.assert_array_equal(results[0], results[1])
    for image, one, result in zip(images, values, results[0], strict=True):
        out = np.zeros(one.size, np.float32)
        bilateralfilter(image.ravel(), one.ravel(), out, height, width, 15.0, 50.0)
        np.testing.assert_array_equal(out.reshape(one.shape), result)
    assert np.abs(results[0][0] - results[0][1]).max() > 1


# -------------------------------------------------------------------------------------- published losses

Filter = Callable[..., None]


def twin_batch(
    images: np.ndarray, ins: np.ndarray, outs: np.ndarray, n: int, k: int, h: int, w: int, srgb: float, sxy: float
) -> None:
    shaped = zip(images.reshape(n, 3, h, w), ins.reshape(n, k, h, w), outs.reshape(n, k, h, w), strict=True)
    for image, values, out in shaped:
        out[...] = by_twin(image, values, srgb, sxy)


def energy_with(
    batch_filter: Filter, images: torch.Tensor, probs: torch.Tensor, labels: torch.Tensor, boxes: list[tuple[int, ...]]
) -> tuple[float, torch.Tensor]:
    """Loss and gradient in probs of the dense energy of AFA and ToCo, from its formula, at half size.

    -weight / N sum S q (K q) with q = ROI probs and S = 1 where unlabeled, else max(0, ROI - max probs); its gradient is
    -2 weight / N ROI S (K q).
    """
    half = torch.nn.functional.interpolate
    leaf = probs.clone().requires_grad_()
    roi = torch.zeros(len(probs), 1, *probs.shape[2:])
    for picture, (top, bottom, left, right) in enumerate(boxes):
        roi[picture, 0, top:bottom, left:right] = 1
    image = half(images, scale_factor=0.5, recompute_scale_factor=True)
    small = half(leaf, scale_factor=0.5, mode="bilinear", align_corners=False, recompute_scale_factor=True)
    roi = half(roi, scale_factor=0.5, recompute_scale_factor=True)
    unlabeled = half(labels[:, None].float(), scale_factor=0.5, recompute_scale_factor=True) == 255
    gate = torch.where(unlabeled, 1.0, (roi - small.detach().amax(1, keepdim=True)).clamp(min=0))
    q = (small * roi).detach().numpy()
    filtered = np.zeros(q.size, np.float32)
    batch_filter(image.numpy().ravel(), q.ravel(), filtered, *q.shape, 15.0, 100.0 * 0.5)
    pulled = gate * torch.from_numpy(filtered).reshape(q.shape)
    loss = -1e-7 * float((torch.from_numpy(q).double() * pulled).sum()) / len(probs)
    small.backward(-2e-7 * roi * pulled / len(probs))
    return loss, leaf.grad


@pytest.mark.parametrize("size", [(321, 321), (96, 132), (202, 198)])
def test_an_energy_loss_gets_equal_numbers_after_one_import_line(size: tuple[int, int]) -> None:
    images = torch.from_numpy(np.stack([colors(*size), colors(*size, darker=6)]))
    probs = torch.from_numpy(np.stack([probabilities(4, *size, seed) for seed in range(2)]))
    labels = torch.where(torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) < 0.4, 255, 1)
    boxes = [(0, size[0], 0, size[1]), (8, size[0] - 12, 0, size[1] - 10)]
    loss, slope = energy_with(bilateralfilter_batch, images, probs, labels, boxes)
    want, want_slope = energy_with(twin_batch, images, probs, labels, boxes)
    assert loss == pytest.approx(want, rel=1e-6)
    torch.testing.assert_close(slope, want_slope, rtol=0, atol=2e-6 * float(want_slope.abs().max()))
    # the same without numpy in between: at even sizes, which are resampled alike, where no pixels fill the picture up
    if size == (96, 132):
        valid = torch.zeros(2, *size, dtype=torch.bool)
        for picture, (top, bottom, left, right) in enumerate(boxes):
            valid[picture, top:bottom, left:right] = True
        leaf = probs.clone().requires_grad_()
        ours = dense_energy_loss(images, leaf, labels, valid)
        ours.backward()
        assert float(ours.detach()) == pytest.approx(want, rel=1e-6)
        torch.testing.assert_close(leaf.grad, want_slope, rtol=0, atol=2e-6 * float(want_slope.abs().max()))


def test_rounding_gives_the_levels_back_and_truncation_does_not() -> None:
    restored = colors(96, 132)
    rounded, cut = np.rint(restored), restored.astype(np.uint8)
    assert np.abs(restored - rounded).max() < 1e-3
    assert (cut != rounded).mean() > 0.001
    rgb = torch.from_numpy(rounded.astype(np.uint8))[None]
    probs, labels = torch.from_numpy(probabilities(4, 96, 132))[None], torch.full((1, 96, 132), 255)
    want = float(dense_energy_loss(torch.from_numpy(restored)[None], probs, labels, None))
    assert float(dense_energy_loss(rgb, probs, labels, None)) == pytest.approx(want, rel=1e-6)


# --------------------------------------------------------------------------------------------- the call


def test_names_and_order_of_arguments_are_those_of_the_extension() -> None:
    assert list(inspect.signature(bilateralfilter).parameters) == [
        "image",
        "_in",
        "out",
        "H",
        "W",
        "sigmargb",
        "sigmaxy",
    ]
    batch = ["images", "ins", "outs", "N", "K", "H", "W", "sigmargb", "sigmaxy"]
    assert list(inspect.signature(bilateralfilter_batch).parameters) == batch


def test_height_comes_before_width_and_color_before_place() -> None:
    image, values = colors(8, 20), probabilities(2, 8, 20)
    out = np.zeros_like(values)
    bilateralfilter(image, values, out, 8, 20, 30.0, 4.0)
    want = by_twin(image, values, 30, 4)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-6 * want.max())


def test_what_the_extension_converts_is_converted() -> None:
    image, values = np.rint(colors(9, 7)), probabilities(2, 9, 7)
    want = np.zeros(values.size, np.float32)
    bilateralfilter(image.ravel(), values.ravel(), want, 9, 7, 15.0, 5.0)
    kinds: list[tuple[Any, Any]] = [
        (image.astype(np.uint8), values.astype(np.float64)),
        (image.astype(np.int64)[:, ::-1][:, ::-1], np.asfortranarray(values)),
        (torch.from_numpy(image), torch.from_numpy(values).requires_grad_()),
        (memoryview(image.ravel()), memoryview(values.ravel())),
    ]
    for colored, given in kinds:
        out = np.zeros(values.size, np.float32)
        bilateralfilter_batch(colored, given, out, 1, 2, 9, 7, 15, 5)
        np.testing.assert_array_equal(out, want)
    out = np.zeros(values.size, np.float32)
    sizes = np.int64(1), torch.tensor(2), np.int32(9), 7
    bilateralfilter_batch(image, values, out, *sizes, np.float32(15), torch.tensor(5.0))
    np.testing.assert_array_equal(out, want)
    result = torch.zeros(1, 2, 9, 7)
    bilateralfilter_batch(image, values, result, 1, 2, 9, 7, 15, 5)  # shares its memory with numpy
    np.testing.assert_array_equal(result.numpy().ravel(), want)


def test_in_place_of_its_own_values() -> None:
    for channels in (3, 40):  # more than are filtered at a time
        image, values = colors(9, 7), probabilities(channels, 9, 7)
        want = np.zeros_like(values)
        bilateralfilter(image, values, want, 9, 7, 15.0, 5.0)
        bilateralfilter(image, values, values, 9, 7, 15.0, 5.0)
        np.testing.assert_array_equal(values, want)


def test_colors_of_any_range() -> None:
    image, values = colors(9, 7), probabilities(2, 9, 7)
    want, scaled = np.zeros_like(values), np.zeros_like(values)
    bilateralfilter(image - 300, values, want, 9, 7, 16.0, 5.0)
    bilateralfilter((image - 300) / 256, values, scaled, 9, 7, 16.0 / 256, 5.0)  # a power of two changes no bit
    np.testing.assert_array_equal(scaled, want)


def test_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from tag2mask.compat.bilateralfilter import bilateralfilter_batch\n"
        "out = np.zeros(24, np.float32)\n"
        "bilateralfilter_batch(np.zeros(36, np.float32), np.ones(24, np.float32), out, 1, 2, 3, 4, 15., 50.)\n"
        "assert out.min() > 1\n"
        f"assert ('torch' in sys.modules) == {load_core() is None}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_core_torch_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    image, values = np.stack([colors(9, 7, 4)] * 2), np.stack([probabilities(2, 9, 7)] * 2)
    monkeypatch.setitem(sys.modules, "tag2mask._core", None)
    load_core.cache_clear()
    out = np.zeros_like(values)
    try:
        with pytest.warns(UserWarning, match="compiled core"):
            bilateralfilter_batch(image, values, out, 2, 2, 9, 7, 15.0, 50.0)
    finally:
        load_core.cache_clear()
    want = by_twin(image[1], values[1], 15, 50)
    np.testing.assert_allclose(out[1], want, rtol=0, atol=1e-6 * want.max())
    np.testing.assert_array_equal(out[0], out[1])


def test_bad_inputs() -> None:
    image, values, out = np.zeros(36, np.float32), np.zeros(24, np.float32), np.zeros(24, np.float32)
    holes, frozen = image.copy(), out.copy()
    holes[3] = np.nan
    frozen.flags.writeable = False
    good = [image, values, out, 1, 2, 3, 4, 15.0, 50.0]
    bad: list[tuple[int, Any, type[Exception], str]] = [
        (0, image[1:], ValueError, "images must hold 1 pictures of 3 channels of 3 x 4 values, 36 in all, got 35"),
        (1, values[1:], ValueError, "ins must hold .* 24 in all, got 23"),
        (2, out[1:], ValueError, "outs must hold"),
        (3, 2, ValueError, "images must hold 2 pictures"),
        (3, 0, ValueError, "N, K, H and W must be at least 1"),
        (4, 3, ValueError, "ins must hold 1 pictures of 3 channels"),
        (7, 0.0, ValueError, "sigmargb must be greater than 0"),
        (8, float("nan"), ValueError, "sigmaxy must be greater than 0"),
        (8, 1e-7, ValueError, "larger sigma"),
        (0, holes, ValueError, "NaN or infinite"),
        (0, np.where(holes == 0, np.inf, 0), ValueError, "NaN or infinite"),
        (0, None, TypeError, "images must be a numpy array, a memoryview or a torch tensor, got NoneType"),
        (1, values * 1j, TypeError, "ins must hold numbers, got complex"),
        (2, out.astype(np.float64), TypeError, "outs is written in place: .* got float64"),
        (2, np.zeros(48, np.float32)[::2], TypeError, "contiguous and writable"),
        (2, frozen, TypeError, "contiguous and writable"),
        (5, 3.0, TypeError, "integer"),
        (2, [0.0] * 24, TypeError, "outs must be a numpy array"),
    ]
    for place, wrong, kind, message in bad:
        arguments = [wrong if i == place else x for i, x in enumerate(good)]
        with pytest.raises(kind, match=message):
            bilateralfilter_batch(*arguments)
    with pytest.raises(ValueError, match=r"_in must hold K H W = K \* 12 values for H=3, W=4, got 23"):
        bilateralfilter(image, values[1:], out, 3, 4, 15.0, 50.0)
    with pytest.raises(ValueError, match="image must hold"):
        bilateralfilter(image[1:], values, out, 3, 4, 15.0, 50.0)
    assert not out.any()
