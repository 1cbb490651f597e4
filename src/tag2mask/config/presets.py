"""Presets: the settings of whole runs, by name. Imports no torch."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from typing import TypeVar

from tag2mask.config import AugmentConfig, MethodConfig, OptimConfig, RetrainConfig, RunConfig, TrainConfig

_Config = TypeVar("_Config", bound=RunConfig)


def small() -> TrainConfig:
    """EfficientNet-lite0 at stride 16, tags then all losses: less than an hour on two CPU cores.

    Three times as long a joint phase gains nothing (docs/results.md).
    """
    return TrainConfig(
        freeze_stride=4,
        segment_dilation=1,
        tag_steps=600,
        joint_steps=300,
        optim=OptimConfig(lr=0.01, joint_lr=0.002, warmup=20, clip_norm=5.0),
        augment=AugmentConfig(jitter=(0.3, 0.3, 0.3, 0.0)),
        workers=1,
        sample_every=300,
    )


def small_retrain() -> RetrainConfig:
    """DeepLab-v2 on EfficientNet-lite0 at stride 16: the second step on two CPU cores."""
    return RetrainConfig(
        freeze_stride=4,
        batch_size=8,
        supervised_steps=900,
        loss="balanced",
        optim=OptimConfig(lr=0.005, warmup=20, clip_norm=5.0),
        augment=AugmentConfig(jitter=(0.3, 0.3, 0.3, 0.0)),
        workers=1,
        sample_every=300,
    )


def deeplab_v2_resnet101() -> RetrainConfig:
    """DeepLab-v2 on ResNet-101 with its usual recipe: the second step of the paper, from ImageNet weights.

    The paper's own start were weights that had seen COCO's masks, which is no weak supervision; these have not.
    """
    return RetrainConfig(
        preset_name="deeplab-v2-resnet101",
        train_split="train_aug",
        backbone="resnet101",
        output_stride=8,
        dilate=True,
        image_size=None,
        batch_size=10,
        supervised_steps=20_000,
        optim=OptimConfig(lr=2.5e-4, momentum=0.9, weight_decay=5e-4),
        augment=AugmentConfig(crop_size=321, scale=(0.5, 1.5), jitter=(0.0, 0.0, 0.0, 0.0)),
        workers=4,
        sample_every=1000,
        save_every=1000,
    )


def deeplab_v2_vgg16() -> RetrainConfig:
    """LargeFOV on VGG-16 with DeepLab-v2's schedule for it: the paper's smaller second step."""
    return dataclasses.replace(
        deeplab_v2_resnet101(),
        preset_name="deeplab-v2-vgg16",
        architecture="largefov-vgg16",
        backbone="vgg16",
        dilate=False,
        optim=OptimConfig(lr=1e-3, momentum=0.9, weight_decay=5e-4),
    )


def voc_rrm() -> TrainConfig:
    """The published run from a VOC classifier (train_from_cls_weight.py): all losses from the first step.

    Momentum equals the weight decay, as published: the code hands its decay to SGD in momentum's place. It makes one
    step more than its 20,000, at a learning rate of almost 0; here there are 20,000.
    """
    return TrainConfig(
        preset_name="voc-rrm",
        train_split="train_aug",
        profile="official",
        method=MethodConfig.of("official"),
        backbone="wide_resnet38",
        output_stride=8,
        image_size=None,
        batch_size=4,
        joint_batch_size=4,
        tag_steps=0,
        joint_steps=20_000,
        optim=OptimConfig(lr=0.0007, joint_lr=0.0007, momentum=1e-5, weight_decay=1e-5),
        augment=AugmentConfig(crop_size=321, scale=(0.7, 1.3), scale_per="batch", jitter=(0.0, 0.0, 0.0, 0.0)),
        workers=4,
        sample_every=1000,
        save_every=1000,
    )


def voc_rrm_init() -> TrainConfig:
    """The published run from ImageNet weights (train_from_init.py): tags in the first half, then all losses.

    24 epochs of 1,322 batches. The published switch comes one step late, in its first joint step the learning rate has
    started anew already; its random resize returns the picture as it is, hence no scale.
    """
    half = 24 * 1322 // 2
    return dataclasses.replace(
        voc_rrm(),
        preset_name="voc-rrm-init",
        batch_size=8,
        joint_batch_size=8,
        tag_steps=half,
        joint_steps=half,
        optim=OptimConfig(lr=0.01, joint_lr=0.0007, joint_multipliers=False, momentum=5e-4, weight_decay=5e-4),
        augment=AugmentConfig(crop_size=448, scale=(1.0, 1.0), jitter=(0.3, 0.3, 0.3, 0.1)),
    )


def voc_rrm_attention() -> TrainConfig:
    """The published code of the 2022 extension, from a VOC classifier: attention, class distance, heads at x1."""
    return dataclasses.replace(
        voc_rrm(),
        preset_name="voc-rrm-attention",
        attention=True,
        method=dataclasses.replace(MethodConfig.of("official"), class_distance=1.0),
        batch_size=8,
        joint_batch_size=8,
        joint_steps=40_000,
        optim=OptimConfig(lr=0.001, joint_lr=0.001, new_parts="classifier", momentum=1e-5, weight_decay=1e-5),
    )


PRESETS: tuple[Callable[[], RunConfig], ...] = (
    small,
    voc_rrm,
    voc_rrm_init,
    voc_rrm_attention,
    small_retrain,
    deeplab_v2_resnet101,
    deeplab_v2_vgg16,
)
"""Every preset of `train` and of `retrain`."""


def check_weights(config: TrainConfig) -> None:
    """WideResNet-38 comes with no weights, so a run on it names a file, or random weights, itself.

    Raises:
        ValueError: it does not; says which file, where it comes from, and the command.
    """
    if config.backbone != "wide_resnet38" or config.weights != "default":
        return
    file, source = "res38_cls.pth", "the VOC classifier that the project psa (AffinityNet, Ahn and Kwak) publishes"
    if config.tag_steps:
        file = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
        source = "the ImageNet weights that the project ademxapp (Wu, Shen and van den Hengel) publishes"
    raise ValueError(
        f"{config.preset_name} starts from {file}, {source}; it comes with no package and is not downloaded "
        "(docs/weights.md). Get it, then: "
        f"tag2mask train {config.preset_name} --data {shlex.quote(config.data or 'PATH')} --weights {file}"
    )


def _table(kind: type[RunConfig]) -> dict[str, RunConfig]:
    configs = [make() for make in PRESETS]
    return {config.preset_name: config for config in configs if isinstance(config, kind)}


def names_of(kind: type[RunConfig]) -> tuple[str, ...]:
    """Names of the presets of one kind of run."""
    return tuple(_table(kind))


def preset_of(kind: type[_Config], name: str) -> _Config:
    """A preset by name.

    Raises:
        ValueError: there is none of that name, with the ones there are.
    """
    table = _table(kind)
    if name not in table:
        raise ValueError(f"There is no preset {name!r}; presets: {', '.join(table)}")
    return table[name]  # type: ignore[return-value]  # the table holds `kind` only
