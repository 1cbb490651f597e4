"""The losses of the method as pure functions of tensors.

Paper: Reliability Does Matter (AAAI 2020), joint loss of tags, reliable pixels and dense energy; each function names
its equation and how the published code differs. All take any device; half-precision inputs are computed in float32.
Where several processes share a batch, `team` sums over all of it: then each gives the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.base.team import ALONE, Team
from tag2mask.config import BACKGROUND, IGNORE, SegmentationLoss
from tag2mask.filtering import Backend, PictureBatch, check_levels, check_sigma, describe

__all__ = [
    "balanced_cross_entropy",
    "class_distance_loss",
    "cross_entropy",
    "dense_energy_loss",
    "dice_cross_entropy",
    "tag_loss",
]


def tag_loss(tag_logits: Tensor, tags: Tensor, *, team: Team = ALONE) -> Tensor:
    """Binary cross entropy of every class, averaged over classes and pictures (multi-label soft margin).

    Args:
        tag_logits: float [B, C].
        tags: bool [B, C].
        team: Processes that share the batch.

    Raises:
        ValueError: shapes differ or are not [B, C].
    """
    if tag_logits.ndim != 2 or tag_logits.shape != tags.shape or not tag_logits.is_floating_point():
        raise ValueError(
            f"tag_logits must be float [B, C] and tags [B, C], got {describe(tag_logits)}, {describe(tags)}"
        )
    each = F.multilabel_soft_margin_loss(_at_least_float32(tag_logits), tags.to(torch.float32), reduction="none")
    return team.total(each.sum()) / team.number(len(each))


def balanced_cross_entropy(seg_logits: Tensor, labels: Tensor, *, team: Team = ALONE) -> Tensor:
    """Cross entropy over reliable background pixels plus that over reliable object pixels.

    Each of the two is the mean over its own labeled pixels of the whole batch, so neither drowns the other; one without
    any pixel adds 0 (published code: NaN). Logits are resized to the labels (bilinear, align_corners=False).

    Args:
        seg_logits: float [B, K, h, w], background first.
        labels: int64 [B, H, W] in {0..K-1, 255}; 255 teaches nothing.
        team: Processes that share the batch.

    Raises:
        ValueError: wrong shapes or types, or a label outside 0..K-1 other than 255.
    """
    each = _pixel_losses(seg_logits, labels)
    background = labels == BACKGROUND
    foreground = (labels != BACKGROUND) & (labels != IGNORE)
    return _mean_where(each, background, team) + _mean_where(each, foreground, team)


def cross_entropy(seg_logits: Tensor, labels: Tensor, *, team: Team = ALONE) -> Tensor:
    """Mean cross entropy over all labeled pixels of the batch, as supervised training has it; 0 without any.

    Args and errors as of `balanced_cross_entropy`.
    """
    return _mean_where(_pixel_losses(seg_logits, labels), labels != IGNORE, team)


def dice_cross_entropy(seg_logits: Tensor, labels: Tensor, *, team: Team = ALONE) -> Tensor:
    """Cross entropy of all labeled pixels plus the soft Dice loss of the labels that the batch shows.

    With probabilities p and one-hot labels y, summed over the labeled pixels of the whole batch, the Dice loss of a
    label is `1 - 2 sum(p y) / (sum p + sum y)` (Milletari et al. 2016, arXiv 1606.04797, with p for p^2; over the batch
    as Isensee et al., nnU-Net); the mean over the labels that occur is added. It is as large for an object of ten
    pixels as for one of ten thousand, and unlike `balanced_cross_entropy` counts what is drawn too much as much as what
    is missed.

    Args and errors as of `balanced_cross_entropy`.
    """
    entropy = cross_entropy(seg_logits, labels, team=team)
    probs = _resized(seg_logits, labels).softmax(dim=1)
    given = labels != IGNORE
    k = probs.shape[1]
    truth = F.one_hot(torch.where(given, labels, k), k + 1)[..., :k].permute(0, 3, 1, 2).to(probs.dtype)
    both = team.total((probs * truth).sum((0, 2, 3)))
    drawn = team.total((probs * given.unsqueeze(1)).sum((0, 2, 3)))
    true = team.total(truth.sum((0, 2, 3)))
    dice = 1 - 2 * both / (drawn + true).clamp(min=1)
    return entropy + _mean_where(dice, true > 0, ALONE)


SEGMENTATION_LOSSES: Mapping[SegmentationLoss, Callable[..., Tensor]] = {
    "balanced": balanced_cross_entropy,
    "plain": cross_entropy,
    "dice": dice_cross_entropy,
}
"""The losses of the segmentation by their names in the configs."""


def _resized(seg_logits: Tensor, labels: Tensor) -> Tensor:
    """Logits, float32 or float64, at the size of the labels."""
    logits = _at_least_float32(seg_logits)
    if logits.shape[2:] != labels.shape[1:]:
        logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    return logits


def _pixel_losses(seg_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each pixel [B, H, W], 0 where the label is IGNORE."""
    _require_maps("seg_logits", seg_logits, "[B, K, h, w]")
    if labels.ndim != 3 or labels.dtype is not torch.int64 or len(labels) != len(seg_logits):
        raise ValueError(f"labels must be int64 [{len(seg_logits)}, H, W], got {describe(labels)}")
    classes = seg_logits.shape[1]
    if bool(((labels != IGNORE) & ((labels < 0) | (labels >= classes))).any()):
        raise ValueError(
            f"labels must lie in 0..{classes - 1} or be {IGNORE}, got {int(labels.min())}..{int(labels.max())}"
        )
    return F.cross_entropy(_resized(seg_logits, labels), labels, ignore_index=IGNORE, reduction="none")


def _require_maps(name: str, value: Tensor, axes: str) -> None:
    if value.ndim != 4 or not value.is_floating_point() or 0 in value.shape:
        raise ValueError(f"{name} must be float {axes} and not empty, got {describe(value)}")


def _mean_where(values: Tensor, where: Tensor, team: Team) -> Tensor:
    return team.total(torch.where(where, values, 0).sum()) / team.total(where.sum()).clamp(min=1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.to(torch.float32)


def dense_energy_loss(
    rgb: Tensor,
    probs: Tensor,
    labels: Tensor,
    valid: Tensor | None,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    weight: float = 1e-7,
    gradient: Literal["surrogate", "exact"] = "surrogate",
    *,
    backend: Backend = "auto",
    team: Team = ALONE,
) -> Tensor:
    """Dense energy with the soft gate of the paper (eq. 9-11), in the form of the published code.

    Everything is resampled by `scale` first: `rgb`, `labels`, `valid` nearest, `probs` bilinear (align_corners=False).
    With `q = valid probs`, the gate `S = 1` where unlabeled, else `max(0, valid - max_c probs)`, and the unnormalized
    bilateral filter `K` (its pixel itself included, spatial width `sigma_xy scale`):

        loss = -(weight / B) sum_i S_i sum_c q_ic (K q)_ic

    It is the paper's energy without the degree term `S_i sum_j k_ij`, hence negative, and sums over pixels. The gate is
    never differentiated. Pixels that are not valid stay in the lattice, as published, but hold no value.

    Equal inputs give equal bits on the same device. On a GPU the gradient of the resampling does so at scale 0.5 and 1;
    at others only under `torch.use_deterministic_algorithms(True)`.

    Args:
        rgb: [B, 3, H, W], uint8, or float in the same levels of 0-255 (not 0-1), whole or not.
        probs: float [B, K, H, W], softmax of the logits.
        labels: int64 [B, H, W]; 255 where unlabeled.
        valid: bool [B, H, W], or None for all True.
        sigma_rgb: color width in levels of 0-255.
        sigma_xy: spatial width in pixels before `scale`.
        scale: size at which the energy is evaluated, relative to the input.
        weight: factor on the sum; 1e-7 belongs to crops of 321 at half size.
        gradient: `surrogate` gives `-(2 weight / B) valid S (K q)` as published, exact only where S is constant;
            `exact` gives the derivative `-(weight / B) valid (S (K q) + K^T (S q))`.
        backend: `core`, `torch`, or `auto` for the core where it can be used (float32 on the CPU).
        team: Processes that share the batch.

    Raises:
        ValueError: wrong shapes or types, float levels that are NaN or beyond 0-255, a width or scale that is not
            greater than 0, or an unknown gradient.
    """
    for name, value in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy), ("scale", scale)):
        check_sigma(name, value)
    _check_energy(rgb, probs, labels, valid, scale, gradient)
    if valid is None:
        valid = torch.ones_like(labels, dtype=torch.bool)
    rgb_small, labels_small, valid_small = (
        F.interpolate(_at_least_float32(x), scale_factor=scale, mode="nearest")
        for x in (rgb, labels[:, None], valid[:, None])
    )
    if rgb.dtype is torch.uint8:
        rgb_small = rgb_small.to(torch.uint8)
    small = F.interpolate(_at_least_float32(probs), scale_factor=scale, mode="bilinear", align_corners=False)
    mask = valid_small.to(small.dtype)
    with torch.no_grad():
        gate = torch.where(labels_small == IGNORE, 1.0, (mask - small.amax(1, keepdim=True)).clamp(min=0))
    kernel = PictureBatch(rgb_small, sigma_xy * scale, sigma_rgb, backend)
    energy = _Energy.apply(small * mask, gate, kernel, gradient)
    return team.total(cast(Tensor, energy)) * (weight / team.number(len(probs)))


class _Energy(torch.autograd.Function):
    """`-sum S q (K q)` with the published or the exact gradient in q."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, gate: Tensor, kernel: PictureBatch, gradient: str) -> Tensor:
        filtered = kernel.run(q)
        if ctx.needs_input_grad[0]:
            slope = 2 * gate * filtered
            if gradient == "exact":
                slope = gate * filtered + kernel.run(gate * q, transpose=True)
            ctx.save_for_backward(slope)
        return -(gate * q * filtered).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return -grads[0] * slope, None, None, None


def _check_energy(
    rgb: Tensor, probs: Tensor, labels: Tensor, valid: Tensor | None, scale: float, gradient: str
) -> None:
    if gradient not in ("surrogate", "exact"):
        raise ValueError(f"gradient must be surrogate or exact, got {gradient!r}")
    _require_maps("probs", probs, "[B, K, H, W]")
    batch, height, width = probs.shape[0], *probs.shape[2:]
    if min(height, width) * scale < 1:
        raise ValueError(
            f"at scale {scale} nothing is left of pictures of {height} x {width}; enlarge them or raise scale"
        )
    kinds = torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64
    wanted: list[tuple[str, Tensor | None, str, tuple[torch.dtype, ...], list[int]]] = [
        ("rgb", rgb, "uint8 or float", kinds, [batch, 3, height, width]),
        ("labels", labels, "int64", (torch.int64,), [batch, height, width]),
        ("valid", valid, "bool", (torch.bool,), [batch, height, width]),
    ]
    for name, value, kind, dtypes, shape in wanted:
        if value is not None and (value.dtype not in dtypes or list(value.shape) != shape):
            raise ValueError(
                f"{name} must be {kind} {shape} to go with probs {list(probs.shape)}, got {describe(value)}"
            )
    check_levels(rgb)


def class_distance_loss(seg_logits: Tensor, features: Tensor, *, team: Team = ALONE) -> Tensor:
    """Batch-based class distance of the 2022 journal extension: tight classes, distant class centers.

    Labels are the argmax of the network's own logits. The background has one center per picture, each other class one
    over the whole batch; distances are cosine. Follows the published code, also where a picture without background
    gets a zero center and the intra distance 2.

    Args:
        seg_logits: float [B, K, h, w], background first; no gradient flows into them.
        features: float [B, D, h, w].
        team: Processes that share the batch.

    Raises:
        ValueError: wrong shapes or types.
    """
    _require_maps("seg_logits", seg_logits, "[B, K, h, w]")
    _require_maps("features", features, "[B, D, h, w]")
    if len(seg_logits) != len(features) or seg_logits.shape[2:] != features.shape[2:]:
        raise ValueError(
            f"seg_logits and features must agree in batch and size, got {describe(seg_logits)}, {describe(features)}"
        )
    classes = seg_logits.shape[1]
    vectors = _at_least_float32(features).flatten(2).mT
    hot = F.one_hot(seg_logits.argmax(1).flatten(1), classes).to(vectors.dtype)
    background_centers, background_spread, has_background = _spread(vectors, hot[..., :1], ALONE)
    everything = vectors.reshape(1, -1, vectors.shape[2]), hot.reshape(1, -1, classes)[..., 1:]
    object_centers, object_spread, has_object = _spread(*everything, team)
    background_centers, has_background = background_centers[:, 0], has_background[:, 0]
    object_centers, object_spread = object_centers[0][has_object[0]], object_spread[0][has_object[0]]
    spread = torch.where(has_background, background_spread[:, 0], 2)
    pictures, count = team.number(len(vectors)), len(object_centers)
    intra = (team.total(spread.sum()) + object_spread.sum()) / (pictures + count)
    if count == 0:
        return intra
    inter = 0.5 * _distance_among(object_centers)
    if not team.any(bool(has_background.any())):
        return intra + inter + 1
    apart = team.total((1 + _cosines(object_centers, background_centers)).sum())
    return intra + inter + 0.5 * apart / (count * pictures)


def _spread(vectors: Tensor, member: Tensor, team: Team) -> tuple[Tensor, Tensor, Tensor]:
    """Centers [G, k, D] of the members [G, n, k] of vectors [G, n, D], mean cosine distance to them, whether any."""
    count = team.total(member.sum(1))
    centers = team.total(member.mT @ vectors) / count.clamp(min=1)[..., None]
    distance = 1 - _cosines(vectors, centers)
    return centers, team.total((member * distance).sum(1)) / count.clamp(min=1), count > 0


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of every vector of [..., n, D] with every vector of [..., m, D]."""
    lengths: Tensor = a.norm(dim=-1)[..., :, None] * b.norm(dim=-1)[..., None, :]
    return a @ b.mT / (lengths + 1e-7)


def _distance_among(centers: Tensor) -> Tensor:
    """Mean of 1 + cosine between each two of the centers [n, D]."""
    count = len(centers)
    between = 1 + _cosines(centers, centers)
    apart = 1 - torch.eye(count, dtype=between.dtype, device=between.device)
    return (between * apart).sum() / max(count * (count - 1), 1)
