"""Scores of a folder of masks, whoever made them. Memory does not grow with the data. Imports no torch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tag2mask.base.arrays import label_counts
from tag2mask.config import IGNORE
from tag2mask.data import Picture, PictureError, PictureSet, read_mask
from tag2mask.data.dataset import MaskCodes, label_codes
from tag2mask.data.findings import about, log_findings, some
from tag2mask.data.masks.labels import MaskFiles, class_label, codes_by_name, mask_list, mask_name, refuse_foreign_list
from tag2mask.data.masks.survey import survey, with_measuring_masks
from tag2mask.data.storage.pictures import file_size
from tag2mask.scoring.report import MaskCounter, Progress, Report, data_protocol, model_codes, tracked, with_masks

log = logging.getLogger("tag2mask")


def score_masks(
    folder: Path, pictures: PictureSet, *, boundary: bool = False, limit: int = 0, progress: Progress | None = None
) -> Report:
    """Score the files `folder`/NAME.png against the masks of `pictures`, classes by name.

    Pixels that are 255 in a file count nowhere; their share is `unlabeled_share` in the protocol.

    Raises:
        ValueError: before any is scored: a file is missing, is not indexed or grey, has another size, or holds a number
            that is no label; or nothing is left to score.
    """
    pictures = with_measuring_masks(pictures, limit, strict=True, sizes=False)
    classes, unknown, codes = _classes_of(folder, pictures)
    chosen, labels = with_masks(pictures, limit), len(classes) + 1
    truth_codes = model_codes(classes, pictures)
    paths = _mask_files(folder, chosen)
    labels_of_tags = [class_label(name, classes) for name in pictures.classes]
    placed = tuple(
        dataclasses.replace(each, mask=path, tags=tuple(label - 1 for i in each.tags if (label := labels_of_tags[i])))
        for each, path in zip(chosen, paths, strict=True)
    )
    _refuse_unscorable(folder, PictureSet(classes, placed, codes, folder, pictures.split, ""), chosen)
    log_findings(pictures.findings, log)
    counter = MaskCounter(classes, boundary=boundary)
    unlabeled, total = np.zeros(labels, dtype=np.int64), np.zeros(labels, dtype=np.int64)
    for picture, path in tracked(list(zip(chosen, paths, strict=True)), progress):
        truth = read_mask(picture.mask, truth_codes)
        predicted = read_mask(path, codes, (truth.shape[0], truth.shape[1]))
        counter.update(predicted, truth)
        total += label_counts(truth)[:labels]
        unlabeled += label_counts(np.where(predicted == IGNORE, truth, IGNORE))[:labels]
    whole = zip(("background", *classes), unlabeled, total, strict=True)
    names = [name for name, ignored, all in whole if all and ignored == all]
    lost = about(
        names,
        code="unlabeled",
        message=f"{some(len(names), 'label')} of which every true pixel is 255 in the masks: none counts.",
        cure="If 255 stands for a class in these masks, write labels; else say so beside the score.",
    )
    log_findings(lost, log)
    pictures = dataclasses.replace(pictures, findings=(*pictures.findings, *lost))
    protocol = data_protocol(pictures, len(chosen), classes, unknown) | {
        "masks_from": str(folder),
        "unlabeled_share": int(unlabeled.sum()) / max(int(total.sum()), 1),
        "unlabeled_pixels": "255 in a mask counts nowhere",
    }
    return counter.report(len(chosen), protocol)


def _classes_of(folder: Path, pictures: PictureSet) -> tuple[tuple[str, ...], list[str], MaskCodes]:
    """The classes that a folder of masks is scored with, those of the data set that it does not know, and its codes.

    By name where a class list goes with the masks: as for a run of these classes. By position where none does.
    """
    listed = mask_list(folder)
    if listed is None:
        return pictures.classes, [], label_codes(len(pictures.classes), others="ignore")
    refuse_foreign_list(listed, pictures.classes, f"the data set {pictures.root}")
    names = tuple(listed.ids.values())
    both = [name for name in pictures.classes if class_label(name, names) is not None]
    classes = (*both, *(name for name in listed.names if class_label(name, both) is None))
    codes = MaskCodes.of(codes_by_name(listed.ids, classes), others="ignore", colors=listed.colors)
    return classes, [name for name in pictures.classes if class_label(name, both) is None], codes


def _mask_files(folder: Path, chosen: Sequence[Picture]) -> list[Path]:
    files, paths = MaskFiles(folder), []
    for picture in chosen:
        path = files.find(picture.name)
        if path is None:
            strays = files.stray_words(each.name for each in chosen)
            raise ValueError(f"There is no mask {folder / mask_name(picture.name)} for picture {picture.name}{strays}.")
        paths.append(path)
    return paths


def _refuse_unscorable(folder: Path, placed: PictureSet, chosen: Sequence[Picture]) -> None:
    """Read all masks of a folder before any is scored; `chosen` are the pictures with their true masks.

    Raises:
        ValueError: a mask cannot be used, holds a number that is no label, or none shows a class.
    """
    sizes = {each.name: each.mask or each.path for each in chosen}
    tally = survey(placed, placed.pictures, size_of=lambda each: file_size(sizes[each.name]), whose=str(folder))
    if tally.num_broken:
        raise PictureError(f"{some(tally.num_broken, 'mask')} of {folder} cannot be scored: {tally.broken[0][1]}")
    if tally.foreign:
        raise ValueError(
            f"{tally.first_strange} ({some(tally.num_strange, 'mask')} of {folder}) holds numbers that are no label: "
            f"{tally.foreign_words()}. {tally.cure()}"
        )
    if tally.pixels[IGNORE] and (reason := tally.nothing_left()) is not None:  # all background is a bad mask, but one
        raise ValueError(f"Nothing is left to score. {reason}")
