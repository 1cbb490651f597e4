"""What the writers of masks get and share: pictures with labels, the objects in them, the choices of a call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import label_counts
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.config.formats import OutputOptions
from tag2mask.data.storage.result_names import name_key
from tag2mask.data.storage.tables import MAX_CLASSES
from tag2mask.outputs.outlines import Region, trace
from tag2mask.outputs.polygons import Polygon, single_polygon


@dataclass(frozen=True, eq=False)
class LabeledPicture:
    """One picture with its labels."""

    name: str
    """What its results are called: no suffix, forward slashes, unique."""
    file_name: str
    """Path of the picture with suffix, forward slashes, relative to the folder of the pictures."""
    labels: NDArray[Any]
    """uint8 [H, W] in {0..C, 255}."""
    scores: Mapping[str, float] | None = None
    """Tag score per class name in 0..1, where there are some."""
    path: Path | None = None
    """The picture itself, where it is known."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        h, w = self.labels.shape
        return int(h), int(w)

    def score(self, name: str) -> dict[str, float]:
        """`{"score": ...}` with the tag score of a class, to six digits; empty where there are no scores."""
        return {} if self.scores is None else {"score": round(float(self.scores[name]), 6)}


Add: TypeAlias = Callable[[LabeledPicture], None]
"""Takes the next picture; nothing of it is kept but a line of text."""
Writer: TypeAlias = Callable[[Path, Sequence[str], OutputOptions], AbstractContextManager[Add]]
"""(path, classes, options): opens a file or folder of a format, which is whole when its block ends without error.
Pixels of 255 are in no object, as are those of the background."""


@dataclass(frozen=True, eq=False)
class LabelObject:
    """Pixels of one class, all of them or one region."""

    label: int
    """1..C."""
    name: str
    """Of the class."""
    box: tuple[int, int, int, int]
    """(x, y, width, height) of the smallest box around them."""
    mask: NDArray[np.bool_]
    """[height, width] of the box."""

    @property
    def corner(self) -> tuple[int, int]:
        """(x, y) of the box."""
        return self.box[:2]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.mask))

    def regions(self) -> list[Region]:
        """The 4-connected regions, in coordinates of the box."""
        return trace(self.mask)[0]

    def polygons(self, *, tolerance: float, inset: float = 0.0) -> Iterator[Polygon]:
        """Each region as one polygon (`single_polygon`), in coordinates of the picture."""
        for region in self.regions():
            yield single_polygon(region, tolerance=tolerance, inset=inset) + self.corner


def objects_of(picture: LabeledPicture, classes: Sequence[str], *, instances: bool) -> Iterator[LabelObject]:
    """The objects of a picture by label, then by their first pixel in reading order. 0 and 255 are none.

    Raises:
        ValueError: a label that no class has.
    """
    found = [int(label) for label in np.flatnonzero(label_counts(picture.labels)) if label not in (BACKGROUND, IGNORE)]
    if found and found[-1] > len(classes):
        raise ValueError(
            f"The mask of {picture.name} holds label {found[-1]}, but there are {len(classes)} classes "
            f"({', '.join(classes)}). Give the class list of the masks, one name per line in the order of the labels."
        )
    for label in found:
        name = classes[label - 1]
        whole = _boxed(label, name, picture.labels == label, (0, 0))
        if not instances:
            yield whole
            continue
        regions, owner = trace(whole.mask)
        for index, region in enumerate(regions, start=1):
            x, y, w, h = region.box
            yield _boxed(label, name, owner[y : y + h, x : x + w] == index, (whole.box[0] + x, whole.box[1] + y))


def _boxed(label: int, name: str, mask: NDArray[np.bool_], corner: tuple[int, int]) -> LabelObject:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    box = (corner[0] + left, corner[1] + top, right - left, bottom - top)
    return LabelObject(label, name, box, mask[top:bottom, left:right])


@dataclass(frozen=True)
class Wanted:
    """What is to be written, as far as it is known before any mask is."""

    classes: Sequence[str]
    """In the order of the labels."""
    file_names: Sequence[str]
    """Of all pictures, as in `LabeledPicture`."""
    options: OutputOptions
    max_pixels: int
    """Most pixels of a picture."""


Check: TypeAlias = Callable[[Wanted], None]
"""Refuses with a ValueError what a format cannot hold: classes, names, sizes."""


def check_names(wanted: Wanted) -> None:
    """What every format demands: classes and pictures have names of their own, and a mask can hold the classes.

    Raises:
        ValueError: two share a name, or there are too many classes, or none.
    """
    if not 0 < len(wanted.classes) <= MAX_CLASSES:
        raise ValueError(f"Masks hold 1 to {MAX_CLASSES} classes, got {len(wanted.classes)}.")
    for what, names in (("classes", wanted.classes), ("pictures", wanted.file_names)):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"Two {what} are called {twice[0]!r}. Rename one.")


def check_stems(wanted: Wanted, format: str) -> None:
    """For formats that find a picture by its name without suffix.

    Raises:
        ValueError: two pictures differ in their suffix only, or in letter case or the form of accents, which some
            systems do not keep apart.
    """
    seen: dict[str, str] = {}
    for name in wanted.file_names:
        other = seen.setdefault(name_key(stem_of(name)), name)
        if other != name:
            raise ValueError(
                f"{format} knows pictures by their name without suffix, so it cannot hold both "
                f"{other} and {name}. Rename one, leave one out, or choose another format."
            )


def stem_of(file_name: str) -> str:
    """The path of a picture without its last suffix, whatever that is, as the readers of other tools cut it."""
    return str(PurePosixPath(file_name).with_suffix(""))


def rounded(values: Any) -> list[float]:
    """Coordinates as short numbers: whole ones without a point, others with at most four digits behind it."""
    return [int(v) if v == int(v) else round(v, 4) for v in np.asarray(values, dtype=np.float64).ravel().tolist()]
