"""Networks of the second step, which learns from masks: built by the name of their architecture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tag2mask.models.backbones import build_backbone
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.deeplab import DeepLabV2
from tag2mask.models.freezing import freeze_early
from tag2mask.models.largefov import VGG16, LargeFOV, load_vgg16
from tag2mask.models.smp import build_smp
from tag2mask.models.weights import load_weights

ARCHITECTURES = ("deeplab-v2", "largefov-vgg16", "smp:NAME")


def build_supervised(
    architecture: str,
    classes: Sequence[str],
    *,
    backbone: str,
    weights: str,
    output_stride: int,
    dilate: bool,
    freeze_stride: int = 0,
    pretrained: bool = True,
) -> SegmentationNetwork:
    """A network that is trained on masks, on the CPU, in training mode.

    Args:
        architecture: `deeplab-v2`, `largefov-vgg16`, or `smp:NAME` with an architecture of segmentation-models-pytorch.
        classes: class names, background not among them.
        backbone: `deeplab-v2`: any timm model, or wide_resnet38. `smp:NAME`: an encoder of smp, or a timm model.
            `largefov-vgg16` has its own and does not read it.
        weights: `default` pretrained weights of the backbone, `none`, or a file; `largefov-vgg16` has no default.
        output_stride: pixels per cell, 8, 16 or 32. `largefov-vgg16` has 8; of smp only `deeplabv3`, `deeplabv3plus`
            and `pan` read it.
        dilate: `deeplab-v2`: keep the field of view behind a dropped stride; the others decide themselves.
        freeze_stride: pretrained layers up to this stride do not train; 0 trains all, as published.
        pretrained: load `weights`; False builds the architecture only, for a run's own weights.

    Raises:
        ValueError: unknown architecture or backbone, a stride that it cannot give, or weights that cannot be had.
    """
    names = tuple(classes)
    if not names:
        raise ValueError("A network needs at least one class, got none; give classes.txt")
    load = weights if pretrained else "none"
    network: SegmentationNetwork
    if architecture == "deeplab-v2":
        body = build_backbone(backbone, output_stride=output_stride, dilate=dilate)
        load_weights(body, backbone, load)
        body.finish()
        network = DeepLabV2(body, names)
    elif architecture == "largefov-vgg16":
        if output_stride != VGG16.stride:
            raise ValueError(f"largefov-vgg16 has stride 8, got --output-stride {output_stride}; use --output-stride 8")
        network = fov = LargeFOV(names)
        load_vgg16(fov.backbone, load)
    elif architecture.startswith("smp:"):
        name = architecture.removeprefix("smp:")
        network = build_smp(name, names, encoder=backbone, weights=load, output_stride=output_stride)
    else:
        raise ValueError(f"There is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
    if weights != "none":  # random layers must not be frozen
        part: nn.Module = network.get_submodule(network.pretrained_prefix.removesuffix("."))
        freeze_early(part, freeze_stride)
    return network
