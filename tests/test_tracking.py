"""Curves and pictures in other projects' trackers."""

from __future__ import annotations

import pytest

from tag2mask.training.first_step import train
from tag2mask.training.records import check_trackers


def test_tensorboard_gets_numbers_and_pictures(tiny_config):
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(tiny_config.replace(sample_every=3, trackers=("tensorboard",)))
    board = event.EventAccumulator(str(run / "tensorboard")).Reload()
    tags = board.Tags()
    assert {"total_loss", "segmentation_loss", "miou"} <= set(tags["scalars"])
    assert {"samples", "best", "worst"} <= set(tags["images"])
    assert [each.step for each in board.Images("samples")] == [3, 6]


def test_wandb_offline_gets_them(tiny_config, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = train(tiny_config.replace(sample_every=6, trackers=("wandb",)))
    written = list((run / "wandb").glob("offline-run-*"))
    assert len(written) == 1
    pictures = {path.name.split("_")[0] for path in written[0].rglob("*.png")}
    assert {"samples", "best", "worst"} <= pictures
    assert not (run / "tensorboard").exists()


def test_trackio_gets_them(tiny_config, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    train(tiny_config.replace(sample_every=6, trackers=("trackio",)))
    assert list((tmp_path / "trackio").rglob("*.db")) or list((tmp_path / "trackio").rglob("*.parquet"))


def test_a_tracker_that_is_not_installed_is_refused_first(tiny_config, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = tiny_config.replace(trackers=("tensorboard", "wandb"))
    with pytest.raises(ValueError, match="pip install wandb"):
        check_trackers(config)
    check_trackers(config.replace(trackers=("tensorboard",)))
