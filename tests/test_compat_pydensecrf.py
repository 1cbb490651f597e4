from __future__ import annotations

import gc
import importlib
import inspect
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tag2mask.compat.pydensecrf.densecrf as dcrf
from tag2mask.compat import filled
from tag2mask.compat.pydensecrf import utils
from tag2mask.crf import CRFParams, dense_crf, reference_marginals
from tag2mask.filtering import Lattice, load_core
from tag2mask.jobs.benchmark.peer import crf_of

try:
    theirs: Any = importlib.import_module("pydensecrf.densecrf")
    their_utils: Any = importlib.import_module("pydensecrf.utils")
except ImportError:
    theirs = their_utils = None
needs_core = pytest.mark.skipif(load_core() is None, reason="the compiled core was not built")
needs_pydensecrf = pytest.mark.skipif(theirs is None, reason="pydensecrf is not installed")

GOLDEN = Path(__file__).parent / "golden"
NORMALIZATIONS = ["NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"]
COMPATS = {
    "number": 4.0,
    "vector": np.float32([-1, -2, 0.5]),
    "matrix": np.float32([[-2, 1, 0.5], [0, -1, 2], [1, 0, -0.5]]),  # not symmetric
}

# pydensecrf2 1.1 on `tiny_crf`: marginals of pixel 3, and klDivergence.
RECORDED = [
    ("number", "NO_NORMALIZATION", [0.559015, 0.353625, 0.087359], -11.77601),
    ("number", "NORMALIZE_BEFORE", [0.329641, 0.622799, 0.047560], -24.59463),
    ("number", "NORMALIZE_AFTER", [0.443070, 0.508347, 0.048583], -22.89145),
    ("number", "NORMALIZE_SYMMETRIC", [0.390122, 0.561265, 0.048612], -23.57237),
    ("vector", "NO_NORMALIZATION", [0.515563, 0.400461, 0.083976], -5.70071),
    ("vector", "NORMALIZE_BEFORE", [0.332351, 0.620407, 0.047242], -11.31808),
    ("vector", "NORMALIZE_AFTER", [0.376968, 0.567752, 0.055280], -10.85596),
    ("vector", "NORMALIZE_SYMMETRIC", [0.356480, 0.592001, 0.051520], -11.01638),
    ("matrix", "NO_NORMALIZATION", [0.722681, 0.211155, 0.066164], -2.77171),
    ("matrix", "NORMALIZE_BEFORE", [0.857363, 0.118479, 0.024158], -5.93032),
    ("matrix", "NORMALIZE_AFTER", [0.850144, 0.122445, 0.027411], -6.05510),
    ("matrix", "NORMALIZE_SYMMETRIC", [0.853465, 0.120654, 0.025882], -5.96837),
]


def tiny_crf(package: Any, compat: Any, normalization: str, kernel: str = "DIAG_KERNEL") -> Any:
    """A dark 3x3 picture: nine pixels, so that the three pixels that fill up the lattice matter (0.002 to 0.07)."""
    rgb = (np.arange(27).reshape(3, 3, 3) * 11 % 40).astype(np.uint8)
    crf = package.DenseCRF2D(3, 3, 3)
    crf.setUnaryEnergy((np.arange(27).reshape(3, 9) * 29 % 17 / 8).astype(np.float32))
    kinds = getattr(package, kernel), getattr(package, normalization)
    strength = 0.25 if normalization == "NO_NORMALIZATION" else 1
    crf.addPairwiseGaussian(2, compat * strength / 4, *kinds)
    crf.addPairwiseBilateral((3, 2), 20, rgb, compat * strength, *kinds)
    return crf


def photo(height: int, width: int, *, top: int = 0, left: int = 0, darker: int = 1) -> np.ndarray:
    """uint8 [height, width, 3], a corner of the golden photo of a cat."""
    rgb = np.load(GOLDEN / "crf_mining_chelsea.npz")["rgb"][top : top + height, left : left + width]
    return np.ascontiguousarray(rgb // darker)


def probabilities(labels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth probabilities [labels, height, width]."""
    coarse = torch.rand(1, labels, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return ((fine - 0.2).clamp(0.02, 0.6) / (fine - 0.2).clamp(0.02, 0.6).sum(0)).numpy()


def run_2d(package: Any, tools: Any, rgb: np.ndarray, probs: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
    """The usual call, as in the original's examples: marginals and divergence."""
    crf = crf_of(package, rgb, tools.unary_from_softmax(probs), CRFParams.mining())
    q = crf.inference(steps)
    return np.array(q), crf.klDivergence(q)


def by_steps(crf: dcrf.DenseCRF, steps: int) -> np.ndarray:
    q, *work = crf.startInference()
    for _ in range(steps):
        crf.stepInference(q, *work)
    return q


def crf_of_features(energy: np.ndarray, features: np.ndarray, compat: Any = 2.0, **options: Any) -> dcrf.DenseCRF:
    crf = dcrf.DenseCRF(energy.shape[1], len(energy))
    crf.setUnaryEnergy(energy)
    crf.addPairwiseEnergy(features, compat, **options)
    return crf


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("crf_mining_chelsea", CRFParams.mining()),
        ("crf_inference_coffee", CRFParams.inference()),
        ("crf_inference_rocket", CRFParams.inference()),
    ],
)
def test_golden(name: str, params: CRFParams) -> None:
    case = np.load(GOLDEN / f"{name}.npz")
    energy = -np.log(np.clip(case["scores"].reshape(-1, 160 * 120).astype(np.float32), 1e-5, 1))
    crf = crf_of(dcrf, case["rgb"], energy, params)
    q = crf.inference(10)
    want = case["q"].astype(np.float32).reshape(q.shape)  # stored as float16
    assert q.dtype == np.float32
    assert np.abs(q - want).max() <= 5e-4
    assert (q.argmax(0) == want.argmax(0)).mean() >= 0.9995


@pytest.mark.parametrize(("compat", "normalization", "marginals", "divergence"), RECORDED)
def test_recorded_values(compat: str, normalization: str, marginals: list[float], divergence: float) -> None:
    crf = tiny_crf(dcrf, COMPATS[compat], normalization)
    q = crf.inference(3)
    np.testing.assert_allclose(q[:, 3], marginals, rtol=0, atol=2e-6)
    assert crf.klDivergence(q) == pytest.approx(divergence, abs=2e-5)


@pytest.mark.parametrize(
    ("y", "colors", "first_label"),
    [
        (4, [[176, 171, 185, 186], [24, 40, 21, 39], [42, 50, 44, 52]], [0.822118, 0.556302, 0.823852, 0.692081]),
        (3, [[152, 159, 141, 145], [19, 16, 17, 27], [132, 146, 132, 143]], [0.840798, 0.560364, 0.825809, 0.697836]),
        (2, [[48, 56, 42, 44], [91, 98, 80, 78], [20, 35, 25, 13]], [0.821292, 0.535933, 0.820365, 0.730037]),
    ],
)
def test_ties_between_cells(y: int, colors: list[list[int]], first_label: list[float]) -> None:
    # x = 0 and a whole y lie on the border of two cells: the last bit says which vertices there are (pydensecrf2 1.1)
    features = np.concatenate([np.float32([[0] * 4, [y] * 4]), np.float32(colors) / np.float32(13)])
    energy = np.float32([[0, 0, 0, 0], [1, 0, 1, 0.5]])
    q = crf_of_features(energy, features, 1.0, normalization=dcrf.NO_NORMALIZATION).inference(1)
    np.testing.assert_allclose(q[0], first_label, rtol=0, atol=5e-6)


def test_pixels_that_fill_up_the_lattice_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    # the number in docs/dense-crf.md
    q = tiny_crf(dcrf, 4.0, "NORMALIZE_BEFORE").inference(3)
    monkeypatch.setattr(filled, "BLOCK", 1)
    without = tiny_crf(dcrf, 4.0, "NORMALIZE_BEFORE").inference(3)
    assert 0.065 < np.abs(q - without).max() < 0.075


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("compat", COMPATS)
def test_mean_field_by_formula(compat: str, normalization: str) -> None:
    # The lattice as a matrix, then every sum written out in float64.
    pixels, energy = 30, numbers(3, 30) * 2
    features = numbers(4, pixels, seed=1) * 5
    padded = np.concatenate([features, np.zeros((4, 2), np.float32)], 1)
    kernel = Lattice(torch.from_numpy(padded)).filter(torch.eye(pixels + 2)).double().numpy()[:pixels, :pixels].T
    total = kernel.sum(1)
    before, after = {
        "NO_NORMALIZATION": (np.ones(pixels), np.ones(pixels)),
        "NORMALIZE_BEFORE": (1 / total, np.ones(pixels)),
        "NORMALIZE_AFTER": (np.ones(pixels), 1 / total),
        "NORMALIZE_SYMMETRIC": (total**-0.5, total**-0.5),
    }[normalization]
    mu = {
        "number": -4 * np.eye(3),
        "vector": np.diag([-1, -2, 0.5]),
        "matrix": np.array([[-2, 0.5, 0.75], [0.5, -1, 1], [0.75, 1, -0.5]]),
    }[compat]
    scale = 0.05 if normalization == "NO_NORMALIZATION" else 0.5
    crf = crf_of_features(energy, features, COMPATS[compat] * scale, normalization=getattr(dcrf, normalization))

    def pairwise(q: np.ndarray) -> np.ndarray:
        return scale * mu @ np.einsum("i,ij,j,lj->li", after, kernel, before, q)

    want = softmax(-energy.astype(np.float64))
    for steps in range(4):
        q = crf.inference(steps)
        np.testing.assert_allclose(q, want, rtol=0, atol=2e-6)
        divergence = (q * (np.log(q) + energy + pairwise(q))).sum()
        assert crf.klDivergence(q) == pytest.approx(divergence, abs=1e-4)
        want = softmax(-energy - pairwise(want))


def test_number_is_a_negative_vector_is_a_diagonal_matrix() -> None:
    energy, features = numbers(3, 32), numbers(3, 32, seed=1) * 3
    q = crf_of_features(energy, features, 4.0).inference(3)
    assert np.abs(q - softmax(-energy)).max() > 0.1
    for same in (np.full(3, -4, np.float32), np.diag(np.full(3, -4, np.float32))):
        np.testing.assert_allclose(crf_of_features(energy, features, same).inference(3), q, rtol=0, atol=1e-6)


def test_2d_terms_are_features_with_x_first() -> None:
    rgb, energy = photo(8, 10), numbers(3, 80)
    y, x = np.mgrid[:8, :10].astype(np.float32).reshape(2, -1)
    r, g, b = rgb.reshape(-1, 3).T.astype(np.float32)
    crf = dcrf.DenseCRF2D(10, 8, 3)
    crf.setUnaryEnergy(energy)
    crf.addPairwiseGaussian((3, 5), 2)
    want = crf_of_features(energy, np.stack([x / 3, y / 5]))
    np.testing.assert_array_equal(crf.inference(2), want.inference(2))
    crf.addPairwiseGaussian(4, 2)
    want.addPairwiseEnergy(np.stack([x / 4, y / 4]), 2)
    np.testing.assert_allclose(crf.inference(2), want.inference(2), rtol=0, atol=1e-6)
    crf.addPairwiseBilateral((30, 20), (10, 13, 16), rgb, 3)
    want.addPairwiseEnergy(np.stack([x / 30, y / 20, r / 10, g / 13, b / 16]), 3)
    np.testing.assert_allclose(crf.inference(2), want.inference(2), rtol=0, atol=1e-6)


def test_equals_dense_crf() -> None:
    rgb, probs = photo(28, 36), probabilities(3, 28, 36)
    q, _ = run_2d(dcrf, utils, rgb, probs, 10)
    want = dense_crf(torch.from_numpy(rgb).permute(2, 0, 1)[None], torch.from_numpy(probs)[None], CRFParams.mining())
    np.testing.assert_allclose(q.reshape(probs.shape), want[0].numpy(), rtol=0, atol=1e-4)


def test_steps_one_by_one() -> None:
    crf = crf_of_features(numbers(3, 32), numbers(3, 32, seed=1) * 5)
    q, tmp1, tmp2 = crf.startInference()
    np.testing.assert_array_equal(q, crf.inference(0))
    divergences = []
    for steps in (1, 2, 3):
        assert crf.stepInference(q, tmp1, tmp2) is None
        np.testing.assert_array_equal(q, crf.inference(steps))
        divergences.append(crf.klDivergence(q))
    assert divergences == sorted(divergences, reverse=True)
    crf.stepInference(fortran := np.asfortranarray(crf.inference(3)), tmp1, tmp2)
    np.testing.assert_array_equal(fortran, crf.inference(4))


def plane_crf(*terms: Any, size: tuple[int, int] = (28, 36), energy: np.ndarray | None = None) -> dcrf.DenseCRF2D:
    """A CRF of three labels with terms: arguments of addPairwiseGaussian, or with a picture, of addPairwiseBilateral."""
    rgb = photo(*size)
    crf = dcrf.DenseCRF2D(size[1], size[0], 3)
    crf.setUnaryEnergy(utils.unary_from_softmax(probabilities(3, *size)) if energy is None else energy)
    for widths, *options in terms:
        if len(widths) == 1:
            crf.addPairwiseGaussian(*widths, *options)
        else:
            crf.addPairwiseBilateral(*widths, rgb, *options)
    return crf


GAUSSIAN, BILATERAL = ((3,), 3), ((80, 13), 10)
ENERGY = utils.unary_from_softmax(probabilities(3, 28, 36))
FORBIDDEN = np.where(np.arange(3)[:, None] == 1, np.float32(np.inf), ENERGY)


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[CRFParams]:
    """Parameters of the inferences that went to the core in one piece."""
    seen: list[CRFParams] = []

    def recorded(rgb: torch.Tensor, energies: torch.Tensor, params: CRFParams) -> torch.Tensor:
        seen.append(params)
        return reference_marginals(rgb, energies, params)

    monkeypatch.setattr(dcrf, "reference_marginals", recorded)
    return seen


@needs_core
@pytest.mark.parametrize(
    ("terms", "params"),
    [
        ([GAUSSIAN, BILATERAL], CRFParams(iterations=5)),
        ([BILATERAL, GAUSSIAN], CRFParams(iterations=5)),
        ([BILATERAL], CRFParams(gaussian_compat=0.0, iterations=5)),
        (
            [((np.float32(5),), -2), (((30, 30), (20, 20, 20.0)), 4.5, dcrf.CONST_KERNEL)],  # a negative weight too
            CRFParams(5, -2, 30, 20, 4.5, 5),
        ),
    ],
)
def test_the_usual_model_runs_in_one_piece(whole: list[CRFParams], terms: list[Any], params: CRFParams) -> None:
    crf = plane_crf(*terms)
    q = crf.inference(5)
    assert whole == [params]
    assert (q.dtype, q.shape, q.flags.writeable) == (np.float32, (3, 28 * 36), True)
    np.testing.assert_allclose(q, by_steps(crf, 5), rtol=0, atol=1e-6)
    assert np.abs(q - by_steps(crf, 0)).max() > 0.1
    assert crf.klDivergence(q) < crf.klDivergence(by_steps(crf, 0))


@needs_core
@pytest.mark.parametrize("size", [(28, 36), (119, 157), (97, 99), (30, 41)])
@pytest.mark.parametrize(("params", "bound"), [(CRFParams.inference(), 1e-6), (CRFParams.mining(), 1e-5)])
def test_one_piece_equals_steps_at_every_size(
    whole: list[CRFParams], size: tuple[int, int], params: CRFParams, bound: float
) -> None:
    # strong terms amplify the rounding of the sums, whose order differs
    rgb = photo(*size, darker=4)  # so dark that the pixels which fill up the lattice matter
    for labels in (2, 5, 21):
        crf = crf_of(dcrf, rgb, utils.unary_from_softmax(probabilities(labels, *size)), params)
        np.testing.assert_allclose(crf.inference(10), by_steps(crf, 10), rtol=0, atol=bound)
    assert whole == [params] * 3


@needs_core
@pytest.mark.parametrize(
    "energy",
    [
        ENERGY + np.linspace(-40, 40, 28 * 36, dtype=np.float32),  # far from -log of a probability
        np.eye(3, 28 * 36, dtype=np.float32) * 50,
        utils.unary_from_softmax(np.eye(3)[:, probabilities(3, 28, 36).argmax(0)]),
        FORBIDDEN,
    ],
)
def test_any_energies_run_in_one_piece(whole: list[CRFParams], energy: np.ndarray) -> None:
    crf = plane_crf(((3,), 0.5), ((80, 13), 1), energy=energy)
    q = crf.inference(5)
    assert len(whole) == 1
    np.testing.assert_allclose(q, by_steps(crf, 5), rtol=0, atol=5e-6)
    assert (q[np.isinf(energy)] == 0).all()


def test_without_the_core_it_runs_by_steps(whole: list[CRFParams], monkeypatch: pytest.MonkeyPatch) -> None:
    want = plane_crf(GAUSSIAN, BILATERAL).inference(3)
    monkeypatch.setattr(dcrf, "load_core", lambda: None)
    del whole[:]
    crf = plane_crf(GAUSSIAN, BILATERAL)
    np.testing.assert_array_equal(crf.inference(3), by_steps(crf, 3))
    np.testing.assert_allclose(crf.inference(3), want, rtol=0, atol=1e-6)
    assert whole == []


@pytest.mark.parametrize(
    "terms",
    [
        [],
        [GAUSSIAN],
        [GAUSSIAN, GAUSSIAN, BILATERAL],
        [BILATERAL, BILATERAL],
        [(((3, 4),), 3), BILATERAL],
        [GAUSSIAN, (((80, 70), 13), 10)],
        [GAUSSIAN, ((80, (13, 13, 14)), 10)],
        [GAUSSIAN, ((80, 13), np.float32([-1, -2, -1]))],
        [((3,), np.eye(3, dtype=np.float32)), BILATERAL],
        [GAUSSIAN, ((80, 13), 10, dcrf.DIAG_KERNEL, dcrf.NORMALIZE_AFTER)],
        [((3,), 0.5, dcrf.DIAG_KERNEL, dcrf.NO_NORMALIZATION), BILATERAL],
        [((0.02,), 3), BILATERAL],  # finer than it may wait
    ],
)
def test_any_other_model_runs_by_steps(whole: list[CRFParams], terms: list[Any]) -> None:
    crf = plane_crf(*terms)
    np.testing.assert_array_equal(crf.inference(3), by_steps(crf, 3))
    assert whole == []


@pytest.mark.parametrize("terms", [[GAUSSIAN, BILATERAL], [(((3, 4),), 3), ((80, (13, 13, 14)), 10)]])
def test_a_dropped_crf_frees_its_memory_at_once(terms: list[Any]) -> None:
    crf = plane_crf(*terms)
    crf.klDivergence(crf.inference(1))
    held = weakref.ref(crf)
    gc.disable()
    try:
        del crf
        assert held() is None
    finally:
        gc.enable()


def test_a_lattice_that_may_wait_can_be_built() -> None:
    finest = dcrf.MAX_PLAIN_FEATURE
    for dims in (2, 5):
        Lattice(torch.cartesian_prod(*[torch.tensor([0.0, finest])] * dims).T)


def test_unaries() -> None:
    energy, weights, features = numbers(3, 12), numbers(3, 5, seed=1), numbers(5, 12, seed=2)
    crf = dcrf.DenseCRF(12, 3)
    crf.setUnary(dcrf.ConstUnary(energy))
    np.testing.assert_allclose(crf.inference(4), softmax(-energy), atol=1e-6)
    crf.setUnary(dcrf.LogisticUnary(weights, features))  # replaces the other
    np.testing.assert_allclose(crf.inference(0), softmax(-weights @ features), atol=1e-6)
    crf.setUnaryEnergy(weights, features)
    np.testing.assert_allclose(crf.inference(0), softmax(-weights @ features), atol=1e-6)


def test_infinite_energy_forbids_a_label() -> None:
    energy = numbers(3, 12)
    energy[1, 4] = np.inf
    crf = crf_of_features(energy, numbers(2, 12, seed=1))
    q = crf.inference(5)
    assert q[1, 4] == 0
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-6)
    assert np.isfinite(crf.klDivergence(q))


def test_inputs_are_copied_and_left_alone() -> None:
    energy, features, compat = numbers(3, 12), numbers(2, 12, seed=1), np.float32([[-1, 2, 0], [2, -1, 0], [0, 0, -1]])
    copies = energy.copy(), features.copy(), compat.copy()
    crf = crf_of_features(energy, features, compat)
    q = crf.inference(3)
    for array, copy in zip((energy, features, compat), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        array[:] = 0
    again = crf.inference(3)
    np.testing.assert_array_equal(again, q)
    again[:] = 0
    np.testing.assert_array_equal(crf.inference(3), q)
    energy.flags.writeable = False
    dcrf.DenseCRF(12, 3).setUnaryEnergy(energy)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (2, 3)])
@pytest.mark.parametrize("labels", [1, 2])
def test_thin_pictures(size: tuple[int, int], labels: int) -> None:
    # all pixels agree, so that message and normalization cancel: softmax(-energy + (3 + 10) q)
    probs = np.broadcast_to(np.array([[[1.0]], [[0.4]]])[:labels], (labels, *size))
    q, _ = run_2d(dcrf, utils, np.full((*size, 3), 255, np.uint8), probs, 1)
    q0 = probs.reshape(labels, -1) / probs.reshape(labels, -1).sum(0)
    np.testing.assert_allclose(q, softmax(np.log(probs.reshape(labels, -1)) + 13 * q0), atol=2e-2)
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-6)


@needs_pydensecrf
def test_names_and_numbers_are_those_of_pydensecrf() -> None:
    foreign = {"Number", "eigen", "np", "warning"}  # what the original merely imports
    for ours, original in ((dcrf, theirs), (utils, their_utils)):
        names = {name for name in vars(original) if not name.startswith("_")} - foreign
        assert names <= set(vars(ours))
        for name in names:
            mine, other = getattr(ours, name), getattr(original, name)
            if isinstance(other, int):
                assert (int(mine), mine.name) == (int(other), other.name)
            elif inspect.isfunction(other):
                assert [(p.name, p.default) for p in inspect.signature(mine).parameters.values()] == [
                    (p.name, p.default) for p in inspect.signature(other).parameters.values()
                ]
            else:
                assert {method for method in vars(other) if not method.startswith("_")} <= set(dir(mine))


@needs_pydensecrf
@pytest.mark.parametrize("labels", [1, 2, 3, 5, 21, 81])
def test_equals_pydensecrf(labels: int) -> None:
    # also where height times width is no multiple of four, and where the picture is nearly black
    agree = pixels = 0
    for i, (height, width) in enumerate([(40, 52), (36, 45), (35, 53), (37, 53), (30, 41), (1, 90), (33, 1)]):
        for darker in (1, 3):
            rgb = photo(height, width, top=5 * i, left=9 * i, darker=darker)
            probs = probabilities(labels, height, width, seed=i)
            q, divergence = run_2d(dcrf, utils, rgb, probs, 10)
            want, want_divergence = run_2d(theirs, their_utils, rgb, probs, 10)
            assert np.abs(q - want).max() <= 1e-4
            assert divergence == pytest.approx(want_divergence, rel=2e-5)
            agree += int((q.argmax(0) == want.argmax(0)).sum())
            pixels += q.shape[1]
    assert agree / pixels >= 0.9999


@needs_pydensecrf
@pytest.mark.parametrize("kernel", ["CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("compat", COMPATS)
def test_terms_equal_pydensecrf(compat: str, normalization: str, kernel: str) -> None:
    ours = tiny_crf(dcrf, COMPATS[compat], normalization, kernel)
    want = tiny_crf(theirs, COMPATS[compat], normalization, kernel)
    ours.addPairwiseEnergy(numbers(6, 9) * 4, 1.5)
    want.addPairwiseEnergy(numbers(6, 9) * 4, 1.5)
    np.testing.assert_allclose(ours.inference(5), np.array(want.inference(5)), rtol=0, atol=1e-5)
    (q, *work), (want_q, *want_work) = ours.startInference(), want.startInference()
    for _ in range(3):
        ours.stepInference(q, *work)
        want.stepInference(want_q, *want_work)
        np.testing.assert_allclose(q, np.array(want_q), rtol=0, atol=1e-5)
        assert ours.klDivergence(q) == pytest.approx(want.klDivergence(want_q), rel=2e-5, abs=1e-4)


@needs_pydensecrf
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_strong_terms_on_a_picture(normalization: str) -> None:
    """Without normalization messages are sums over the whole picture, and rounding grows with them; no label changes."""
    bounds = {1: 1e-5, 10: 5e-5, 30: 5e-4} if normalization != "NO_NORMALIZATION" else dict.fromkeys((1, 10, 30), 1e-2)
    rgb, probs = photo(60, 80), probabilities(5, 60, 80)
    for compat, bound in bounds.items():
        found = []
        for package in (dcrf, theirs):
            crf = package.DenseCRF2D(80, 60, 5)
            crf.setUnaryEnergy(utils.unary_from_softmax(probs))
            kind = getattr(package, normalization)
            crf.addPairwiseGaussian(sxy=3, compat=0.3 * compat, normalization=kind)
            crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=rgb, compat=compat, normalization=kind)
            found.append(np.array(crf.inference(10)))
        np.testing.assert_allclose(found[0], found[1], rtol=0, atol=bound)
        assert (found[0].argmax(0) == found[1].argmax(0)).mean() >= 0.9999


def test_repeatable_with_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(run_2d(dcrf, utils, photo(61, 83), probabilities(5, 61, 83), 5))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(results[2][0], results[1][0])
    assert results[2][1] == results[1][1]


LABELS = np.array([[0, 1], [2, 3]])


def test_unary_from_labels_by_hand() -> None:
    even, right, wrong = -np.log(1 / 3), -np.log(0.8), -np.log(0.2 / 2)
    want = [[even, right, wrong, wrong], [even, wrong, right, wrong], [even, wrong, wrong, right]]
    for labels in (LABELS, LABELS.astype(np.uint8)):  # the original fails on uint8
        got = utils.unary_from_labels(labels, 3, gt_prob=0.8)
        assert (got.dtype, got.flags.c_contiguous) == (np.float32, True)
        np.testing.assert_allclose(got, want, rtol=1e-6)
    got = utils.unary_from_labels(LABELS[1:] - 2, 2, 0.6, zero_unsure=False)
    np.testing.assert_allclose(got, -np.log([[0.6, 0.4], [0.4, 0.6]]), rtol=1e-6)
    with pytest.warns(DeprecationWarning, match="unary_from_labels"):
        np.testing.assert_array_equal(utils.compute_unary(LABELS, 3, 0.8), utils.unary_from_labels(LABELS, 3, 0.8))


def test_unary_from_softmax_by_hand() -> None:
    sm = np.array([[[0.25, 0.0]], [[0.75, 1.0]]])
    got = utils.unary_from_softmax(sm)
    assert (got.dtype, got.shape) == (np.float32, (2, 2))
    np.testing.assert_allclose(got, -np.log([[0.25, 1e-5], [0.75, 1]]), rtol=1e-6)
    np.testing.assert_allclose(utils.unary_from_softmax(sm, clip=0.3), -np.log([[0.3, 0.3], [0.75, 1]]), rtol=1e-6)
    half = -np.log([[0.375, 0.25], [0.625, 0.75]])  # half of sm, half of 1/2
    np.testing.assert_allclose(utils.unary_from_softmax(sm, 0.5), half, rtol=1e-6)
    assert utils.unary_from_softmax(sm, clip=None)[0, 1] == np.inf
    assert utils.unary_from_softmax(np.asfortranarray(sm)).flags.c_contiguous  # else setUnaryEnergy would refuse it
    with pytest.warns(DeprecationWarning, match="unary_from_softmax"):
        np.testing.assert_allclose(utils.softmax_to_unary(sm, 0.5), half, rtol=1e-6)
    with pytest.warns(DeprecationWarning):
        assert utils.softmax_to_unary(sm)[0, 1] == np.inf


def test_features_by_hand() -> None:
    rows = [[0, 0, 0, 0.5, 0.5, 0.5], [0, 0.25, 0.5, 0, 0.25, 0.5]]
    got = utils.create_pairwise_gaussian((2, 4), (2, 3))
    assert (got.dtype, got.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(got, rows)
    gray = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(utils.create_pairwise_bilateral((2, 4), 8, gray), [*rows, np.arange(6) / 8])
    colors = np.stack([gray, gray * 10])
    for axis in (0, 1, 2):
        got = utils.create_pairwise_bilateral((2, 4), (8, 16), np.moveaxis(colors, 0, axis).astype(np.uint8), axis)
        np.testing.assert_array_equal(got, [*rows, np.arange(6) / 8, np.arange(6) * 10 / 16])


@needs_pydensecrf
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("unary_from_labels", (LABELS, 3, 0.7)),
        ("unary_from_labels", (LABELS, 4, 0.5, False)),
        ("compute_unary", (LABELS, 3)),
        ("unary_from_softmax", (probabilities(4, 5, 6),)),
        ("unary_from_softmax", (probabilities(4, 5, 6).astype(np.float16), 0.7)),
        ("unary_from_softmax", (probabilities(4, 5, 6).astype(np.float64), 0.7, None)),
        ("softmax_to_unary", (probabilities(4, 5, 6), 0.9)),
        ("create_pairwise_gaussian", ((3, 5.5), (7, 6))),
        ("create_pairwise_gaussian", ((3, 5, 7), (2, 3, 4))),
        ("create_pairwise_bilateral", ((80, 70), (13, 12.5, 11), photo(6, 7), 2)),
        ("create_pairwise_bilateral", ((80, 70), (0.1,), numbers(1, 6, 7), 0)),
        ("create_pairwise_bilateral", ((3, 4, 5), 0.2, numbers(2, 3, 4))),
        ("create_pairwise_bilateral", ((80, 70), (0.1,), photo(6, 7), 2)),  # the other channels stay as they are
        ("create_pairwise_bilateral", ((80,), (13, 12.5), photo(6, 7), 2)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*left unscaled")
def test_utils_equal_pydensecrf(name: str, arguments: tuple[Any, ...]) -> None:
    got, want = getattr(utils, name)(*arguments), getattr(their_utils, name)(*arguments)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=0)


@needs_pydensecrf
@pytest.mark.parametrize(
    ("bands", "largest", "width"),
    [(10, 255, 13.0), (14, 255, 30.0), (10, 4095, 20.0), (3, 65535, 13.0), (7, 65535, 1.0)],
)
def test_many_bands_and_large_features_equal_pydensecrf(bands: int, largest: int, width: float) -> None:
    mixing = np.random.default_rng(0).random((3, bands))
    mixed = (photo(35, 53).reshape(-1, 3) @ mixing).reshape(35, 53, bands)
    image = (mixed / mixed.max() * largest).astype(np.uint16)
    probs, found = probabilities(4, 35, 53), []
    for package in (dcrf, theirs):
        crf = package.DenseCRF(35 * 53, 4)
        crf.setUnaryEnergy(utils.unary_from_softmax(probs))
        crf.addPairwiseEnergy(utils.create_pairwise_bilateral((20, 20), width, image, 2), 5)
        q = crf.inference(5)
        found.append((np.array(q), crf.klDivergence(q)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=0, atol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=2e-5)
    assert np.abs(found[0][0] - probs.reshape(4, -1)).max() > 0.5


@needs_pydensecrf
def test_a_mesh_equals_pydensecrf() -> None:
    points = numbers(800, 3)
    normals = numbers(800, 3, seed=1) - np.float32(0.5)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    features = np.ascontiguousarray(
        np.concatenate([points / 0.2, normals / 0.5, numbers(800, 3, seed=2) / 0.3], 1).T, np.float32
    )
    found = []
    for package in (dcrf, theirs):
        crf = package.DenseCRF(800, 5)
        crf.setUnaryEnergy(numbers(5, 800, seed=3) * 3)
        crf.addPairwiseEnergy(features, 10, package.FULL_KERNEL, package.NORMALIZE_SYMMETRIC)
        found.append(np.array(crf.inference(10)))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-5)


def test_features_beyond_float32_cells() -> None:
    # pairs of pixels that share all features, far from each other: each hears of its twin alone
    features = np.tile(numbers(4, 40) * np.float32(3e8), 2)
    energy = numbers(2, 80) * 2
    q = crf_of_features(energy, features, 3.0).inference(1)
    q0 = softmax(-energy)
    message = (q0 + np.roll(q0, 40, axis=1)) / 2  # symmetric normalization of two equal pixels
    np.testing.assert_allclose(q, softmax(-energy + 3 * message), rtol=0, atol=1e-6)


def test_memoryviews_and_tensors() -> None:
    rgb, probs, compat = photo(9, 7), probabilities(3, 9, 7), np.float32([-1, -2, -1])
    energy = utils.unary_from_softmax(probs)
    features = utils.create_pairwise_bilateral((5, 5), 13, rgb, 2)

    def run(wrap: Any) -> list[np.ndarray]:
        crf = dcrf.DenseCRF2D(7, 9, 3)
        crf.setUnaryEnergy(wrap(energy))
        crf.addPairwiseGaussian(3, wrap(compat))
        crf.addPairwiseBilateral(40, 13, wrap(rgb), 4)
        crf.addPairwiseEnergy(wrap(features), wrap(np.diag(compat)))
        q = crf.inference(2)
        step = wrap(crf.inference(1))
        crf.stepInference(step, *crf.startInference()[1:])
        divergence = crf.klDivergence(wrap(q))
        crf.setUnary(dcrf.LogisticUnary(wrap(np.eye(3, dtype=np.float32)), wrap(energy)))
        return [q, np.asarray(step), np.float64(divergence), crf.inference(2)]

    want = run(lambda x: x)
    np.testing.assert_allclose(want[0], want[1], rtol=0, atol=1e-6)
    for wrap in (memoryview, torch.from_numpy):
        for got, expected in zip(run(wrap), want, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("wrap", [memoryview, torch.from_numpy, lambda x: torch.from_numpy(x * 1.0).requires_grad_()])
def test_utils_take_memoryviews_and_tensors(wrap: Any) -> None:
    probs, rgb = probabilities(3, 9, 7), photo(9, 7)
    np.testing.assert_array_equal(utils.unary_from_softmax(wrap(probs)), utils.unary_from_softmax(probs))
    np.testing.assert_array_equal(utils.unary_from_softmax(wrap(probs), 0.7), utils.unary_from_softmax(probs, 0.7))
    got = utils.create_pairwise_bilateral((3, 4), 13, wrap(rgb), 2)
    np.testing.assert_array_equal(got, utils.create_pairwise_bilateral((3, 4), 13, rgb, 2))
    if wrap in (memoryview, torch.from_numpy):
        labels = probs.argmax(0)
        want = utils.unary_from_labels(labels, 3, 0.7, zero_unsure=False)
        np.testing.assert_array_equal(utils.unary_from_labels(wrap(labels), 3, 0.7, zero_unsure=False), want)
    half = torch.from_numpy(probs).bfloat16()  # numpy has no such type
    np.testing.assert_array_equal(utils.unary_from_softmax(half), utils.unary_from_softmax(half.float().numpy()))


def test_one_width_for_all() -> None:
    rgb = photo(4, 5)
    np.testing.assert_array_equal(
        utils.create_pairwise_gaussian(3, (4, 5)), utils.create_pairwise_gaussian((3, 3), (4, 5))
    )
    want = utils.create_pairwise_bilateral((3, 3), (7, 7, 7), rgb, 2)
    np.testing.assert_array_equal(utils.create_pairwise_bilateral(3, 7, rgb, 2), want)
    np.testing.assert_array_equal(utils.create_pairwise_bilateral(np.float32(3), np.float64(7), rgb, 2), want)


def test_fewer_widths_leave_the_rest_unscaled_and_say_so() -> None:
    rgb = photo(4, 5)
    with pytest.warns(UserWarning, match="schan has 2 widths for 3 channels: the last 1 are left unscaled") as caught:
        got = utils.create_pairwise_bilateral((3, 3), (13, 5), rgb, 2)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(got, utils.create_pairwise_bilateral((3, 3), (13, 5, 1), rgb, 2))
    with pytest.warns(UserWarning, match="sdims has 1 widths for 2 axes"):
        got = utils.create_pairwise_bilateral((3,), 13, rgb, 2)
    np.testing.assert_array_equal(got, utils.create_pairwise_bilateral((3, 1), 13, rgb, 2))


def test_bad_inputs() -> None:
    energy, features, rgb = numbers(3, 12), numbers(2, 12, seed=1), photo(3, 4)
    crf, plane = dcrf.DenseCRF(12, 3), dcrf.DenseCRF2D(4, 3, 3)
    with pytest.raises(ValueError, match="no unary"):
        crf.inference(1)
    with pytest.raises(ValueError, match="no unary"):
        crf.startInference()
    with pytest.raises(ValueError, match="no unary"):
        crf.klDivergence(energy)
    crf.setUnaryEnergy(energy)
    holes = energy.copy()
    holes[1, 2] = np.nan
    far = np.full((2, 12), 1e20, np.float32)
    forbidden = energy.copy()
    forbidden[:, 5] = np.inf
    work = np.empty((0, 0), np.float32)
    frozen = crf.inference(1)
    frozen.flags.writeable = False
    bad: list[tuple[Any, tuple[Any, ...], str]] = [
        (dcrf.DenseCRF, (0, 3), "nvar must be .* at least 1, got 0"),
        (dcrf.DenseCRF, (8.5, 3), "nvar must be a whole number"),
        (dcrf.DenseCRF, (8, -1), "nlabels must be"),
        (dcrf.DenseCRF2D, (4, 0, 3), "h must be"),
        (crf.setUnaryEnergy, (energy.astype(np.float64),), "u must be float32, got float64; .*astype"),
        (crf.setUnaryEnergy, (energy[:2].copy(),), r"\[3, 12\] \(nlabels, nvar\), got \[2, 12\]"),
        (crf.setUnaryEnergy, (energy.reshape(3, 3, 4),), "shape"),
        (crf.setUnaryEnergy, (np.asfortranarray(energy),), "C-contiguous; pass np.ascontiguousarray"),
        (crf.setUnaryEnergy, (energy[:, ::-1],), "C-contiguous"),
        (crf.setUnaryEnergy, (holes,), "NaN"),
        (crf.setUnaryEnergy, (-forbidden,), "-inf"),
        (crf.setUnaryEnergy, (forbidden,), "every label of a pixel"),
        (crf.setUnaryEnergy, (numbers(3, 5), numbers(4, 12)), "f must have the shape"),
        (crf.setUnary, (dcrf.Unary(),), "no energy"),
        (crf.addPairwiseEnergy, (features.astype(np.float64), 1), "features must be float32"),
        (crf.addPairwiseEnergy, (features[:, :5].copy(), 1), r"\[any, 12\], got \[2, 5\]"),
        (crf.addPairwiseEnergy, (features.T.copy(), 1), "shape"),
        (crf.addPairwiseEnergy, (np.asfortranarray(features), 1), "C-contiguous"),
        (crf.addPairwiseEnergy, (np.ones((65, 12), np.float32), 1), "D from 1 to 64"),
        (crf.addPairwiseEnergy, (np.ones((0, 12), np.float32), 1), "D from 1 to 64"),
        (crf.addPairwiseEnergy, (holes, 1), "NaN"),
        (crf.addPairwiseEnergy, (far, 1), "larger sigma"),
        (crf.addPairwiseEnergy, (features, np.ones(2, np.float32)), r"compat must have the shape \[3\]"),
        (crf.addPairwiseEnergy, (features, np.ones((2, 3), np.float32)), r"\[3, 3\]"),
        (crf.addPairwiseEnergy, (features, np.ones((3, 3))), "compat must be float32"),
        (crf.addPairwiseEnergy, (features, np.ones((3, 3, 3), np.float32)), "3 dimensions"),
        (crf.addPairwiseEnergy, (features, float("nan")), "compat holds NaN"),
        (crf.addPairwiseEnergy, (features, 1, 7), "kernel must be one of CONST_KERNEL, "),
        (crf.addPairwiseEnergy, (features, 1, 1, 9), "normalization must be one of NO_NORMALIZATION, "),
        (crf.inference, (-1,), "niter must be"),
        (crf.inference, (2.5,), "niter must be"),
        (crf.stepInference, (energy[:2].copy(), work, work), "Q must have the shape"),
        (crf.stepInference, (frozen, work, work), "read-only"),
        (crf.klDivergence, (holes,), "Q holds NaN"),
        (plane.addPairwiseGaussian, (0, 1), "sxy must be .* greater than 0"),
        (plane.addPairwiseGaussian, ((3, 4, 5), 1), "sxy must be one or 2 numbers"),
        (plane.addPairwiseGaussian, (1e-20, 1), "too many lattice cells"),
        (plane.addPairwiseBilateral, (80, 1e-12, rgb, 1), "too many lattice cells"),
        (plane.addPairwiseBilateral, (80, (1, 2), rgb, 1), "srgb must be one or 3 numbers"),
        (plane.addPairwiseBilateral, (80, float("nan"), rgb, 1), "srgb must be"),
        (plane.addPairwiseBilateral, (80, 13, rgb.astype(np.float32), 1), "rgbim must be uint8, got float32"),
        (plane.addPairwiseBilateral, (80, 13, rgb.transpose(1, 0, 2).copy(), 1), r"\[3, 4, 3\], got \[4, 3, 3\]"),
        (plane.addPairwiseBilateral, (80, 13, rgb[..., :1].copy(), 1), "create_pairwise_bilateral"),
        (plane.addPairwiseBilateral, (80, 13, rgb[..., 0].copy(), 1), "rgbim must have the shape"),
        (plane.addPairwiseBilateral, (80, 13, rgb[..., ::-1], 1), "C-contiguous"),
        (utils.unary_from_labels, (LABELS, 2, 0.5), "labels must lie in 0 to 2 .* got 0 to 3"),
        (utils.unary_from_labels, (LABELS - 1, 3, 0.5), "labels must lie"),
        (utils.unary_from_labels, (LABELS, 3, 0.5, False), "labels must lie in 0 to 2"),
        (utils.unary_from_labels, (LABELS * 1.0, 3, 0.5), "labels must be integers"),
        (utils.unary_from_labels, (LABELS, 3, 1.0), "gt_prob"),
        (utils.unary_from_labels, (LABELS * 0, 1, 0.5), "n_labels must be at least 2"),
        (utils.unary_from_softmax, (holes,), "NaN"),
        (utils.unary_from_softmax, (energy, 1.5), "scale must lie"),
        (utils.create_pairwise_gaussian, ((3,), (4, 5)), "sdims must be 2 numbers, .* or one number for all"),
        (utils.create_pairwise_gaussian, ((3, 3, 3), (4, 5)), "sdims must be 2 numbers"),
        (utils.create_pairwise_gaussian, ((3, 0), (4, 5)), "sdims must be"),
        (utils.create_pairwise_bilateral, ((3, 3), (1, 2, 3, 4), rgb, 2), "schan must be 3 numbers .* channels"),
        (utils.create_pairwise_bilateral, ((3, 3), (1, 0), rgb, 2), "schan must be 3 numbers"),
        (utils.create_pairwise_bilateral, ((3, 3), (), rgb, 2), "schan must be 3 numbers"),
        (utils.create_pairwise_bilateral, ((3, 3, 3), 1, rgb, 2), "sdims must be 2 numbers .* axes"),
        (utils.create_pairwise_bilateral, ((3, 3), 1, rgb, 3), "chdim must be"),
    ]
    for function, arguments, message in bad:
        with pytest.raises(ValueError, match=message):
            function(*arguments)
    no_arrays: list[tuple[Any, tuple[Any, ...]]] = [
        (crf.setUnaryEnergy, (None,)),
        (crf.setUnaryEnergy, (energy.tolist(),)),
        (crf.setUnary, (energy,)),
        (crf.setUnary, (None,)),
        (crf.addPairwiseEnergy, (None, 1)),
        (crf.addPairwiseEnergy, (features, "3")),
        (crf.addPairwiseEnergy, (features, None)),
        (crf.klDivergence, (None,)),
        (crf.inference, ("3",)),
        (plane.addPairwiseGaussian, ("3", 1)),
        (plane.addPairwiseBilateral, (80, 13, None, 1)),
        (utils.unary_from_softmax, ([[0.5]],)),
    ]
    for function, arguments in no_arrays:
        with pytest.raises(TypeError, match="must be"):
            function(*arguments)
    np.testing.assert_array_equal(crf.inference(3), crf.inference(0))  # nothing bad was kept


def test_blocks_of_the_page_run() -> None:
    page = (Path(__file__).parent.parent / "docs" / "dense-crf.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/dense-crf.md", "exec"), names)
    assert names["labels"].shape == (48, 64)
    assert tuple(names["probs"].shape) == (1, 5, 48, 64)
    assert names["loss"].item() < 0
