"""The first step: learn segmentation from tags (paper figure 2)."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from tag2mask.base.options import public
from tag2mask.base.processes import check_start
from tag2mask.batch import Batch, Losses
from tag2mask.config import TrainConfig, load_config, tag_phase_settings
from tag2mask.crf import dense_crf
from tag2mask.data import PictureSet
from tag2mask.data.masks.labels import MaskFiles, given_codes, mask_name
from tag2mask.data.masks.survey import with_teaching_masks
from tag2mask.method import Moment, training_losses
from tag2mask.reliable import DenseCRF
from tag2mask.runs.checkpoints import LAST, TAG_PHASE, load_state, tag_phase_place
from tag2mask.runs.places import located
from tag2mask.training.loop import TrainingStopped
from tag2mask.training.starting import check_out, given_run, run_training
from tag2mask.training.watching import run_pictures, write_sample_sheet

__all__ = ["TrainingStopped", "train"]

log = logging.getLogger("tag2mask")


@public
def train(config: TrainConfig | None = None, *, resume: str | Path | None = None) -> Path:
    """Learn segmentation from tags and write a run folder.

    Args:
        config: Everything about the run; not needed with `resume`.
        resume: Run folder to go on with, exactly where its last save was. Everything comes from its config.json; a
            `config` that is given too must be equal, but for the places of files that have moved, and, while the joint
            phase has not begun, for more `tag_steps` and with them `optim.lr`.

    Returns:
        The run folder: config.json, environment.json, metrics.csv, log.txt, model.safetensors, last/, samples/,
        report.html.

    Raises:
        ValueError, FileNotFoundError: bad data or settings, before any training; a script without a main guard.
        FileExistsError: `config.out` is not empty.
        TrainingStopped: the loss stayed non-finite, or the tag phase has taught nothing (docs/report.md).
        KeyboardInterrupt: Ctrl-C; the state is saved first, and the message says how to go on.
    """
    config, folder = given_run(TrainConfig, config, resume)
    check_start(config.workers)
    start = None
    if resume is None:
        _check_weights(config)
        check_out(config)
        start = None if config.tag_phase is None else Path(config.tag_phase)
        if start is not None:
            config = _taking_over(config, start)
    pictures = run_pictures(config, config.train_split)
    if config.masks_for_some:
        pictures = with_some_masks(pictures, Path(config.masks_for_some).expanduser())
    return run_training(config, pictures, TagObjective(config), resume=folder, start=start)


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
class TagObjective:
    """Tags, and in the joint phase reliable labels and dense energy."""

    config: TrainConfig
    crf: DenseCRF = dense_crf

    def losses(self, at: Moment, batch: Batch) -> Losses:
        with_masks = bool(self.config.masks_for_some)
        return training_losses(at, batch, self.config.method, with_masks=with_masks, crf=self.crf)

    def write_samples(self, run: Path, at: Moment, batch: Batch, step: int) -> Path:
        return write_sample_sheet(run, self.config, at, batch, step)


def _taking_over(config: TrainConfig, run: Path) -> TrainConfig:
    """`config` with what `run` has found where it says auto.

    A tag phase can be taken over if this run would train an equal one, and the state at its end is there.

    Raises:
        ValueError: it would not, with the settings that differ; or there is no such state, with where it may be.
        FileNotFoundError: `run` has saved nothing.
    """
    other = load_config(run)
    if not isinstance(other, TrainConfig):
        raise ValueError(f"--tag-phase {run} is the run of a second step; give one of `tag2mask train`")
    config = config.found_in(other)
    mine, theirs = (dataclasses.asdict(tag_phase_settings(located(each))) for each in (config, other))
    if differing := sorted(key for key in mine if mine[key] != theirs[key]):
        raise ValueError(f"--tag-phase {run} was trained with other settings: {', '.join(differing)}")
    place = tag_phase_place(run)
    if place == LAST and other.joint_steps:
        raise ValueError(
            f"--tag-phase {run} keeps no state of its tag phase ({TAG_PHASE}/state.pt): "
            + (
                f"it has taken that over itself. Give --tag-phase {other.tag_phase}"
                if other.tag_phase
                else "it has not come to its end, or was trained by an older version. Go on there with tag2mask train "
                f"--resume {run}, or train the tag phase alone with --joint-steps 0"
            )
        )
    steps = load_state(run, place)["step"]
    if steps != config.tag_steps:
        raise ValueError(
            f"--tag-phase {run} has made {steps} of its {config.tag_steps} steps on tags. Go on there first: tag2mask "
            f"train --resume {run}"
        )
    return config


def _check_weights(config: TrainConfig) -> None:
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
