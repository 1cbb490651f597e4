"""The network of the method: one backbone, a tag branch whose weights make the CAM, and a segmentation branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.batch import Outputs
from tag2mask.models.attention import AttentionHead
from tag2mask.models.backbones import Backbone
from tag2mask.models.base import SegmentationNetwork, full_precision

_LITTLE = 1e-4
_RARE = 1e-4
"""Least share of pictures that a prior takes a class to have."""


class Network(SegmentationNetwork):
    """Backbone, tag branch and segmentation branch (paper figure 2; method 1).

    Not in the paper: `pool_power` p makes the average a generalized mean (mean of f^p)^(1/p), in which few strong cells
    count for more, so that an object far smaller than the picture is seen; and with `prior` the log odds of each
    class's frequency are added to its logits, so that the maps of rare classes need not be below zero everywhere.

    With `attention` a global head stands beside the local segmentation branch, and the segmentation scores are the mean
    of both (journal extension; method 9).
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: tuple[str, ...],
        *,
        dropout: float = 0.5,
        segment_dilation: int | None = None,
        attention: bool = False,
        pool_power: float = 1.0,
        prior: bool = False,
    ) -> None:
        super().__init__(classes, stride=backbone.stride, mean=backbone.mean, std=backbone.std)
        self.backbone = backbone
        channels = backbone.channels
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, len(classes), 1, bias=False)
        self.segmenter = segmentation_branch(channels, len(classes) + 1, backbone.cell, segment_dilation)
        self.pool_power = pool_power
        self.prior: Tensor | None
        self.register_buffer("prior", torch.zeros(len(classes)) if prior else None)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.attention = AttentionHead(channels, len(classes) + 1) if attention else None
        self.train()

    def forward(self, images: Tensor, valid: Tensor | None = None, *, segment: bool = True) -> Outputs:
        """As `SegmentationNetwork.forward`; the segmentation branch is trained through the features (not detached)."""
        # Channels last is the faster layout of convolutions, on CPUs too; weights stay contiguous, as files want them.
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        # Scores and CAMs are thresholded and ranked, so they are computed in float32, which costs little.
        with full_precision(images):
            # Channel dropout and pooling commute: the channels dropped are the published ones.
            tag_logits = self.classifier(self.dropout(masked_mean(features, valid, self.pool_power))).flatten(1)
            if self.prior is not None:
                tag_logits = tag_logits + self.prior
        return Outputs(features, tag_logits, *(self._segment(features) if segment else (None, None)))

    @torch.no_grad()
    def expect(self, frequencies: Tensor) -> None:
        """Set the prior from the share of training draws that show each class, float [C] in 0..1, if there is one."""
        if self.prior is not None:
            self.prior.copy_(frequencies.clamp(_RARE, 1 - _RARE).logit())

    def _segment(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Segmentation scores [B, K, h, w], and with attention the features of the class distance loss."""
        first, active, second = self.segmenter
        local = active(first(features))
        if self.attention is None:
            return second(local).float(), None
        scores, mixed = self.attention(features)
        return (second(local).float() + scores.float()) / 2, torch.cat([local, mixed], dim=1)

    def cam(self, features: Tensor) -> Tensor:
        """Class activation maps relu(w_c . f), not normalized: [B, D, h, w] to float32 [B, C, h, w]."""
        with full_precision(features):
            return F.relu(F.conv2d(features.float(), self.classifier.weight.float()))


def segmentation_branch(channels: int, labels: int, stride: int, dilation: int | None = None) -> nn.Sequential:
    """Two dilated 3x3 convolutions (method 1.2) on features [B, D, h, w]: scores [B, K, h, w].

    The width is D / 8 within 256 to 512 (512 for the paper's 4096). A `dilation` of None is 96 pixels wide at every
    stride, as published (12 cells at the paper's stride 8).
    """
    width = min(512, max(256, channels // 8))
    dilation = max(1, 96 // stride) if dilation is None else dilation
    first = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
    second = nn.Conv2d(width, labels, 3, padding=dilation, dilation=dilation)
    for conv in (first, second):
        nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(first, nn.ReLU(), second)


def masked_mean(features: Tensor, valid: Tensor | None = None, power: float = 1.0) -> Tensor:
    """Generalized mean of features [B, D, h, w] over the valid part of the map: float32 [B, D, 1, 1].

    A cell counts by the share of its pixels that are valid (bool [B, H, W]); a picture without any gives 0. With a
    `power` other than 1 features below 0 count as 0.
    """
    features = features.float()
    if power != 1:
        powers = masked_mean(features.clamp_min(_LITTLE) ** power, valid)
        return powers.clamp_min(_LITTLE**power) ** (1 / power)
    if valid is None:
        return features.mean((2, 3), keepdim=True)
    share = F.interpolate(valid.unsqueeze(1).float(), features.shape[-2:], mode="area")
    total = share.sum((2, 3), keepdim=True)
    return (features * share).sum((2, 3), keepdim=True) / total.clamp_min(1e-6)
