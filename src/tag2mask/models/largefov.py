"""DeepLab-LargeFOV on VGG-16 (Chen et al., ICLR 2015, arXiv 1412.7062), the network of DeepLab-v1."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor, nn

from tag2mask.models.base import IMAGENET, SupervisedNetwork
from tag2mask.models.published import check_finite, misfits
from tag2mask.models.weights import read_weights

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_CLASSIFIER = ("classifier.", "pre_logits.", "head.")
"""What the fully connected layers are called in files of torchvision and timm."""


class VGG16(nn.Sequential):
    """The 13 convolutions of VGG-16 at stride 8; the names are those of `features` in torchvision's and timm's files.

    The last two pools keep the map and conv5 is dilated by 2. Pools are 3x3 with padding 1, as published, so that a
    map has ceil(n / 8) rows; VGG's own are 2x2. The average pool of LargeFOV behind the last one is part of it.
    """

    channels = 512
    stride = 8

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for stage, widths in enumerate(_STAGES):
            dilation = 2 if stage == 4 else 1
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(3, stride=2 if stage < 3 else 1, padding=1))
        super().__init__(*layers, nn.AvgPool2d(3, stride=1, padding=1))
        _initialize(*layers)


class LargeFOV(SupervisedNetwork):
    """VGG-16 with fc6 as 3x3 of dilation 12, which sees 224 pixels (paper, table 2), and 1024 channels in fc6 and fc7.

    Differences from the published network: fc6 and fc7 start at random (He) and count as new, where the published
    weights are a subset of VGG's; colors are normalized as torchvision's weights expect.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        mean, std = IMAGENET
        super().__init__(classes, stride=VGG16.stride, mean=mean, std=std)
        self.backbone = VGG16()
        fc6 = nn.Conv2d(VGG16.channels, 1024, 3, padding=12, dilation=12)
        fc7 = nn.Conv2d(1024, 1024, 1)
        score = nn.Conv2d(1024, len(classes) + 1, 1)
        _initialize(fc6, fc7)
        nn.init.normal_(score.weight, std=0.01)
        nn.init.zeros_(cast(Tensor, score.bias))
        self.head = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(0.5), fc7, nn.ReLU(), nn.Dropout(0.5), score)
        self.train()

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, 512, h, w] and segmentation scores [B, K, h, w] of normalized images, h = ceil(H / 8)."""
        features = self.backbone(images)
        return features, self.head(features)


def load_vgg16(body: VGG16, weights: str) -> None:
    """Load ImageNet weights into the convolutions.

    Args:
        body: fresh convolutions.
        weights: `none`, or a file (.safetensors, .pth, .pt) of the VGG-16 without batch norm of torchvision or timm;
            its fully connected layers are left out.

    Raises:
        ValueError: `default`, since there is no packaged VGG-16, or a file that does not fit.
    """
    if weights == "none":
        return
    if weights == "default":
        raise ValueError(
            "largefov-vgg16 has no default weights; give the VGG-16 of torchvision or timm with --weights FILE, "
            "or start from random weights with --weights none"
        )
    file = read_weights(Path(weights)).tensors
    given = {key.removeprefix("features."): file[key] for key in file if not key.startswith(_CLASSIFIER)}
    if told := misfits(given, body.state_dict()):
        raise ValueError(
            f"{weights} is no VGG-16 without batch norm: {told}. Give torchvision's or timm's file with --weights"
        )
    check_finite(given, weights)
    body.load_state_dict(given)


def _initialize(*layers: nn.Module) -> None:
    """He's start of the convolutions among `layers`, in this order."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
