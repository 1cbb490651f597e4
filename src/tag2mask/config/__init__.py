"""Every number of a run: settings as frozen dataclasses that survive JSON, presets, names of formats. No torch."""

from __future__ import annotations

from tag2mask.config.augment import AugmentConfig
from tag2mask.config.codes import BACKGROUND, IGNORE, MAX_PIXELS
from tag2mask.config.fields import tag_phase_settings
from tag2mask.config.formats import DataOptions
from tag2mask.config.loading import load_config, require_finished
from tag2mask.config.method import CRFParams, EnergyConfig, MethodConfig, Profile, ReliableConfig, SegmentationLoss
from tag2mask.config.optim import OptimConfig
from tag2mask.config.run import NO_SPLIT, MaskSource, Phase, RetrainConfig, RunConfig, TrainConfig, parse_config

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "MAX_PIXELS",
    "NO_SPLIT",
    "AugmentConfig",
    "CRFParams",
    "DataOptions",
    "EnergyConfig",
    "MaskSource",
    "MethodConfig",
    "OptimConfig",
    "Phase",
    "Profile",
    "ReliableConfig",
    "RetrainConfig",
    "RunConfig",
    "SegmentationLoss",
    "TrainConfig",
    "load_config",
    "parse_config",
    "require_finished",
    "tag_phase_settings",
]
