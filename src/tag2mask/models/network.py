"""The network of the method: one backbone, a tag branch whose weights make the CAM, and a segmentation branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.batch import Outputs
from tag2mask.models.attention import AttentionHead
from tag2mask.models.backbones import Backbone
from tag2mask.models.base import SegmentationNetwork, full_precision


class Network(SegmentationNetwork):
    """Backbone, tag branch and segmentation branch (paper figure 2; method 1).

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
    ) -> None:
        super().__init__(classes, stride=backbone.stride, mean=backbone.mean, std=backbone.std)
        self.backbone = backbone
        channels = backbone.channels
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, len(classes), 1, bias=False)
        self.segmenter = segmentation_branch(channels, len(classes) + 1, self.stride, segment_dilation)
        nn.init.xavier_uniform_(self.classifier.weight)
        self.attention = AttentionHead(channels, len(classes) + 1) if attention else None
        self.train()

    def forward(self, images: Tensor, valid: Tensor | None = None, *, segment: bool = True) -> Outputs:
        """As `SegmentationNetwork.forward`; the segmentation branch is trained through the features (not detached)."""
        # Channels last is the faster layout of convolutions, on CPUs too; weights stay contiguous, as files want them.
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        pooled = masked_average(features, valid)
        # Channel dropout and average pooling commute: the channels dropped are the published ones.
        # Scores and CAMs are thresholded and ranked, so they are computed in float32, which costs little.
        with full_precision(images):
            tag_logits = self.classifier(self.dropout(pooled)).flatten(1)
        return Outputs(features, tag_logits, *(self._segment(features) if segment else (None, None)))

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


def masked_average(features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average of features [B, D, h, w] over the valid part of the map: float32 [B, D, 1, 1].

    A cell counts by the share of its pixels that are valid (bool [B, H, W]); a picture without any gives 0.
    """
    features = features.float()
    if valid is None:
        return features.mean((2, 3), keepdim=True)
    share = F.interpolate(valid.unsqueeze(1).float(), features.shape[-2:], mode="area")
    total = share.sum((2, 3), keepdim=True)
    return (features * share).sum((2, 3), keepdim=True) / total.clamp_min(1e-6)
