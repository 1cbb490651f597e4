"""Presets: the settings of whole runs, as values. Imports nothing, so that the settings can be made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]
"""Fields of a config; a mapping for a field that is a config itself."""

NO_JITTER = (0.0, 0.0, 0.0, 0.0)

SMALL: Values = {
    "freeze_stride": 4,
    "segment_dilation": 1,
    "tag_steps": 600,
    "joint_steps": 300,
    "sampling": "auto",
    "optim": {"lr": 0.01, "joint_lr": 0.002, "warmup": 20, "clip_norm": 5.0, "follow_batch": True},
    "augment": {"jitter": (0.3, 0.3, 0.3, 0.0)},
    "workers": 1,
    "sample_every": 300,
}
"""EfficientNet-lite0 at stride 16, tags then all losses: less than an hour on two CPU cores.

Three times as long a joint phase gains nothing (docs/results.md).
"""

FINE: Values = {
    **SMALL,
    "output_stride": 32,
    "decoder_stride": 8,
    "image_size": 448,
    "pool_power": 3.0,
    "prior": True,
    "freeze_stride": 8,
    "batch_size": 8,
    "tag_steps": 400,
    "joint_steps": 0,
    "method": {"cam_scales": (1.0, 2.0)},
    "optim": {
        "name": "adamw",
        "lr": 3e-4,
        "joint_lr": 3e-4,
        "weight_decay": 0.01,
        "warmup": 20,
        "clip_norm": 5.0,
        "follow_batch": True,
    },
    "augment": {"crop_size": 448, "vertical_flip": 0.5, "jitter": (0.3, 0.3, 0.0, 0.0)},
}
"""Tags of objects smaller than a cell of `small`: EfficientNet-lite0 with a decoder at stride 8, and no joint phase.

Masks come from the evidence of the tags and a second step (docs/small-objects.md).
"""

VOC_RRM: Values = {
    "train_split": "train_aug",
    "profile": "official",
    "backbone": "wide_resnet38",
    "output_stride": 8,
    "image_size": None,
    "batch_size": 4,
    "joint_batch_size": 4,
    "tag_steps": 0,
    "joint_steps": 20_000,
    "optim": {"lr": 0.0007, "joint_lr": 0.0007, "momentum": 1e-5, "weight_decay": 1e-5},
    "augment": {"crop_size": 321, "scale": (0.7, 1.3), "scale_per": "batch", "jitter": NO_JITTER},
    "workers": 4,
    "sample_every": 1000,
    "save_every": 1000,
}
"""The published run from a VOC classifier (train_from_cls_weight.py): all losses from the first step.

Momentum equals the weight decay, as published: the code hands its decay to SGD in momentum's place. It makes one
step more than its 20,000, at a learning rate of almost 0; here there are 20,000.
"""

VOC_RRM_INIT: Values = {
    **VOC_RRM,
    "batch_size": 8,
    "joint_batch_size": 8,
    "tag_steps": 24 * 1322 // 2,
    "joint_steps": 24 * 1322 // 2,
    "optim": {"lr": 0.01, "joint_lr": 0.0007, "joint_multipliers": False, "momentum": 5e-4, "weight_decay": 5e-4},
    "augment": {"crop_size": 448, "scale": (1.0, 1.0), "jitter": (0.3, 0.3, 0.3, 0.1)},
}
"""The published run from ImageNet weights (train_from_init.py): tags in the first half, then all losses.

24 epochs of 1,322 batches. The published switch comes one step late, in its first joint step the learning rate has
started anew already; its random resize returns the picture as it is, hence no scale.
"""

VOC_RRM_ATTENTION: Values = {
    **VOC_RRM,
    "attention": True,
    "method": {"class_distance": 1.0},
    "batch_size": 8,
    "joint_batch_size": 8,
    "joint_steps": 40_000,
    "optim": {"lr": 0.001, "joint_lr": 0.001, "new_parts": "classifier", "momentum": 1e-5, "weight_decay": 1e-5},
}
"""The published code of the 2022 extension, from a VOC classifier: attention, class distance, heads at x1."""

SMALL_RETRAIN: Values = {
    "freeze_stride": 4,
    "batch_size": 8,
    "supervised_steps": 900,
    "loss": "balanced",
    "sampling": "auto",
    "optim": {"lr": 0.005, "warmup": 20, "clip_norm": 5.0, "follow_batch": True},
    "augment": {"jitter": (0.3, 0.3, 0.3, 0.0)},
    "workers": 1,
    "sample_every": 300,
}
"""DeepLab-v2 on EfficientNet-lite0 at stride 16: the second step on two CPU cores."""

FINE_RETRAIN: Values = {
    **SMALL_RETRAIN,
    **{key: FINE[key] for key in ("output_stride", "image_size", "freeze_stride", "augment")},
    "decoder_stride": 4,
    "supervised_steps": 450,
    "loss": "dice",
    "ema": 0.99,
    "optim": {"name": "adamw", "lr": 3e-4, "weight_decay": 0.01, "warmup": 20, "clip_norm": 5.0, "follow_batch": True},
}
"""DeepLab-v2's head on the backbone of `fine` and a decoder at stride 4."""

DEEPLAB_V2_RESNET101: Values = {
    "train_split": "train_aug",
    "backbone": "resnet101",
    "output_stride": 8,
    "dilate": True,
    "image_size": None,
    "batch_size": 10,
    "supervised_steps": 20_000,
    "optim": {"lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4},
    "augment": {"crop_size": 321, "scale": (0.5, 1.5), "jitter": NO_JITTER},
    "workers": 4,
    "sample_every": 1000,
    "save_every": 1000,
}
"""DeepLab-v2 on ResNet-101 with its usual recipe: the second step of the paper, from ImageNet weights.

The paper's own start were weights that had seen COCO's masks, which is no weak supervision; these have not.
"""

DEEPLAB_V2_VGG16: Values = {
    **DEEPLAB_V2_RESNET101,
    "architecture": "largefov-vgg16",
    "backbone": "vgg16",
    "dilate": False,
    "optim": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4},
}
"""LargeFOV on VGG-16 with DeepLab-v2's schedule for it: the paper's smaller second step."""

PRESETS: Mapping[str, Mapping[str, Values]] = {
    "train": {
        "small": SMALL,
        "fine": FINE,
        "voc-rrm": VOC_RRM,
        "voc-rrm-init": VOC_RRM_INIT,
        "voc-rrm-attention": VOC_RRM_ATTENTION,
    },
    "retrain": {
        "small": SMALL_RETRAIN,
        "fine": FINE_RETRAIN,
        "deeplab-v2-resnet101": DEEPLAB_V2_RESNET101,
        "deeplab-v2-vgg16": DEEPLAB_V2_VGG16,
    },
}
"""Every preset, by the kind of its run and its name."""
