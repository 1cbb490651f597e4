"""Shared fixtures: a small built-in data set and the settings of a run that takes seconds."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def builtin(tmp_path_factory) -> Path:
    """The built-in set, 12 training and 4 held-out pictures."""
    from tag2mask.data.builtin.shapes import write_builtin

    return write_builtin(tmp_path_factory.mktemp("builtin") / "data", train=12, val=4, seed=3)


@pytest.fixture
def tiny_config(builtin, tmp_path):
    """A run on the built-in set that takes seconds: a toy backbone with random weights."""
    from tag2mask.config import AugmentConfig, OptimConfig, TrainConfig

    return TrainConfig.preset(
        "small",
        data=str(builtin),
        out=str(tmp_path / "run"),
        backbone="test_efficientnet",
        weights="none",
        image_size=64,
        batch_size=3,
        joint_batch_size=2,
        tag_steps=3,
        joint_steps=3,
        workers=0,
        log_every=1,
        sample_every=0,
        save_every=2,
        augment=AugmentConfig(crop_size=64),
        optim=OptimConfig(lr=0.01, joint_lr=0.01),
    )


@pytest.fixture(scope="session")
def forks():
    """Processes that start with everything imported, from one that has run nothing."""
    context = multiprocessing.get_context("forkserver")
    package = [f"tag2mask.{name}" for name in ("training", "retraining", "predicting", "models.backbones")]
    context.set_forkserver_preload([*package, "timm"])
    return context


@pytest.fixture(scope="module")
def segmenter():
    """A network with random weights for the classes of the built-in set."""
    import torch

    from tag2mask.config import TrainConfig
    from tag2mask.data.builtin.objects import OBJECTS
    from tag2mask.inference.segmenter import Segmenter
    from tag2mask.models import build_network

    torch.manual_seed(0)
    config = TrainConfig.preset("small", backbone="test_resnet", weights="none", image_size=64)
    model = build_network(config, tuple(OBJECTS))
    # spread the scores, so that random weights predict several labels
    model.segmenter[-1].weight.data.mul_(20)
    return Segmenter(model, config, device="cpu")
