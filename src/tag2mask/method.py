"""One training step from batch to losses, in the order of the paper's figure 2."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.base.team import ALONE, Team
from tag2mask.batch import BACKGROUND, IGNORE, Batch, Losses, Outputs
from tag2mask.cam import multi_scale_cam
from tag2mask.config import MethodConfig, ReliableConfig
from tag2mask.crf import dense_crf
from tag2mask.losses import SEGMENTATION_LOSSES, class_distance_loss, dense_energy_loss, tag_loss
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.reliable import DenseCRF, Votes, crf_votes, labels_from_votes
from tag2mask.teacher import teacher_maps, teacher_ramp, teacher_rule


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a run stands when it learns from a batch."""

    model: nn.Module
    """The network that trains, as the accelerator wrapped it; to be called once."""
    network: SegmentationNetwork
    """The same network, bare."""
    average: SegmentationNetwork | None = None
    """Running average of the network; in the first step it draws the CAMs, and is the teacher."""
    phase: Literal["tags", "joint", "supervised"] = "joint"
    """Name of the phase."""
    progress: float = 1.0
    """Share of the phase that lies behind, in 0..1."""
    team: Team = ALONE
    """Processes that share the batch."""

    @property
    def keeper(self) -> SegmentationNetwork:
        """The network that is shown and saved: the running average where there is one."""
        return self.network if self.average is None else self.average


def training_losses(
    at: Moment, batch: Batch, method: MethodConfig, *, with_masks: bool = False, crf: DenseCRF = dense_crf
) -> Losses:
    """The losses of a batch: of tags only, or in the joint phase those of all three branches.

    Args:
        at: Networks, phase and processes; each process gets the losses of the whole batch of all.
        batch: This process's B samples, on the model's device.
        method: Rules of the step.
        with_masks: Whether `batch.mask` teaches: where a picture shows any label there, those are its labels, and
            elsewhere it teaches nothing. Never the case in the paper.
        crf: Dense CRF of the votes.

    Returns:
        The losses of all branches of the phase; where the tag loss is not finite, that alone.
    """
    network, average = cast(Network, at.network), cast(Network | None, at.average)
    team, joint = at.team, at.phase == "joint"
    images = network.normalize(batch.rgb, batch.valid)
    outputs: Outputs = at.model(images, batch.valid if method.pool_valid else None, segment=joint)
    parts = {"tag": tag_loss(outputs.tag_logits.float(), batch.tags, team=team)}
    if not joint or outputs.seg_logits is None:
        return Losses(parts)
    if not bool(torch.isfinite(parts["tag"])):
        return Losses(parts)  # such maps give no labels; the loop skips the step, in every process alike
    features = outputs.features.detach() if average is None else None
    labels, mined = taught(
        network,
        images,
        batch,
        method,
        average=average,
        progress=at.progress,
        with_masks=with_masks,
        features=features,
        crf=crf,
    ).lesson

    seg_logits = F.interpolate(outputs.seg_logits.float(), labels.shape[-2:], mode="bilinear", align_corners=False)
    loss = SEGMENTATION_LOSSES[method.loss]
    parts["segmentation"] = loss(seg_logits, labels, team=team)
    if method.energy.weight > 0:
        e = method.energy
        probs = seg_logits.softmax(dim=1)
        gated = labels if e.gate else torch.full_like(labels, IGNORE)  # S = 1 where nothing is labeled
        parts["energy"] = dense_energy_loss(
            batch.rgb, probs, gated, batch.valid, e.sigma_rgb, e.sigma_xy, e.scale, e.weight, e.gradient, team=team
        )
    if method.class_distance > 0 and outputs.distance_features is not None:
        distance = class_distance_loss(outputs.seg_logits, outputs.distance_features, team=team)
        parts["class_distance"] = method.class_distance * distance
    share = team.total((labels != IGNORE).sum()) / team.total(batch.valid.sum())
    return Losses(parts, share.item(), mined, _background_share(labels[batch.tags.any(dim=1)], team))


def _background_share(labels: Tensor, team: Team) -> float | None:
    """Share of background among the labeled pixels of all processes; None where there are none."""
    background, given = team.number(int((labels == BACKGROUND).sum())), team.number(int((labels != IGNORE).sum()))
    return background / given if given else None


class Taught(NamedTuple):
    """What the segmentation of a batch is taught, and the steps to it."""

    cams: Tensor
    """float [B, C, H, W] in [0, 1]: the class activation maps."""
    teacher: Tensor | None
    """As `cams`: what the running average's segmentation gives to the tagged classes; None while its share is 0."""
    teacher_share: float
    """Its share of `maps`."""
    maps: Tensor
    """As `cams`: both mixed; these become labels."""
    rule: ReliableConfig
    """How they become labels."""
    by_mask: Tensor
    """bool [B]: pictures whose true mask is their lesson; their maps play no part."""
    votes: Votes | None
    """Of the other pictures, in their order; None where there are none."""
    labels: Tensor
    """int64 [B, H, W] in {0..C, 255}: the lesson."""
    seconds: float
    """Wall time from the maps to the labels."""

    @property
    def lesson(self) -> tuple[Tensor, float]:
        """Labels and seconds alone, so that a step need not keep the rest in memory."""
        return self.labels, self.seconds

    def votes_of(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Labels int64 [H, W] of picture `index` by the vote for objects and by that for background."""
        if self.votes is None or bool(self.by_mask[index]):
            return None
        row = int((~self.by_mask[:index]).sum())
        return self.votes.low[row].argmax(0), self.votes.high[row].argmax(0)


@torch.no_grad()
def taught(
    network: Network,
    images: Tensor,
    batch: Batch,
    method: MethodConfig,
    *,
    average: Network | None,
    progress: float,
    with_masks: bool = False,
    features: Tensor | None = None,
    crf: DenseCRF = dense_crf,
) -> Taught:
    """What the segmentation is taught at a moment of the joint phase: the one place that decides it.

    Training calls it, and so does whatever shows or scores the labels of training.

    Args:
        network: The network that trains, in evaluation mode or not.
        images: float [B, 3, H, W], normalized.
        batch: Pictures, tags, valid area, masks.
        method: Rules of the step.
        average: Running average of the network, which then draws the CAMs and is the teacher.
        progress: Share of the joint phase that lies behind, in 0..1.
        with_masks: Whether `batch.mask` teaches, see `training_losses`.
        features: float [B, D, h, w] of the network's own pass, where it draws the CAMs.
        crf: Dense CRF of the votes.
    """
    ramp = 0.0 if average is None else teacher_ramp(method, progress)
    teacher, share = None, method.teacher * ramp
    if ramp == 0:
        cams = maps = class_activation_maps(network if average is None else average, images, batch, method, features)
    else:
        assert average is not None
        outputs: Outputs = average(images)
        shared = outputs.features if method.cam_mode == "eval" else None  # the CAM's pass at scale 1 is the same
        cams = class_activation_maps(average, images, batch, method, shared)
        assert outputs.seg_logits is not None
        teacher = teacher_maps(outputs.seg_logits, batch)
        maps = (1 - share) * cams + share * teacher
    rule = teacher_rule(method, ramp)
    started = time.perf_counter()
    labels, votes, by_mask = training_labels(maps, batch, rule, with_masks=with_masks, crf=crf)
    return Taught(cams, teacher, share, maps, rule, by_mask, votes, labels, time.perf_counter() - started)


@torch.no_grad()
def class_activation_maps(
    network: Network, images: Tensor, batch: Batch, method: MethodConfig, features: Tensor | None = None
) -> Tensor:
    """The batch's CAMs, [B, C, H, W] in [0, 1], with the backbone's dropout as `method.cam_mode` says.

    Args:
        network: Network that draws them.
        images: float [B, 3, H, W], normalized.
        batch: Tags and valid area.
        method: Scales, mode, precision.
        features: [B, D, h, w] of a pass at scale 1 that was made already; used unless dropout made them noisier than
            asked.
    """
    was_training = network.training
    if method.cam_mode == "eval" and was_training and _has_dropout(network.get_submodule("backbone")):
        features = None
    network.train(method.cam_mode == "train")
    try:
        with _cam_precision(method, images.device):
            return multi_scale_cam(network, images, batch.tags, method.cam_scales, batch.valid, features=features)
    finally:
        network.train(was_training)


def training_labels(
    maps: Tensor, batch: Batch, rule: ReliableConfig, *, with_masks: bool, crf: DenseCRF = dense_crf
) -> tuple[Tensor, Votes | None, Tensor]:
    """What a batch's segmentation learns: the true labels of the pictures that have some, else reliable labels.

    Args:
        maps: float [B, C, H, W] in [0, 1].
        batch: Pictures, tags, valid area, masks.
        rule: Of the reliable labels.
        with_masks: Whether `batch.mask` teaches.
        crf: Dense CRF of the votes.

    Returns:
        labels int64 [B, H, W] in {0..C, 255}; the votes of the pictures without true labels, or None; bool [B] of the
        pictures that have some.
    """
    by_mask = (batch.mask != IGNORE).flatten(1).any(dim=1) & with_masks
    labels = batch.mask.clone()
    if with_masks and bool(by_mask.all()):
        return labels, None, by_mask
    rest = ~by_mask if with_masks else slice(None)
    rgb, maps, tags, valid = batch.rgb[rest], maps[rest], batch.tags[rest], batch.valid[rest]
    votes = crf_votes(rgb, maps, tags, rule, valid, crf=crf)
    labels[rest] = labels_from_votes(maps, votes, tags, rule, valid)
    return labels, votes, by_mask


def _cam_precision(method: MethodConfig, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 for the CAM passes of a CPU that has such instructions, where the config allows it; else as it is."""
    if method.cam_precision == "auto" and device.type == "cpu":
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()


def _has_dropout(backbone: nn.Module) -> bool:
    rates = (getattr(m, "p", getattr(m, "drop_prob", 0)) for m in backbone.modules())
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
