"""Reads all masks before they teach, measure or give tags: which cannot be used, and what the others show.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size
from tag2mask.base.processes import in_threads
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import UNNAMED, DataError, Picture, PictureSet
from tag2mask.data.findings import Finding, are, some
from tag2mask.data.masks.counts import count_ids
from tag2mask.data.masks.labels import MaskList, mask_list, meaning
from tag2mask.data.masks.tally import MaskTally
from tag2mask.data.storage.pictures import PictureError, shown_size


def survey(
    pictures: PictureSet,
    chosen: Sequence[Picture],
    *,
    size_of: Callable[[Picture], Size | None] | None = lambda picture: shown_size(picture.path),
    whose: str = "",
    each: Callable[[Picture, NDArray[np.int64] | str], None] | None = None,
) -> MaskTally:
    """Read the masks of `chosen` pictures in threads.

    Args:
        pictures: Their classes and codes.
        chosen: Pictures with a mask.
        size_of: Gives the size that a mask must have; default that of its picture. None: any.
        whose: A folder that is not the data set's own, for messages.
        each: Called in order with every picture and the pixels of its ids, or why its mask cannot be used.
    """

    def counts_of(picture: Picture) -> NDArray[np.int64] | str:
        assert picture.mask is not None
        try:
            size = None if size_of is None else size_of(picture)
        except (PictureError, OSError):
            size = None  # broken pictures are reported elsewhere
        try:
            return count_ids(picture.mask, pictures.mask_codes, size)
        except (PictureError, OSError) as error:
            return str(error)

    tally = MaskTally(pictures, whose=whose)
    for picture, counts in zip(chosen, in_threads(counts_of, chosen), strict=True):
        tally.add(picture, counts)
        if each is not None:
            each(picture, counts)
    return tally


def with_measuring_masks(
    pictures: PictureSet, limit: int = 0, *, strict: bool = False, sizes: bool = True
) -> PictureSet:
    """`pictures` with findings on the masks of the first `limit` (0: all) that have one.

    Args:
        pictures: A split whose masks are about to be scored on.
        limit: Of the scoring.
        strict: Refuse what cannot be scored; a validation passes over it.
        sizes: Whether masks must have the size of their picture.

    Raises:
        PictureError: a mask cannot be used.
        DataError: nothing is left to score.
    """
    chosen = [picture for picture in pictures.pictures if picture.mask is not None][: limit or None]
    if not chosen:
        return pictures
    tally = survey(pictures, chosen) if sizes else survey(pictures, chosen, size_of=None)
    if strict and tally.num_broken:
        raise PictureError(f"{some(tally.num_broken, 'mask')} of {tally.whose} cannot be scored: {tally.broken[0][1]}")
    if strict and (reason := tally.nothing_left()) is not None:
        raise DataError(f"Nothing is left to score. {reason}")
    return replace(pictures, findings=(*pictures.findings, *tally.findings()))


def with_teaching_masks(
    pictures: PictureSet, *, given: str = "", folder: Path | None = None, all_usable: bool = False
) -> PictureSet:
    """`pictures` whose masks teach, after a look at all of them; findings say what was seen.

    A mask that cannot be read teaches nothing: its picture is left out and named, so that one damaged file among
    thousands does not stop the training.

    Args:
        pictures: Those with a mask are looked at.
        given: The option that the masks come from, in which an id that is no label is a mistake; "" for the data set's
            own, whose `others` says what becomes of it.
        folder: Of that option.
        all_usable: Refuse masks that cannot be used: there are few of them, made by hand.

    Raises:
        DataError: no mask can be used, none shows a class, or what `given` and `all_usable` refuse.
    """
    chosen = [picture for picture in pictures.pictures if picture.mask is not None]
    broken: set[str] = set()

    def note(picture: Picture, counts: NDArray[np.int64] | str) -> None:
        if isinstance(counts, str):
            broken.add(picture.name)

    tally = survey(pictures, chosen, whose=given, each=note)
    if all_usable and broken:
        raise DataError(f"{some(len(broken), 'mask')} of {given} cannot be used: {tally.broken[0][1]}")
    if given and tally.foreign:
        raise DataError(_foreign_label(tally, given, None if folder is None else mask_list(folder)))
    if (reason := tally.nothing_left()) is not None:
        raise DataError(f"Nothing to learn from. {reason}")
    kept = tuple(picture for picture in pictures.pictures if picture.name not in broken)
    return replace(pictures, pictures=kept, findings=(*pictures.findings, *tally.findings()))


def _foreign_label(tally: MaskTally, given: str, listed_by: MaskList | None) -> str:
    where = f"{tally.first_strange} ({some(tally.num_strange, 'mask')} of {given})"
    if tally.codes.colors is not None and tally.foreign == [UNNAMED]:
        return f"{where} has colors that labelmap.txt does not name. {tally.cure()}"
    source = "" if listed_by is None else f" by {listed_by.source}"
    return (
        f"{where} has the label {tally.foreign[0]}, but there are {len(tally.classes)} classes{source}: known are "
        f"{meaning(tally.codes, tally.classes)}. {tally.cure()}"
    )


def tags_of_masks(pictures: PictureSet) -> tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]:
    """Classes that the masks of pictures show, as tags: indices by the picture's name, and findings.

    Raises:
        DataError: a picture has no mask, a mask cannot be used, or none shows a class though ids are foreign.
    """
    if missing := [picture.name for picture in pictures.pictures if picture.mask is None]:
        others = f", nor have {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DataError(
            f"{missing[0]} has no mask to read tags from{others}. Add it, or use tags.csv without --tags-from masks."
        )
    tags: dict[str, tuple[int, ...]] = {}

    def note(picture: Picture, counts: NDArray[np.int64] | str) -> None:
        if not isinstance(counts, str):
            labels = np.unique(pictures.mask_codes.table[counts > 0]).tolist()
            tags[picture.name] = tuple(label - 1 for label in labels if label not in (BACKGROUND, IGNORE))

    tally = survey(pictures, pictures.pictures, size_of=None, each=note)
    if tally.num_broken:
        raise DataError(f"{are(tally.num_broken, 'mask')} no source of tags: {tally.broken[0][1]}")
    if (reason := tally.nothing_left()) is not None:
        raise DataError(f"No tag can be read from masks. {reason}")
    return tags, tally.findings()
