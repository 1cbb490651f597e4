"""The network of the method: one backbone, a tag branch whose weights make the CAM, and a segmentation branch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tag2mask.batch import Outputs
from tag2mask.models.backbones import Backbone

GroupName = Literal["old_weights", "old_biases", "new_weights", "new_biases"]


class Network(nn.Module):
    """Backbone, tag branch and segmentation branch (paper figure 2; method 1).

    Attributes:
        classes: class names, background not among them.
        stride: pixels per cell of the feature map.
        mean_rgb: mean color of the backbone's input, 0-255, for padding.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        classes: tuple[str, ...],
        *,
        dropout: float = 0.5,
        segment_dilation: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone: Backbone = backbone  # type: ignore[assignment]  # a module that is a Backbone
        self.classes = classes
        self.stride = self.backbone.stride
        red, green, blue = (round(m) for m in self.backbone.mean)
        self.mean_rgb = (red, green, blue)
        channels = self.backbone.channels
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, len(classes), 1, bias=False)
        self.segmenter = segmentation_branch(channels, len(classes) + 1, self.stride, segment_dilation)
        nn.init.xavier_uniform_(self.classifier.weight)
        # Constants of the backbone, not of the run: they are rebuilt from its name, not stored.
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.backbone.std).view(1, 3, 1, 1), persistent=False)
        self.train()

    @property
    def num_classes(self) -> int:
        """C, the number of classes without background."""
        return len(self.classes)

    def normalize(self, rgb: Tensor, valid: Tensor | None = None) -> Tensor:
        """The network's input for pictures, the one place where anything is normalized.

        Args:
            rgb: uint8 [B, 3, H, W], 0-255.
            valid: bool [B, H, W]; padding becomes 0, the mean color.

        Returns:
            float32 [B, 3, H, W].
        """
        images = (rgb.float() - self.mean) / self.std
        return images if valid is None else images * valid.unsqueeze(1)

    def forward(self, images: Tensor, valid: Tensor | None = None, *, segment: bool = True) -> Outputs:
        """Features, tag scores and segmentation scores of normalized images [B, 3, H, W].

        Args:
            images: as `normalize` gives them.
            valid: bool [B, H, W]; the tag branch pools over these pixels only. None pools over the whole map, as
                published.
            segment: also run the segmentation branch, which is trained through the shared features (not detached).
        """
        # Channels last is the faster layout of convolutions, on CPUs too; weights stay contiguous, as files want them.
        features = self.backbone(images.contiguous(memory_format=torch.channels_last))
        pooled = masked_average(features, valid)
        # Channel dropout and average pooling commute: the channels dropped are the published ones.
        with _full_precision(images):
            tag_logits = self.classifier(self.dropout(pooled)).flatten(1)
        return Outputs(features, tag_logits, self.segmenter(features).float() if segment else None)

    def cam(self, features: Tensor) -> Tensor:
        """Class activation maps relu(w_c . f), not normalized: [B, D, h, w] to float32 [B, C, h, w]."""
        with _full_precision(features):
            return F.relu(F.conv2d(features.float(), self.classifier.weight.float()))

    def train(self, mode: bool = True) -> Self:
        """Training mode with frozen batch norms: running statistics and affine parameters stay as pretrained."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
        return self

    def parameter_groups(self) -> dict[GroupName, list[nn.Parameter]]:
        """Every parameter that trains, once: old (backbone) or new (branches), weights or biases.

        Norms and other vectors count as biases.
        """
        groups: dict[GroupName, list[nn.Parameter]] = {
            "old_weights": [],
            "old_biases": [],
            "new_weights": [],
            "new_biases": [],
        }
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                old, weight = name.startswith("backbone."), parameter.ndim >= 2
                group: GroupName = (
                    ("old_weights" if weight else "old_biases") if old else ("new_weights" if weight else "new_biases")
                )
                groups[group].append(parameter)
        return groups


def _full_precision(like: Tensor) -> AbstractContextManager[object]:
    """No autocast: scores and CAMs are thresholded and ranked, so they keep all their digits, and cost little."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


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
