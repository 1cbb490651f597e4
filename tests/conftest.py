"""Shared fixtures: a small built-in data set and the settings of a run that takes seconds."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# before torch is imported: the tests run in one process per core
os.environ.setdefault("OMP_NUM_THREADS", "1")

MOST_PROCESSES = 8
"""Each takes about 1.5 GB of memory."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """How many processes `-n auto` starts: one per core; none for single files, or for the heavy tests of a mark."""
    from tag2mask.base.processes import usable_cores

    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    if "not slow" not in config.option.markexpr or not all(Path(arg).is_dir() for arg in config.args):
        return 0
    return min(usable_cores(), MOST_PROCESSES)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(name, make)`: the folder that `make(folder)` fills, once for all processes. Tests only read it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        path = base / "made-once" / name
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.with_suffix(".made").exists():
                make(path)
                path.with_suffix(".made").touch()
        return path

    return folder


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
        trackers=(),
        augment=AugmentConfig(crop_size=64),
        optim=OptimConfig(lr=0.01, joint_lr=0.01),
    )


@pytest.fixture(scope="session")
def forks():
    """Processes that start with everything imported, from one that has run nothing."""
    context = multiprocessing.get_context("forkserver")
    package = ("training.first_step", "training.second_step", "jobs.predicting.run", "models.backbones")
    modules = [*(f"tag2mask.{name}" for name in package), "timm"]
    assert all(map(importlib.util.find_spec, modules)), "the server would leave out what it cannot import"
    context.set_forkserver_preload(modules)
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
