"""Dense CRF by mean field (Krähenbühl & Koltun 2011), many unaries and pictures at a time.

Both pairwise terms run on the permutohedral lattice with symmetric normalization; Potts compatibility; the pixel's own
contribution stays in the message, as in the reference implementation. Differences from it: pixels that are not valid
are left out of the filters, and no padding pixels enter the lattice where H W is not a multiple of four.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tag2mask.config import CRFParams
from tag2mask.filtering import Backend, describe, pick_core
from tag2mask.torch_lattice import TorchLattice, picture_features, spatial_twin, work_device

__all__ = ["CRFParams", "dense_crf"]

MIN_SCORE = 1e-5
"""Scores are clipped to [1e-5, 1] before the logarithm [published code]."""

NAN_SCORES = "scores of picture {} of the batch hold NaN; scores must be numbers in [0, 1]"
NO_LABEL = "present is False for every label of a picture; a CRF needs at least one label"


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
    share the pictures of a batch, which changes no bit; threads that are left over share the inside of a picture of
    65536 pixels or more, whose last bits then depend on their number.

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
    device = work_device(scores.device)
    stacked = (scores if scores.ndim == 5 else scores[:, None]).to(device, torch.float32)
    if present is None:
        present = torch.ones(stacked.shape[0], stacked.shape[2], dtype=torch.bool, device=device)
    rgb, present = rgb.to(device), present.to(device)
    valid = None if valid is None else valid.to(device)
    run = _on_torch if pick_core(backend, stacked) is None else _on_core
    return run(rgb, stacked, params, valid, present).reshape(scores.shape).to(scores.device)


@torch.no_grad()
def reference_marginals(rgb: Tensor, energies: Tensor, params: CRFParams) -> Tensor:
    """Marginals as of the published code, for the stand-ins of it; on the compiled core alone.

    Unlike `dense_crf` it takes the unary energies themselves, and fills a picture up to a multiple of four pixels with
    some whose features are 0, which hold no value but whose vertices take part in the blur.

    Args:
        rgb: uint8 [B, 3, H, W].
        energies: float32 [B, R, L, H, W], +inf where a label is forbidden, but not all of a pixel; no NaN.
        params: as of `dense_crf`.

    Returns:
        Shape of `energies`.
    """
    present = torch.ones(energies.shape[0], energies.shape[2], dtype=torch.bool)
    return _on_core(rgb, energies, params, None, present, as_reference=True)


def _on_core(
    rgb: Tensor, scores: Tensor, params: CRFParams, valid: Tensor | None, present: Tensor, *, as_reference: bool = False
) -> Tensor:
    core = pick_core("core", scores)
    assert core is not None  # pick_core raises where the core is missing
    if not bool(present.any(1).all()):
        raise ValueError(NO_LABEL)
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
        energies=as_reference,
        filled=as_reference,
    )
    if bad >= 0:
        raise ValueError(NAN_SCORES.format(bad))
    return out


def _on_torch(rgb: Tensor, scores: Tensor, params: CRFParams, valid: Tensor | None, present: Tensor) -> Tensor:
    """All pictures and runs at once: labels packed to the front, the valid pixels of the pictures one after another.

    A GPU is waited for a fixed number of times: one look at the batch, three for each lattice that is built (the
    spatial one is cached unless pixels are left out), one for the valid pixels; never by picture or by step.
    """
    batch, runs, all_labels, height, width = scores.shape
    pixels = height * width
    nan = (scores.isnan().flatten(3).any(3).any(1) & present).any(1)
    inside = torch.full_like(nan, pixels, dtype=torch.int64) if valid is None else valid.flatten(1).sum(1)
    broken, counts, reach = torch.stack([nan.long(), present.sum(1), inside]).tolist()
    if not all(counts):
        raise ValueError(NO_LABEL)
    if any(broken):
        raise ValueError(NAN_SCORES.format(broken.index(1)))

    labels, everything = max(counts), min(counts) == all_labels
    picture = torch.arange(batch, device=scores.device)
    order = present.byte().sort(dim=1, descending=True, stable=True).indices[:, :labels]
    packed = scores if everything else scores[picture[:, None], :, order].transpose(1, 2)
    log_scores = packed.clamp(MIN_SCORE, 1).log()
    if min(counts) < labels:  # softmax makes q exactly 0 where a picture has fewer labels
        there = present.gather(1, order)[:, None, :, None, None]
        log_scores = torch.where(there, log_scores, -torch.inf)
    log_scores = log_scores.permute(0, 3, 4, 1, 2).reshape(batch * pixels, runs, labels)

    if min(reach) == pixels:
        q = _mean_field(rgb, log_scores, params, None, picture.repeat_interleave(pixels))
    else:
        q = _softmax(log_scores)
        if any(reach) and valid is not None:
            index = valid.flatten().nonzero()[:, 0]
            q[index] = _mean_field(rgb, log_scores[index], params, (valid, index), index // pixels)
    q = q.reshape(batch, height, width, runs, labels).permute(0, 3, 4, 1, 2)
    if everything:
        return q.contiguous()
    out = torch.zeros_like(scores)
    out[picture[:, None], :, order] = q.transpose(1, 2)
    return out


def _mean_field(
    rgb: Tensor, log_scores: Tensor, params: CRFParams, inside: tuple[Tensor, Tensor] | None, picture: Tensor
) -> Tensor:
    """Mean field of [N, R, L] over N pixels.

    Args:
        rgb: uint8 [B, 3, H, W].
        log_scores: minus the unary energy.
        params: see `dense_crf`.
        inside: bool [B, H, W] and int64 [N], which pixels these are; None: all.
        picture: int64 [N], whose pixels.
    """
    batch, size, device = len(rgb), (int(rgb.shape[2]), int(rgb.shape[3])), rgb.device
    valid = None if inside is None else inside[0]
    features = picture_features(size, params.bilateral_sxy, valid, rgb, params.bilateral_srgb, device=device)
    if inside is None:
        spatial = spatial_twin(*size, params.gaussian_sxy, device, torch.float32).repeated(batch)
    else:
        features = features[:, inside[1]]
        grid = picture_features(size, params.gaussian_sxy, valid, device=device)
        spatial = TorchLattice(grid[:, inside[1]], picture, batch)
    # Norms and weights go into the barycentric weights: the loop is two filters and a softmax.
    first = spatial.normalized(params.gaussian_compat)
    second = TorchLattice(features, picture, batch).normalized(params.bilateral_compat)
    q = _softmax(log_scores)
    for _ in range(params.iterations):
        channels = q.flatten(1)
        message = first.rows(channels).add_(second.rows(channels)).reshape(q.shape)
        q = _softmax(message.add_(log_scores))
    return q


def _softmax(exponent: Tensor) -> Tensor:
    """Softmax over the last axis of [N, R, L]; over few labels torch on the CPU is ten times faster across pixels."""
    if exponent.shape[2] >= 16 or exponent.device.type != "cpu":
        return exponent.softmax(2)
    return exponent.permute(1, 2, 0).contiguous().softmax(1).permute(2, 0, 1).contiguous()


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
