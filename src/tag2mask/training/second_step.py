"""The second step: a supervised network learns from masks, usually those of the first step (method 7)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from tag2mask.base.choosing import some_of_each
from tag2mask.base.options import public
from tag2mask.base.processes import check_start
from tag2mask.batch import Batch, Losses
from tag2mask.config import RetrainConfig
from tag2mask.data import PictureSet
from tag2mask.data.masks.labels import MaskFiles, expected_mask, given_codes, mask_name
from tag2mask.data.masks.survey import with_teaching_masks
from tag2mask.losses import SEGMENTATION_LOSSES
from tag2mask.method import Moment
from tag2mask.outputs.render import SampleRow
from tag2mask.training.starting import check_out, given_run, run_training
from tag2mask.training.watching import classes_in, predicted_labels, run_pictures, write_sample_rows


@public
def retrain(config: RetrainConfig | None = None, *, resume: str | Path | None = None) -> Path:
    """Train a supervised network on masks and write a run folder.

    Args:
        config: Everything about the run; `masks` or `own_masks` says what it learns from; not needed with `resume`.
        resume: Run folder to go on with, as for `train`.

    Returns:
        The run folder. Its files, and the errors, are those of `train`.
    """
    config, folder = given_run(RetrainConfig, config, resume)
    check_start(config.workers)
    if resume is None:
        check_out(config)
    pictures = with_training_masks(run_pictures(config, config.train_split), config)
    return run_training(config, checked_masks(pictures, config), _MaskObjective(config), resume=folder)


def with_training_masks(pictures: PictureSet, config: RetrainConfig) -> PictureSet:
    """`pictures` with the masks that the second step learns from; those without one are left out with `own_masks`.

    Raises:
        ValueError: no masks asked for, both kinds asked for, or masks missing.
    """
    if bool(config.masks) == config.own_masks:
        raise ValueError("retrain needs either --masks DIR, as pseudo-label writes it, or --own-masks")
    if config.own_masks:
        kept = tuple(picture for picture in pictures.pictures if picture.mask is not None)
        if not kept:
            raise ValueError(
                f"No picture of split {pictures.split!r} of {pictures.root} has a mask; use --masks DIR. "
                f"{expected_mask(pictures)}"
            )
        return dataclasses.replace(pictures, pictures=kept)
    folder = Path(config.masks).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; write masks with: tag2mask pseudo-label RUN --out DIR")
    files = MaskFiles(folder)
    placed = tuple(dataclasses.replace(picture, mask=files.find(picture.name)) for picture in pictures.pictures)
    if missing := [picture.name for picture in placed if picture.mask is None]:
        raise ValueError(
            f"{folder} lacks the masks of {len(missing)} of {len(placed)} pictures of split {pictures.split!r}, for "
            f"example {missing[0]}, which would be {mask_name(missing[0])}{files.stray_words(p.name for p in placed)}; "
            "write them with tag2mask pseudo-label, or train on another --train-split"
        )
    codes = given_codes(folder, pictures.classes)
    return dataclasses.replace(pictures, pictures=placed, mask_codes=codes)


def checked_masks(pictures: PictureSet, config: RetrainConfig) -> PictureSet:
    """`pictures` after a look at every mask, without those whose mask cannot be used; see `with_teaching_masks`.

    Raises:
        DataError: nothing can be learned from the masks, or masks of --masks have ids that are no label.
    """
    if config.own_masks:
        return with_teaching_masks(pictures)
    return with_teaching_masks(pictures, given=f"--masks {config.masks}", folder=Path(config.masks).expanduser())


@dataclass(frozen=True)
class _MaskObjective:
    """Cross entropy on the labeled pixels, of the kind that the config names."""

    config: RetrainConfig

    def losses(self, at: Moment, batch: Batch) -> Losses:
        outputs = at.model(at.network.normalize(batch.rgb, batch.valid), batch.valid)
        loss = SEGMENTATION_LOSSES[self.config.loss]
        return Losses({"segmentation": loss(outputs.seg_logits.float(), batch.mask, team=at.team)})

    def write_samples(self, run: Path, at: Moment, batch: Batch, step: int) -> Path:
        network = at.keeper
        shown = [classes_in(mask, network.classes) for mask in batch.mask.cpu().numpy()]
        batch = batch.rows(some_of_each(shown, 4))
        predictions = predicted_labels(network, batch)
        pictures, masks = batch.rgb.permute(0, 2, 3, 1).cpu().numpy(), batch.mask.cpu().numpy()
        rows = [
            SampleRow(name=name, rgb=rgb, tags=classes_in(mask, network.classes), training_mask=mask, prediction=labels)
            for name, rgb, mask, labels in zip(batch.names, pictures, masks, predictions, strict=True)
        ]
        return write_sample_rows(run, rows, network.classes, step, self.config.steps)
