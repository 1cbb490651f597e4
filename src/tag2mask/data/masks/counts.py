"""Counts over the masks of a data set: pixels of each id, and in which masks ids and tags occur together.

Memory does not grow with the data. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import Size, label_counts
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import MaskCodes, Picture, PictureSet
from tag2mask.data.findings import MOST_NAMES
from tag2mask.data.storage.pictures import read_ids


def count_ids(path: Path, codes: MaskCodes, size: Size | None) -> NDArray[np.int64]:
    """Pixels int64 [256] of each id of a mask; errors as `read_mask`."""
    return label_counts(read_ids(path, size, codes.colors))


class MaskCounts:
    """Counts over the masks of one split."""

    def __init__(self, pictures: PictureSet, *, whose: str = "") -> None:
        """Of masks with the codes and classes of `pictures`; `whose` names a folder that is not the data set's own."""
        self.classes, self.codes = pictures.classes, pictures.mask_codes
        self.whose, self.own = whose or f"the split {pictures.split!r}", not whose
        count = len(self.classes)
        self.masks = 0
        """Masks that can be used."""
        self.pixels = np.zeros(256, dtype=np.int64)
        self.in_masks = np.zeros(256, dtype=np.int64)
        """Masks in which an id occurs."""
        self.together = np.zeros((256, count), dtype=np.int64)
        """Masks in which an id occurs and whose picture has a tag."""
        self.tagged = np.zeros(count, dtype=np.int64)
        """Masks whose picture has a tag."""
        self.shown = np.zeros(count, dtype=np.int64)
        """Masks whose picture has a tag and that show its class."""
        self.equal = self.untagged = self.unseen = 0
        """Masks that show exactly the classes of the tags, that show one more, and that lack one."""
        self.broken: list[tuple[str, str]] = []
        """First names and messages."""
        self.num_broken = 0
        self.strange: list[str] = []
        """First pictures whose masks have foreign ids."""
        self.num_strange = 0
        self.examples: dict[int, Path] = {}
        """A mask with each id."""
        self.is_foreign = np.array([number not in self.codes.known for number in range(256)])

    def add(self, picture: Picture, counts: NDArray[np.int64] | str) -> None:
        """Take the pixels per id of the mask of `picture`, or why it cannot be used."""
        if isinstance(counts, str):
            self.num_broken += 1
            if len(self.broken) < MOST_NAMES:
                self.broken.append((picture.name, counts))
            return
        present, tags = counts > 0, list(picture.tags)
        self.masks += 1
        self.pixels += counts
        self.in_masks += present
        self.tagged[tags] += 1
        self.together += present[:, None] * np.isin(np.arange(len(self.classes)), tags)
        classes = set(self.codes.table[present].tolist()) - {BACKGROUND, IGNORE}
        wanted = {tag + 1 for tag in tags}
        self.shown[[label - 1 for label in wanted & classes]] += 1
        self.equal += classes == wanted
        self.untagged += bool(classes - wanted)
        self.unseen += bool(wanted - classes)
        for number in np.flatnonzero(present).tolist():
            if picture.mask is not None:
                self.examples.setdefault(number, picture.mask)
        if (present & self.is_foreign).any():
            self.num_strange += 1
            if len(self.strange) < MOST_NAMES:
                self.strange.append(picture.name)

    @property
    def foreign(self) -> list[int]:
        """Ids that occur and stand for nothing."""
        return np.flatnonzero((self.pixels > 0) & self.is_foreign).tolist()

    @property
    def first_strange(self) -> Path | None:
        """A mask with a foreign id."""
        return self.examples[self.foreign[0]] if self.foreign else None

    @property
    def ignored(self) -> int:
        """Pixels of the id 255, where that is ignored."""
        return int(self.pixels[IGNORE]) if self.codes.table[IGNORE] == IGNORE else 0

    @property
    def labels(self) -> NDArray[np.int64]:
        """Pixels int64 [256] of each label."""
        return np.bincount(self.codes.table, weights=self.pixels, minlength=256).astype(np.int64)

    @property
    def absent(self) -> list[int]:
        """Indices of classes that are tagged in pictures with masks and in none of the masks of these pictures."""
        return np.flatnonzero((self.tagged > 0) & (self.shown == 0)).tolist()
