"""The first step: learn segmentation from tags (paper figure 2)."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tag2mask.base.processes import check_start
from tag2mask.batch import Batch, Losses
from tag2mask.config import MethodConfig, TrainConfig, load_config
from tag2mask.config.run import check_weights
from tag2mask.data import PictureSet
from tag2mask.data.masks.labels import MaskFiles, given_codes, mask_name
from tag2mask.data.masks.survey import with_teaching_masks
from tag2mask.method import training_losses
from tag2mask.models.network import Network
from tag2mask.runs.places import located
from tag2mask.training.loop import TrainingStopped, check_out, run_training
from tag2mask.training.objective import Moment
from tag2mask.training.watching import run_pictures, write_sample_sheet

__all__ = ["TrainingStopped", "train"]

log = logging.getLogger("tag2mask")


def train(config: TrainConfig, *, resume: str | Path | None = None) -> Path:
    """Learn segmentation from tags and write a run folder.

    Args:
        config: Everything about the run.
        resume: Run folder to go on with, exactly where its last save was; `config` must be the folder's own.

    Returns:
        The run folder: config.json, environment.json, metrics.csv, log.txt, model.safetensors, last/, samples/,
        report.html.

    Raises:
        ValueError, FileNotFoundError: bad data or settings, before any training; a script without a main guard.
        FileExistsError: `config.out` is not empty.
        TrainingStopped: the loss stayed non-finite.
        KeyboardInterrupt: Ctrl-C; the state is saved first, and the message says how to go on.
    """
    check_start(config.workers)
    if resume is None:
        check_weights(config)
        check_out(config)
    start = None
    if config.tag_phase is not None and resume is None:
        start = Path(config.tag_phase)
        _check_tag_phase(config, start)
    pictures = run_pictures(config, config.train_split)
    if config.masks_for_some:
        pictures = with_some_masks(pictures, Path(config.masks_for_some).expanduser())
    return run_training(config, pictures, _TagObjective(config), resume=resume, start=start)


def with_some_masks(pictures: PictureSet, folder: Path) -> PictureSet:
    """`pictures` with the masks NAME.png of a folder, which teach, in place of the data set's own, which only measure.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no mask of any picture, or a mask that cannot be used.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--masks-for-some {folder} is no folder; give one with masks NAME.png")
    files = MaskFiles(folder)
    placed = tuple(dataclasses.replace(p, mask=files.find(p.name)) for p in pictures.pictures)
    found = sum(picture.mask is not None for picture in placed)
    if not found:
        name = pictures.pictures[0].name
        raise ValueError(
            f"--masks-for-some {folder} has no mask of any of the {len(placed)} pictures of split {pictures.split!r}; "
            f"a mask of {name} would be called {mask_name(name)}{files.stray_words(p.name for p in placed)}"
        )
    codes = given_codes(folder, pictures.classes)
    log.info("true masks of %d of %d pictures", found, len(placed))
    placed_set = dataclasses.replace(pictures, pictures=placed, mask_codes=codes)
    return with_teaching_masks(placed_set, given=f"--masks-for-some {folder}", folder=folder, all_usable=True)


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
            with_masks=bool(self.config.masks_for_some),
            team=at.team,
        )

    def write_samples(self, run: Path, at: Moment, batch: Batch, step: int) -> Path:
        return write_sample_sheet(run, self.config, at, batch, step)


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
    plain, config = TrainConfig(), located(config)
    return dataclasses.replace(
        config,
        preset_name=plain.preset_name,
        out=None,
        profile=plain.profile,
        tag_phase=None,
        masks_for_some="",
        segment_dilation=None,
        joint_batch_size=plain.joint_batch_size,
        joint_steps=0,
        optim=dataclasses.replace(config.optim, joint_lr=1.0, joint_multipliers=True),
        method=MethodConfig(ema=config.method.ema, teacher=0.0, pool_valid=config.method.pool_valid),
        val_split=plain.val_split,
        workers=0,
        log_every=plain.log_every,
        sample_every=0,
        validate_every=0,
        validate_pictures=0,
        save_every=plain.save_every,
        trackers=plain.trackers,
        select="last",
    )
