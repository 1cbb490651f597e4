"""Networks: a backbone with its own normalization, a tag branch and a segmentation branch."""

from __future__ import annotations

from collections.abc import Sequence

from tag2mask.config import RetrainConfig, RunConfig, TrainConfig
from tag2mask.models.backbones import build_backbone
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.models.strides import freeze_early
from tag2mask.models.supervised import build_supervised
from tag2mask.models.weights import load_weights, take_classifier

__all__ = ["Network", "build_network"]


def build_network(config: RunConfig, classes: Sequence[str], *, pretrained: bool = True) -> SegmentationNetwork:
    """The network of a run, on the CPU, in training mode.

    Args:
        config: A `TrainConfig` gives the network of the method, a `RetrainConfig` a supervised one.
        classes: class names, background not among them.
        pretrained: load `config.weights`; False builds the architecture only, for a run's own weights.

    Raises:
        ValueError: unknown architecture or backbone, a stride that it cannot give, or weights that are not there or do
            not fit.
    """
    names, weights = tuple(classes), config.weights if pretrained else "none"
    if not names:
        raise ValueError("A network needs at least one class, got none; give classes.txt or pictures with tags")
    if isinstance(config, RetrainConfig):
        return build_supervised(config, names, weights)
    if not isinstance(config, TrainConfig):
        raise TypeError(f"no network is known for a {type(config).__name__}")
    backbone = build_backbone(
        config.backbone, output_stride=config.output_stride, dilate=config.dilate, decoder_stride=config.decoder_stride
    )
    file = load_weights(backbone, config.backbone, weights)
    backbone.finish()
    if config.weights != "none":  # random layers must not be frozen
        freeze_early(backbone, config.freeze_stride)
    network = Network(
        backbone,
        names,
        dropout=config.dropout,
        segment_dilation=config.segment_dilation,
        attention=config.attention,
        pool_power=config.pool_power,
        prior=config.prior,
    )
    if file is not None:
        take_classifier(network, file)
    return network
