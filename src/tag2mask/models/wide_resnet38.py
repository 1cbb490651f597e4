"""WideResNet-38 (ResNet-38 A1 of Wu et al. 2016, in the form of AffinityNet), the paper's backbone."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.models.base import IMAGENET, RGB


class Block(nn.Module):
    """Pre-activation residual block of two 3x3 convolutions.

    Attribute names are those of the published weight files.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, first_dilation: int | None = None, dilation: int = 1
    ) -> None:
        super().__init__()
        first = dilation if first_dilation is None else first_dilation
        mid = 512 if outputs == 1024 else outputs
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, mid, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(mid)
        self.conv_branch2b1 = nn.Conv2d(mid, outputs, 3, padding=dilation, dilation=dilation, bias=False)
        changes = inputs != outputs or stride != 1
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h', w']."""
        active = F.relu(self.bn_branch2a(x))
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(active)
        branch = self.conv_branch2a(active)
        branch = self.conv_branch2b1(F.relu(self.bn_branch2b1(branch)))
        total: Tensor = shortcut + branch
        return total


class Bottleneck(nn.Module):
    """Pre-activation bottleneck (1x1, dilated 3x3, 1x1) with channel dropout before its last two convolutions."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int, dropout: float) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        self.conv_branch2a = nn.Conv2d(inputs, outputs // 4, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(outputs // 4)
        self.conv_branch2b1 = nn.Conv2d(outputs // 4, outputs // 2, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(outputs // 2)
        self.conv_branch2b2 = nn.Conv2d(outputs // 2, outputs, 1, bias=False)
        self.conv_branch1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h, w]."""
        active = F.relu(self.bn_branch2a(x))
        branch = self.conv_branch2a(active)
        branch = self.conv_branch2b1(self.dropout(F.relu(self.bn_branch2b1(branch))))
        branch = self.conv_branch2b2(self.dropout(F.relu(self.bn_branch2b2(branch))))
        total: Tensor = self.conv_branch1(active) + branch
        return total


class WideResNet38(nn.Module):
    """The paper's backbone at stride 8 with 4096 features (method 1.1).

    Published files load by name (`published`).
    """

    channels: ClassVar[int] = 4096
    stride: ClassVar[int] = 8
    cell: ClassVar[int] = 8
    mean: ClassVar[RGB] = IMAGENET[0]
    std: ClassVar[RGB] = IMAGENET[1]

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        for stage, width, more in ((2, 128, 2), (3, 256, 2), (4, 512, 5)):
            self.add_module(f"b{stage}", Block(width // 2, width, stride=2))
            for i in range(1, more + 1):
                self.add_module(f"b{stage}_{i}", Block(width, width))
        self.b5 = Block(512, 1024, first_dilation=1, dilation=2)
        self.b5_1 = Block(1024, 1024, dilation=2)
        self.b5_2 = Block(1024, 1024, dilation=2)
        self.b6 = Bottleneck(1024, 2048, dilation=4, dropout=0.3)
        self.b7 = Bottleneck(2048, 4096, dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(4096)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [B, 3, H, W] to features [B, 4096, ceil(H / 8), ceil(W / 8)]."""
        x = images
        for name, child in self.named_children():
            if name != "bn7":
                x = child(x)
        return F.relu(self.bn7(x))

    def finish(self) -> None:
        """Every parameter serves the feature map; nothing to drop."""
