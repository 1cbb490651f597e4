"""Networks: a backbone with its own normalization, a tag branch and a segmentation branch."""

from __future__ import annotations

from collections.abc import Sequence

from tag2mask.config import TrainConfig
from tag2mask.models.backbones import build_backbone
from tag2mask.models.freezing import freeze_early
from tag2mask.models.network import Network
from tag2mask.models.weights import load_weights

__all__ = ["Network", "build_network"]


def build_network(config: TrainConfig, classes: Sequence[str], *, pretrained: bool = True) -> Network:
    """The network of a run, on the CPU, in training mode.

    Args:
        config: `backbone`, `weights`, `freeze_stride`, `output_stride`, `dilate`, `dropout` and `segment_dilation` are
            read.
        classes: class names, background not among them.
        pretrained: load `config.weights`; False builds the architecture only, for a run's own weights.

    Raises:
        ValueError: unknown backbone, a stride that the backbone cannot give, or weights that cannot be had.
    """
    if not classes:
        raise ValueError("A network needs at least one class, got none; give classes.txt or pictures with tags")
    backbone = build_backbone(config.backbone, output_stride=config.output_stride, dilate=config.dilate)
    if pretrained:
        load_weights(backbone, config.backbone, config.weights)
    backbone.finish()
    if config.weights != "none":  # random layers must not be frozen
        freeze_early(backbone, config.freeze_stride)
    return Network(backbone, tuple(classes), dropout=config.dropout, segment_dilation=config.segment_dilation)
