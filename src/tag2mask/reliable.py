"""Reliable pixel labels from class activation maps and dense CRF votes (paper eq. 3-7; method 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from tag2mask.config import BACKGROUND, IGNORE, ReliableConfig
from tag2mask.crf import dense_crf

__all__ = ["ReliableConfig", "Votes", "background_score", "crf_votes", "labels_from_votes", "reliable_labels"]

DenseCRF: TypeAlias = Callable[..., Tensor]
"""A function with the arguments of `dense_crf`."""


class Votes(NamedTuple):
    """The dense CRF's posteriors of the CAMs."""

    low: Tensor
    """float [B, K, H, W]: posterior with the background score's lower exponent, the vote for objects."""
    high: Tensor
    """float [B, K, H, W]: posterior with the higher exponent, the vote for background; `low` itself with one vote."""


def background_score(cams: Tensor, power: float) -> Tensor:
    """Score of "no object here": (1 - max over classes)^power (paper eq. 3).

    Args:
        cams: float [B, C, H, W] in [0, 1].
        power: Exponent > 0; a larger one gives less background.

    Returns:
        float [B, 1, H, W] in [0, 1].
    """
    return (1 - cams.amax(dim=1, keepdim=True)).clamp(min=0) ** power


def crf_votes(
    rgb: Tensor,
    cams: Tensor,
    tags: Tensor,
    config: ReliableConfig,
    valid: Tensor | None = None,
    *,
    crf: DenseCRF = dense_crf,
) -> Votes:
    """The dense CRF's posteriors of background and present classes, one per exponent of the background score.

    Args:
        rgb: uint8 [B, 3, H, W].
        cams: float [B, C, H, W] in [0, 1], 0 for absent tags.
        tags: bool [B, C]; only background and present classes are labels of the CRF.
        config: Exponents, number of votes, CRF parameters.
        valid: bool [B, H, W] or None.
        crf: `dense_crf`, or another function with its arguments.
    """
    powers = [config.foreground_power] + ([config.background_power] if config.votes == "two" else [])
    scores = torch.stack([torch.cat([background_score(cams, power), cams], dim=1) for power in powers], dim=1)
    present = torch.cat([tags.new_ones(len(tags), 1), tags], dim=1)
    posteriors = crf(rgb, scores, params=config.crf, valid=valid, present=present)
    return Votes(posteriors[:, 0], posteriors[:, -1])


def labels_from_votes(
    cams: Tensor, votes: Votes, tags: Tensor, config: ReliableConfig, valid: Tensor | None = None
) -> Tensor:
    """Keep the pixels on which CAM and CRF are sure; see `reliable_labels`."""
    cam_scores = torch.cat([background_score(cams, config.cam_power), cams], dim=1)
    cam_labels = cam_scores.argmax(dim=1)
    low, high = votes.low.argmax(dim=1), votes.high.argmax(dim=1)

    labels = torch.where(low == BACKGROUND, torch.full_like(low, IGNORE), low)
    labels[high == BACKGROUND] = BACKGROUND  # where the votes conflict background wins, as published
    confidence = torch.cat([votes.high[:, :1], votes.low[:, 1:]], dim=1).amax(dim=1)

    sure = _sure_pixels(cam_scores, cam_labels, low, config, valid)
    trusted = (cam_labels == labels) & sure if config.agreement == "equal" else sure
    labels[~trusted | (confidence < config.min_crf)] = IGNORE
    if valid is not None:
        labels[~valid] = IGNORE
    if config.unseeded == "ignore":
        seeded = ((labels != BACKGROUND) & (labels != IGNORE)).flatten(1).any(dim=1)
        labels[tags.any(dim=1) & ~seeded] = IGNORE
    return labels


def _sure_pixels(
    cam_scores: Tensor, cam_labels: Tensor, low: Tensor, config: ReliableConfig, valid: Tensor | None
) -> Tensor:
    """Bool [B, H, W]: pixels whose CAM is among the best of its class, or clearly background.

    Only classes that win a pixel of the low vote get seeds, and background only if it does too, as published.
    A class without any CAM above `min_cam` gets none (the published code fails there).
    """
    sure = torch.zeros_like(cam_labels, dtype=torch.bool)
    for b in range(len(cam_labels)):
        inside = slice(None) if valid is None else valid[b]
        for label in low[b][inside].unique().tolist():  # type: ignore[no-untyped-call]
            won = cam_labels[b] == label
            score = cam_scores[b, label]
            if label == BACKGROUND and config.min_background > 0:
                sure[b] |= won & (score > config.min_background)
                continue
            candidates = won & (score > config.min_cam)
            ranked = score[candidates if valid is None else candidates & valid[b]].sort().values
            if len(ranked):
                sure[b] |= candidates & (score > ranked[int((1 - config.keep) * len(ranked) + 1e-9)])
    return sure


@torch.no_grad()
def reliable_labels(
    rgb: Tensor, cams: Tensor, tags: Tensor, config: ReliableConfig | None = None, valid: Tensor | None = None
) -> Tensor:
    """Confident labels of a few pixels, IGNORE elsewhere.

    1. Two dense CRF runs vote: one with a generous background score names the objects, one with a strict score names
       the background (paper eq. 5 has one run; the published code has two).
    2. Per class the best `keep` of the pixels that the CAM gives to it are trusted, strictly above the quantile;
       background where its score exceeds `min_background` (eq. 6).
    3. A pixel keeps its CRF label if it is trusted, the CRF is at least `min_crf` sure and, with `agreement="equal"`,
       CAM and CRF name the same class (eq. 7; the published code does not compare the class).
    4. With `unseeded="ignore"` a tagged picture that got no pixel of its tags teaches nothing (not in the paper).

    Args:
        rgb: uint8 [B, 3, H, W], 0-255.
        cams: float [B, C, H, W] in [0, 1], exactly 0 for absent tags (`multi_scale_cam`).
        tags: bool [B, C]. A picture without tags gets background only.
        config: The rule; default `ReliableConfig.clean()`.
        valid: bool [B, H, W], False on padding, or None for the published rule that labels padding too.

    Returns:
        int64 [B, H, W] in {0..C, 255}; 255 where not valid.

    Raises:
        ValueError: shapes that do not fit.
    """
    config = config or ReliableConfig.clean()
    b, _, h, w = rgb.shape
    if cams.shape[0] != b or cams.shape[-2:] != (h, w) or tags.shape != cams.shape[:2]:
        raise ValueError(
            f"reliable_labels needs rgb [B, 3, H, W], cams [B, C, H, W], tags [B, C]; "
            f"got {tuple(rgb.shape)}, {tuple(cams.shape)}, {tuple(tags.shape)}"
        )
    votes = crf_votes(rgb, cams, tags, config, valid)
    return labels_from_votes(cams, votes, tags, config, valid)
