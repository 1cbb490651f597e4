"""The result of a reader: a list of pictures with tags, and what the ids in its masks mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.findings import Finding


class DataError(ValueError):
    """The data set cannot be used as it is; the message names file, line and cure."""


class MissingDataError(DataError, FileNotFoundError):
    """A file or folder that the data set needs is not there."""


class SplitError(DataError):
    """The split that was asked for does not exist or holds no picture."""


@dataclass(frozen=True)
class Picture:
    """One picture of a data set."""

    path: Path
    """File of the picture; open it with `read_picture` or `open_picture`, as some formats keep pictures in a table."""
    name: str
    """Its path relative to images/ (else to the data folder), with forward slashes, as in tags.csv."""
    tags: tuple[int, ...]
    """Indices into the class list, ascending; empty for a negative picture (or for one whose tags are not known)."""
    mask: Path | None
    """Its mask, where there is one."""


UNNAMED = 254
"""Id of a color that the file does not name."""


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Names and colors of labels; the id of name `i` is `i + 1`."""

    path: Path
    names: tuple[str, ...]
    """Without background and what is ignored."""
    colors: NDArray[np.uint32]
    """Ascending, red in the third byte, blue in the first."""
    ids: NDArray[np.uint8]
    """Id of each color."""

    def ids_of(self, colors: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """The id of each color; `UNNAMED` where the file has none."""
        place = np.minimum(np.searchsorted(self.colors, colors), len(self.colors) - 1)
        return np.where(self.colors[place] == colors, self.ids[place], UNNAMED).astype(np.uint8)

    def of_palette(self, used: NDArray[np.bool_], palette: NDArray[np.uint32]) -> NDArray[np.uint8] | None:
        """uint8 [256]: ids of the entries of a palette; None where the colors that are used are others.

        Args:
            used: bool [256], entries that occur.
            palette: uint32 [256], their colors.
        """
        ids = self.ids_of(palette)
        here = ids[used]
        return ids if (here != UNNAMED).all() or (~np.isin(here, (BACKGROUND, IGNORE, UNNAMED))).any() else None


@dataclass(frozen=True, eq=False)
class MaskCodes:
    """What the ids in the mask files of a data set or of a folder stand for."""

    table: NDArray[np.uint8]
    """uint8 [256]: label 0..C or 255 for each id."""
    known: frozenset[int]
    """Ids that stand for something, be it for a class that is left out on purpose; the others are foreign."""
    colors: LabelMap | None = None
    """Where masks are in colors: the id of each."""

    @classmethod
    def of(cls, labels: Mapping[int, int | None], *, others: str, colors: LabelMap | None = None) -> MaskCodes:
        """From the label of each id that stands for something, None for a class that is left out.

        Raises:
            ValueError: `others`, the label of all other ids, is neither "ignore" nor "background".
        """
        if others not in ("ignore", "background"):
            raise ValueError(f"others must be ignore or background, got {others!r}")
        known = {BACKGROUND: BACKGROUND, IGNORE: IGNORE} | dict(labels)
        table = np.full(256, IGNORE if others == "ignore" else BACKGROUND, dtype=np.uint8)
        for number, label in known.items():
            if label is not None:
                table[number] = label
        return cls(table, frozenset(known), colors)

    def __getitem__(self, ids: Any) -> Any:
        return self.table[ids]


@dataclass(frozen=True, eq=False)
class PictureSet:
    """One split of a data set, checked."""

    classes: tuple[str, ...]
    """Class names; class `i` has label `i + 1`, label 0 is the background."""
    pictures: tuple[Picture, ...]
    mask_codes: MaskCodes
    """What the ids in its masks stand for."""
    root: Path
    split: str
    data_format: str
    """As in `tag2mask.config.formats.DataFormat`."""
    findings: tuple[Finding, ...] = ()
    """What is left out of the data set, or may be a mistake; counted and named."""

    @property
    def num_classes(self) -> int:
        """Number of classes C, without background."""
        return len(self.classes)

    @property
    def has_masks(self) -> bool:
        """Whether any picture of this split has a mask."""
        return any(picture.mask is not None for picture in self.pictures)


def voc_palette() -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, uint8 [256, 3].

    Bits 0, 1, 2 of the label become the highest free bit of red, green, blue; then bits 3, 4, 5, and so on.
    """
    label = np.arange(256)[:, None]
    shifts = np.arange(8)
    bits = (label[..., None] >> (3 * shifts + np.arange(3)[:, None])) & 1
    return np.asarray((bits << (7 - shifts)).sum(-1), dtype=np.uint8)


def label_codes(num_classes: int, *, others: str) -> MaskCodes:
    """Codes of masks that hold labels already: 0..C and 255 stay, other ids become 255 (0 for "background")."""
    return MaskCodes.of({label: label for label in range(1, num_classes + 1)}, others=others)
