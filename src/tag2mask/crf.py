"""Dense CRF by mean field (Krähenbühl & Koltun 2011), many unaries and pictures at a time.

Both pairwise terms run on the permutohedral lattice with symmetric normalization; Potts compatibility; the pixel's own
contribution stays in the message, as in the reference implementation. Differences from it: pixels that are not valid
are left out of the filters, and no padding pixels enter the lattice where H W is not a multiple of four.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tag2mask.config import CRFParams
from tag2mask.filtering import (
    Backend,
    TorchLattice,
    bilateral_features,
    describe,
    grid_features,
    pick_core,
    spatial_twin,
)

__all__ = ["CRFParams", "dense_crf"]

MIN_SCORE = 1e-5
"""Scores are clipped to [1e-5, 1] before the logarithm [published code]."""


@torch.no_grad()
def dense_crf(
    rgb: Tensor,
    scores: Tensor,
    params: CRFParams | None = None,
    valid: Tensor | None = None,
    present: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Marginals of the dense CRF after `params.iterations` mean-field steps.

    The unary energy is `-log(clip(scores, 1e-5, 1))`, not renormalized. On the CPU `torch.get_num_threads()` threads
    share the pictures; their number changes no result.

    Args:
        rgb: uint8 [B, 3, H, W].
        scores: float [B, K, H, W], or [B, R, K, H, W] for R unaries of the same picture, which share its lattice.
        params: kernel widths, weights and steps; `CRFParams.mining()` by default.
        valid: bool [B, H, W]; where False the pixel is left out of the filters and its marginal is softmax(-unary).
        present: bool [B, K]; a False label takes no part, exactly as with fewer labels, and its marginal is 0.
        backend: `core`, `torch`, or `auto` for the core where it can be used.

    Returns:
        float32, shape and device of `scores`; sums to 1 over K.

    Raises:
        ValueError: wrong shape or type, NaN scores, a picture without any present label.
    """
    params = CRFParams.mining() if params is None else params
    _check(rgb, scores, valid, present)
    stacked = (scores if scores.ndim == 5 else scores[:, None]).to(torch.float32)
    if present is None:
        present = torch.ones(stacked.shape[0], stacked.shape[2], dtype=torch.bool, device=scores.device)
    present = present.to(scores.device)
    if not bool(present.any(1).all()):
        raise ValueError("present is False for every label of a picture; a CRF needs at least one label")
    rgb = rgb.to(scores.device)
    valid = None if valid is None else valid.to(scores.device)
    run = _on_torch if pick_core(backend, stacked) is None else _on_core
    return run(rgb, stacked, params, valid, present).reshape(scores.shape)


def _on_core(rgb: Tensor, scores: Tensor, params: CRFParams, valid: Tensor | None, present: Tensor) -> Tensor:
    core = pick_core("core", scores)
    assert core is not None  # pick_core raises where the core is missing
    out = torch.zeros(scores.shape)
    bad = core.dense_crf(
        rgb.contiguous().numpy(),
        scores.contiguous().numpy(),
        present.to(torch.uint8).contiguous().numpy(),
        None if valid is None else valid.to(torch.uint8).contiguous().numpy(),
        out.numpy(),
        params.gaussian_sxy,
        params.gaussian_compat,
        params.bilateral_sxy,
        params.bilateral_srgb,
        params.bilateral_compat,
        params.iterations,
        torch.get_num_threads(),
    )
    if bad >= 0:
        raise ValueError(f"scores of picture {bad} of the batch hold NaN; scores must be numbers in [0, 1]")
    return out


def _on_torch(rgb: Tensor, scores: Tensor, params: CRFParams, valid: Tensor | None, present: Tensor) -> Tensor:
    out = torch.zeros_like(scores)
    for i in range(len(scores)):
        labels = present[i].nonzero()[:, 0]
        log_scores = scores[i][:, labels].clamp(MIN_SCORE, 1).log()
        if bool(log_scores.isnan().any()):
            raise ValueError(f"scores of picture {i} of the batch hold NaN; scores must be numbers in [0, 1]")
        q = log_scores.softmax(1)
        mask = None if valid is None or bool(valid[i].all()) else valid[i]
        if mask is None:
            q = _mean_field(rgb[i], log_scores.flatten(2), params, None).reshape(q.shape)
        elif bool(mask.any()):
            q[:, :, mask] = _mean_field(rgb[i], log_scores[:, :, mask], params, mask)
        out[i][:, labels] = q
    return out


def _mean_field(rgb: Tensor, log_scores: Tensor, params: CRFParams, valid: Tensor | None) -> Tensor:
    """Mean field of [R, L, N] over the valid pixels of one picture."""
    size = (int(rgb.shape[1]), int(rgb.shape[2]))
    if valid is None:
        spatial = spatial_twin(*size, params.gaussian_sxy, rgb.device, torch.float32)
    else:
        spatial = TorchLattice(grid_features(size, params.gaussian_sxy, valid, device=rgb.device))
    features = bilateral_features(rgb, params.bilateral_sxy, params.bilateral_srgb, valid, torch.float32)
    bilateral = TorchLattice(features)
    terms = [
        (lattice, lattice.norm(), compat)
        for lattice, compat in ((spatial, params.gaussian_compat), (bilateral, params.bilateral_compat))
    ]
    q = log_scores.softmax(1)
    for _ in range(params.iterations):
        exponent = log_scores
        for lattice, norm, compat in terms:
            message = norm * lattice.filter(norm * q.flatten(0, 1))
            exponent = exponent + compat * message.reshape(q.shape)
        q = exponent.softmax(1)
    return q


def _check(rgb: Tensor, scores: Tensor, valid: Tensor | None, present: Tensor | None) -> None:
    if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.ndim not in (4, 5):
        raise ValueError(f"scores must be a float tensor [B, K, H, W] or [B, R, K, H, W], got {describe(scores)}")
    if 0 in scores.shape:
        raise ValueError(f"scores must not be empty, got {describe(scores)}")
    batch, labels, height, width = scores.shape[0], *scores.shape[-3:]
    wanted: list[tuple[str, Tensor | None, torch.dtype, list[int]]] = [
        ("rgb", rgb, torch.uint8, [batch, 3, height, width]),
        ("valid", valid, torch.bool, [batch, height, width]),
        ("present", present, torch.bool, [batch, labels]),
    ]
    for name, value, dtype, shape in wanted:
        if value is None and name != "rgb":
            continue
        if not isinstance(value, Tensor) or value.dtype is not dtype or list(value.shape) != shape:
            raise ValueError(
                f"{name} must be {str(dtype).removeprefix('torch.')} {shape} to go with scores {list(scores.shape)}, "
                f"got {describe(value)}"
            )
