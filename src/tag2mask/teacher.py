"""The teacher, which the paper does not have: the running average's own segmentation joins the CAMs (method 8)."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from tag2mask.batch import Batch
from tag2mask.config import MethodConfig, ReliableConfig

_LITTLE = 1e-6


def teacher_ramp(method: MethodConfig, progress: float) -> float:
    """Weight of the teacher: 0 in the first quarter of the joint phase, 1 in its second half, 0 without teacher."""
    return min(1.0, max(0.0, 4 * progress - 1)) if method.teacher > 0 else 0.0


def teacher_rule(method: MethodConfig, ramp: float) -> ReliableConfig:
    """The rule of the reliable labels with weight `ramp` of the teacher: at 1 every pixel keeps its CRF label.

    Not in the paper, which trusts 40 % of a class's pixels to the end; that is right for the CAM, which covers parts of
    objects, but the network that has learned from it knows more.
    """
    if ramp == 0:
        return method.reliable
    rule, rest = method.reliable, 1 - ramp
    power = ramp * method.teacher_power
    return dataclasses.replace(
        rule,
        keep=rule.keep * rest + ramp,
        min_cam=rule.min_cam * rest,
        min_background=max(rule.min_background * rest, _LITTLE),  # 0 would mean a share of the background instead
        min_crf=rule.min_crf * rest,
        foreground_power=rule.foreground_power * rest + power,
        background_power=rule.background_power * rest + power,
        cam_power=rule.cam_power * rest + power,
        agreement="union",
    )


@torch.no_grad()
def teacher_maps(logits: Tensor, batch: Batch) -> Tensor:
    """Object probabilities of the running average, which are mixed into the CAMs.

    Not in the paper. The average's segmentation is a finer map than the CAM, and it knows the tags: what it takes for
    an object is one of those that are there (`label_probs`).

    Args:
        logits: float [B, C + 1, h, w], the running average's segmentation.
        batch: Tags and valid area.

    Returns:
        float [B, C, H, W] in [0, 1]: 0 for absent tags and where not valid.
    """
    logits = F.interpolate(logits.float(), batch.rgb.shape[-2:], mode="bilinear", align_corners=False)
    allowed = torch.cat([batch.tags.new_ones(len(batch.tags), 1), batch.tags], dim=1)
    return label_probs(logits, allowed)[:, 1:] * batch.valid[:, None]


def label_probs(logits: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Probabilities of the labels of each pixel, where only some of the labels may occur.

    The background keeps the probability that it has among all labels, and the allowed objects share the rest in their
    own proportions: a pixel that looks like a sheep where the tags say cow is part of the cow. A softmax over the
    allowed labels alone would hand the sheep's part to the background too, and objects would shrink.

    Args:
        logits: float [..., K, H, W], background first.
        allowed: bool [..., K], or None for all; the background always may occur.

    Returns:
        As `logits`; sums to 1 over K and is 0 where a label may not occur. Without any allowed object, all background.
    """
    probs = logits.softmax(-3)
    if allowed is None:
        return probs
    background, objects = probs[..., :1, :, :], allowed[..., 1:, None, None]
    inside = logits[..., 1:, :, :].masked_fill(~objects, -torch.inf).softmax(-3)
    inside = torch.where(objects, inside * (1 - background), 0)  # not a number where no object is allowed
    return torch.cat([torch.where(objects.any(-3, keepdim=True), background, 1), inside], dim=-3)
