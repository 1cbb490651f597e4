"""The first step: learn segmentation from tags (paper figure 2)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tag2mask.batch import Batch, Losses
from tag2mask.config import MethodConfig, TrainConfig, load_config
from tag2mask.loop import Moment, TrainingStopped, run_training
from tag2mask.method import training_losses
from tag2mask.models.base import SegmentationNetwork
from tag2mask.models.network import Network
from tag2mask.presets import check_weights
from tag2mask.validation import run_pictures, write_sample_sheet

__all__ = ["TrainingStopped", "train"]


def train(config: TrainConfig, *, resume: Path | None = None) -> Path:
    """Learn segmentation from tags and write a run folder.

    Args:
        config: Everything about the run.
        resume: Run folder to go on with, exactly where its last save was; `config` must be the folder's own.

    Returns:
        The run folder: config.json, environment.json, metrics.csv, log.txt, model.safetensors, last/, samples/,
        report.html.

    Raises:
        ValueError, FileNotFoundError: bad data or settings, before any training.
        FileExistsError: `config.out` is not empty.
        TrainingStopped: the loss stayed non-finite.
        KeyboardInterrupt: Ctrl-C; the state is saved first, and the message says how to go on.
    """
    if resume is None:
        check_weights(config)
    start = None
    if config.tag_phase is not None and resume is None:
        start = Path(config.tag_phase)
        _check_tag_phase(config, start)
    pictures = run_pictures(config, config.train_split)
    return run_training(config, pictures, _TagObjective(config), resume=resume, start=start)


@dataclass(frozen=True)
class _TagObjective:
    """Tags, and in the joint phase reliable labels and dense energy."""

    config: TrainConfig

    def losses(self, at: Moment, batch: Batch) -> Losses:
        return training_losses(
            at.model,
            cast(Network, at.network),
            batch,
            self.config.method,
            joint=at.phase == "joint",
            average=cast(Network | None, at.average),
            progress=at.progress,
        )

    def write_samples(self, run: Path, network: SegmentationNetwork, batch: Batch, step: int, phase: str) -> Path:
        return write_sample_sheet(run, self.config, cast(Network, network), batch, step, joint=phase == "joint")


def _check_tag_phase(config: TrainConfig, run: Path) -> None:
    """A tag phase can be taken over if this run would have trained the very same one.

    Raises:
        ValueError: it would not; names the settings that differ.
    """
    other = load_config(run)
    if not isinstance(other, TrainConfig):
        raise ValueError(f"--tag-phase {run} is the run of a second step; give one of `tag2mask train`")
    if other.joint_steps:
        raise ValueError(f"--tag-phase {run} has joint steps; make the tag phase alone with --joint-steps 0")
    mine, theirs = (dataclasses.asdict(_tag_settings(each)) for each in (config, other))
    if differing := sorted(key for key in mine if mine[key] != theirs[key]):
        raise ValueError(f"--tag-phase {run} was trained with other settings: {', '.join(differing)}")


def _tag_settings(config: TrainConfig) -> TrainConfig:
    """`config` with everything that the tag phase does not read at its default."""
    plain = TrainConfig()
    data = str(Path(config.data).expanduser().resolve())
    return dataclasses.replace(
        config,
        preset_name=plain.preset_name,
        data=data,
        out=None,
        profile=plain.profile,
        tag_phase=None,
        segment_dilation=None,
        joint_batch_size=plain.joint_batch_size,
        joint_steps=0,
        optim=dataclasses.replace(config.optim, joint_lr=1.0, joint_multipliers=True),
        method=MethodConfig(ema=config.method.ema, pool_valid=config.method.pool_valid),
        val_split=plain.val_split,
        workers=0,
        log_every=plain.log_every,
        sample_every=0,
        validate_every=0,
        validate_pictures=0,
        save_every=plain.save_every,
        select="last",
    )
