"""DeepLab-v2 (Chen et al., arXiv 1606.00915): dilated convolutions of four rates on any backbone, summed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from tag2mask.models.backbones import Backbone
from tag2mask.models.base import SupervisedNetwork

RATES = (6, 12, 18, 24)
"""Dilation of the four branches in cells of 8 pixels (paper, ASPP-L)."""


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling as the paper's ResNet-101 has it: the sum of one 3x3 convolution per rate.

    `rates` are cells at stride 8. At another stride they are scaled, and rounded, so that they span the same pixels:
    stride 16 has 3, 6, 9, 12 and stride 32 has 2, 3, 5, 6 for the published 6, 12, 18, 24.
    Weights start as a Gaussian of width 0.01 and biases at 0, as published.
    """

    def __init__(self, channels: int, labels: int, *, stride: int, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        dilations = [max(1, (8 * rate + stride // 2) // stride) for rate in rates]
        self.branches = nn.ModuleList(nn.Conv2d(channels, labels, 3, padding=d, dilation=d) for d in dilations)
        for branch in self.branches:
            nn.init.normal_(cast(nn.Conv2d, branch).weight, std=0.01)
            nn.init.zeros_(cast(Tensor, branch.bias))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D, h, w] to scores [B, K, h, w]."""
        scores: Tensor = reduce(torch.add, (branch(features) for branch in self.branches))
        return scores


class DeepLabV2(SupervisedNetwork):
    """Backbone and ASPP. With `resnet101` at stride 8, dilated, this is the network of the paper's table.

    Batch norms of the backbone are frozen, as published.

    Differences from the published network: one scale (no three-scale fusion in training), ResNet as timm has it (its
    stride stands in the 3x3 convolution of a block), and no start from COCO weights.
    """

    def __init__(self, backbone: Backbone, classes: tuple[str, ...]) -> None:
        super().__init__(classes, stride=backbone.stride, mean=backbone.mean, std=backbone.std)
        self.backbone = backbone
        self.aspp = ASPP(backbone.channels, len(classes) + 1, stride=backbone.cell)
        self.train()

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and segmentation scores, both with the cells of the backbone, of normalized images [B, 3, H, W]."""
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        return features, self.aspp(features)
