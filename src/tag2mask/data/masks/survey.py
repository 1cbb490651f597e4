"""Reads all masks before they teach or measure: which cannot be used, which ids are foreign, which classes never occur.

Memory does not grow with the data. Imports no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import label_counts
from tag2mask.base.processes import in_threads
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import UNNAMED, DataError, MaskCodes, Picture, PictureSet
from tag2mask.data.findings import MOST_NAMES, Finding, are, listed, named, some
from tag2mask.data.masks.labels import MaskList, mask_list, meaning
from tag2mask.data.storage.labelmap import FILE as LABELMAP
from tag2mask.data.storage.labelmap import packed
from tag2mask.data.storage.pictures import PictureError, open_picture, opened, read_ids, shown_size

Size = tuple[int, int]
SizeOf = Callable[[Picture], Size | None]
_MANY = 16
"""So many foreign ids are no list of classes, but a picture."""
_ALIKE = 0.8
"""Jaccard index of the pictures with an id and those with a tag from which on one may stand for the other."""


def count_ids(path: Path, codes: MaskCodes, size: Size | None) -> NDArray[np.int64]:
    """Pixels int64 [256] of each id of a mask.

    Raises:
        PictureError, FileNotFoundError: as `read_mask`.
    """
    return label_counts(read_ids(path, size, codes.colors))


class MaskTally:
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
        """Masks that show just the classes of the tags, one that is no tag, and lack one that is."""
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
    def labels(self) -> NDArray[np.int64]:
        """Pixels int64 [256] of each label."""
        return np.bincount(self.codes.table, weights=self.pixels, minlength=256).astype(np.int64)

    @property
    def absent(self) -> list[int]:
        """Indices of classes that are tagged in pictures with masks and in none of the masks of these pictures."""
        return np.flatnonzero((self.tagged > 0) & (self.shown == 0)).tolist()

    def findings(self) -> tuple[Finding, ...]:
        """What these masks say: broken ones, foreign ids, tagged classes that never occur, masks unlike the tags."""
        agreement = self.agreement()
        unlike = [agreement] if agreement is not None and agreement.severity == "warning" else []
        return (*self._broken(), *self._foreign(), *self._absent(), *unlike)

    def agreement(self) -> Finding | None:
        """How many masks show just the classes of the tags; None where there is no tag or no mask.

        Which masks disagree is not said, so that nobody corrects tags by masks and calls the result learnt from tags.
        A folder of masks that a model wrote may lack classes: of those, only what is no tag counts.
        """
        if not self.tagged.any():
            return None
        rarely = 2 * self.equal < self.masks if self.own else 2 * self.untagged > self.masks
        if self.foreign or self.absent:
            cure = "See the findings on ids and classes of these masks."
        elif rarely:
            cure = "Check that the ids of the masks follow the class list, and that no tag is missing."
        else:
            cure = "None needed: training looks at tags only, scores at masks only."
        return Finding(
            severity="warning" if rarely else "note",
            code="masks_and_tags",
            message=f"{self.equal} of {some(self.masks, 'mask')} of {self.whose} show just the classes of the tags; "
            f"{self.untagged} show a class that is no tag, {self.unseen} lack a class that is one.",
            cure=cure,
        )

    def nothing_left(self) -> str | None:
        """Why no class can be scored or learned from these masks; None where one can, or all show background only."""
        if not self.masks:
            return (
                f"None of the {some(self.num_broken, 'mask')} of {self.whose} can be used, for example "
                f"{self.broken[0][0]}: {self.broken[0][1]}"
                if self.num_broken
                else None
            )
        if self.labels[1 : len(self.classes) + 1].any() or not (self.absent or self.foreign or self.pixels[IGNORE]):
            return None
        ids = np.flatnonzero(self.pixels).tolist()
        if ids == [BACKGROUND]:
            return f"All masks of {self.whose} are background, though their pictures have tags."
        return (
            f"No mask of {self.whose} shows a class. Their ids are {self._shares(ids)}; known are "
            f"{meaning(self.codes, self.classes)}. {self.cure()}"
        )

    def foreign_words(self) -> str:
        """`40, 80 ...; known are 0 background, 1 ball, 255 ignored`."""
        more = " ..." * (len(self.foreign) > 6)
        return f"{', '.join(map(str, self.foreign[:6]))}{more}; known are {meaning(self.codes, self.classes)}"

    def cure(self) -> str:
        """How the ids or colors can be given classes."""
        if self.codes.colors is not None:
            lines = self._lines_of(self.first_strange) if self.foreign == [UNNAMED] else []
            more = f": {' and '.join(lines)} are colors of {self.first_strange}" if lines else ""
            return f"Name every color in {self.codes.colors.path}, a line 'CLASS:r,g,b::' each{more}."
        if len(self.foreign) >= _MANY:
            return (
                "So many ids are those of a picture, or of edges that were smoothed: save the masks without smoothing "
                "and lossy compression, one id per class."
            )
        if self.own:
            return f"If ids stand for classes, say so: --mask-ids {self._guessed_words() or 'ID=CLASS'}"
        lines = [f"{self.classes[i]}:{self._color(number)}::" for number, i in self._guesses().items()]
        return (
            "Save labels, and put classes.txt, the class list that they follow, beside the masks; or name what stands "
            f"in them in {LABELMAP} beside the masks, a line each: {' and '.join(lines) or 'CLASS:r,g,b::'}"
        )

    def _broken(self) -> list[Finding]:
        if not self.num_broken:
            return []
        names = named([f"{name}: {error}" for name, error in self.broken]) | {"count": self.num_broken}
        return [
            Finding(
                severity="warning",
                code="broken_masks",
                message=f"{some(self.num_broken, 'mask')} of {self.whose} cannot be used.",
                cure="Do what the messages say.",
                **names,
            )
        ]

    def _foreign(self) -> list[Finding]:
        if not self.foreign:
            return []
        lost = self.pixels[self.is_foreign].sum() / self.pixels.sum()
        become = "background (--others)" if self.codes.table[self.foreign[0]] == BACKGROUND else "ignored (255)"
        what = "colors that labelmap.txt does not name" if self.foreign == [UNNAMED] and self.codes.colors else "ids"
        what = what if what != "ids" else f"ids that are no label: {self._shares(self.foreign)}"
        names = named(self.strange) | {"count": self.num_strange}
        return [
            Finding(
                severity="note" if become.startswith("background") else "warning",
                code="foreign_ids",
                message=f"{some(self.num_strange, 'mask')} of {self.whose} with {what}. These {lost:.1%} of all pixels "
                f"are {become}; known are {meaning(self.codes, self.classes)}.",
                cure=self.cure(),
                **names,
            )
        ]

    def _absent(self) -> list[Finding]:
        if not self.absent:
            return []
        ignored = self.pixels[IGNORE] if self.codes.table[IGNORE] == IGNORE else 0
        share = f" {ignored / self.pixels.sum():.1%} of all pixels are 255, which is ignored." if ignored else ""
        names = [f"{self.classes[i]}: tagged in {some(int(self.tagged[i]), 'picture')} with mask" for i in self.absent]
        return [
            Finding(
                severity="warning",
                code="absent_in_masks",
                message=f"{are(len(names), 'class')} tagged in pictures with masks of {self.whose}, and in none of "
                f"these masks.{share}",
                cure=self.cure() if self.foreign or ignored else self._check_ids(),
                **named(names),
            )
        ]

    def _shares(self, ids: Sequence[int]) -> str:
        order = sorted(ids, key=lambda number: -self.pixels[number])
        words = [f"{number} ({self.pixels[number] / self.pixels.sum():.1%} of the pixels)" for number in order[:6]]
        return listed(words) if len(ids) <= 6 else f"{', '.join(words)} and {len(ids) - 6} more"

    def _check_ids(self) -> str:
        words = self._guessed_words() if self.own and self.codes.colors is None else ""
        more = f"; if they do not: --mask-ids {words}" if words else "."
        return f"Check that the ids of the masks follow the class list{more}"

    def _guessed_words(self) -> str:
        """What --mask-ids may have to say, quoted for a shell."""
        background, guesses = self._background(), self._guesses()
        words = [f"{number}={self.classes[i]}" for number, i in guesses.items()]
        first = [f"{background}=background"] if background is not None and background not in guesses else []
        return shlex.join([*first, *words])

    def _background(self) -> int | None:
        """The one id that is in every mask, though 0 is in none and it is no class that all pictures have as tag."""
        index = self.codes.table.astype(int) - 1
        tagged = np.pad(self.tagged, (0, 256))[index] * (index >= 0)  # of the class of each id
        found = np.flatnonzero((self.in_masks == self.masks) & (tagged < self.masks)).tolist()
        if self.masks < 2 or self.pixels[BACKGROUND] or len(found) != 1 or np.count_nonzero(self.pixels) == 1:
            return None
        return int(found[0])

    def _guesses(self) -> dict[int, int]:
        """Class of ids whose pictures are (nearly) those with its tag, or where the order leaves no other."""
        background = self._background()
        ignored = [IGNORE] if self.pixels[IGNORE] and self.codes.table[IGNORE] == IGNORE else []
        free = [number for number in (*self.foreign, *ignored) if number != background]
        wanted = list(self.absent)
        if background is not None and 0 < (label := int(self.codes.table[background])) <= len(self.classes):
            wanted = sorted({*wanted, label - 1})
        ids = [number for number in np.flatnonzero(self.pixels).tolist() if number not in (BACKGROUND, background)]
        both = self.together[ids][:, wanted]
        alike = both / np.maximum(self.in_masks[ids, None] + self.tagged[wanted] - both, 1)
        found = dict[int, int]()
        for row, column in zip(*np.nonzero(alike >= _ALIKE), strict=True):
            best = alike[row, column]
            if (alike[row] >= best).sum() == (alike[:, column] >= best).sum() == 1:
                found[ids[row]] = wanted[column]
        if wanted and len(found) == len(wanted):
            return found
        wanted = wanted or [i for i in range(len(self.classes)) if not self.labels[i + 1]]
        order = self.foreign if len(self.foreign) == len(wanted) else free
        return dict(zip(order, wanted, strict=True)) if len(order) == len(wanted) and background is None else found

    def _color(self, number: int) -> str:
        """The color of an id in a mask where it occurs: of its palette, else grey."""
        path = self.examples.get(number)
        if path is not None:
            with open_picture(path) as file, opened(file, None) as image:
                palette = image.getpalette("RGB") if image.mode == "P" else None
            if palette is not None and 3 * number + 2 < len(palette):
                return ",".join(map(str, palette[3 * number : 3 * number + 3]))
        return ",".join([str(number)] * 3)

    def _lines_of(self, path: Path | None) -> list[str]:
        """Colors of a mask that labelmap.txt does not name, the most frequent first."""
        colors = self.codes.colors
        assert colors is not None and path is not None
        with open_picture(path) as file, opened(file) as image:
            values, counts = np.unique(packed(np.asarray(image.convert("RGB"))), return_counts=True)
        strange = colors.ids_of(values.astype(np.uint32)) == UNNAMED
        order = values[strange][np.argsort(-counts[strange])][:3].tolist()
        return [f"{color >> 16},{color >> 8 & 255},{color & 255}" for color in order]


def survey(
    pictures: PictureSet,
    chosen: Sequence[Picture],
    *,
    size_of: SizeOf | None = None,
    whose: str = "",
    each: Callable[[Picture, NDArray[np.int64] | str], None] | None = None,
) -> MaskTally:
    """Read the masks of `chosen` pictures in threads.

    Args:
        pictures: Their classes and codes.
        chosen: Pictures with a mask.
        size_of: Gives the size that a mask must have; default that of its picture.
        whose: A folder that is not the data set's own, for messages.
        each: Called in order with every picture and the pixels of its ids, or why its mask cannot be used.
    """
    tally = MaskTally(pictures, whose=whose)
    found = in_threads(lambda picture: _counts(picture, pictures.mask_codes, size_of or _shown_size), chosen)
    for picture, counts in zip(chosen, found, strict=True):
        tally.add(picture, counts)
        if each is not None:
            each(picture, counts)
    return tally


def _counts(picture: Picture, codes: MaskCodes, size_of: SizeOf) -> NDArray[np.int64] | str:
    assert picture.mask is not None
    try:
        size = size_of(picture)
    except (PictureError, OSError):
        size = None  # that a picture is broken is said elsewhere
    try:
        return count_ids(picture.mask, codes, size)
    except (PictureError, OSError) as error:
        return str(error)


def _shown_size(picture: Picture) -> Size | None:
    return shown_size(picture.path)


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
    tally = survey(pictures, chosen, size_of=_shown_size if sizes else lambda picture: None)
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
    thousands stops nobody.

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


def tags_of_masks(
    masks: dict[str, Path | None], classes: Sequence[str], codes: MaskCodes, split: str
) -> tuple[dict[str, tuple[int, ...]], tuple[Finding, ...]]:
    """Classes that masks show, as tags: indices by picture, and findings.

    Args:
        masks: Mask of each picture by its name.
        classes: The class list.
        codes: What the ids stand for.
        split: For messages.

    Raises:
        DataError: a picture has no mask, a mask cannot be used, or none shows a class though ids are foreign.
    """
    if missing := [name for name, mask in masks.items() if mask is None]:
        raise DataError(
            f"{missing[0]} has no mask to read tags from{_others(missing)}. Add it, or use tags.csv without "
            "--tags-from masks."
        )
    tags: dict[str, tuple[int, ...]] = {}

    def note(picture: Picture, counts: NDArray[np.int64] | str) -> None:
        if not isinstance(counts, str):
            labels = np.unique(codes.table[counts > 0]).tolist()
            tags[picture.name] = tuple(label - 1 for label in labels if label not in (BACKGROUND, IGNORE))

    chosen = [Picture(mask, name, (), mask) for name, mask in masks.items() if mask is not None]
    stand_in = PictureSet(tuple(classes), (), codes, Path(), split, "")
    tally = survey(stand_in, chosen, size_of=lambda picture: None, each=note)
    if tally.num_broken:
        raise DataError(f"{are(tally.num_broken, 'mask')} no source of tags: {tally.broken[0][1]}")
    if (reason := tally.nothing_left()) is not None:
        raise DataError(f"No tag can be read from masks. {reason}")
    return tags, tally.findings()


def _others(names: Sequence[Any]) -> str:
    return f", nor have {len(names) - 1} others" if len(names) > 1 else ""
