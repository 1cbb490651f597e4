"""An annotation tool's export into label PNG. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import make_folder_atomically, write_lines
from tag2mask.base.processes import in_threads
from tag2mask.base.spelling import class_name, twin_key
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.config.formats import DataOptions
from tag2mask.data import DataError, Picture, PictureError, list_splits
from tag2mask.data.exports import read_export
from tag2mask.data.exports.archive import unpacked
from tag2mask.data.exports.drawn import Annotated, Export, Painted
from tag2mask.data.exports.matching import PictureNames
from tag2mask.data.findings import MOST_NAMES, Finding, about, some, warned
from tag2mask.data.readers.left_out import Unlabeled, counted, is_skipped, unlabeled
from tag2mask.data.storage.labelmap import mask_word
from tag2mask.data.storage.pictures import shown_size
from tag2mask.data.storage.result_names import result_names
from tag2mask.jobs.converting.folders import open_splits
from tag2mask.outputs.render import save_mask

_UNLABELED = Unlabeled("annotation", "skip", usual=1.0)


@dataclass(frozen=True, kw_only=True)
class ConvertedExport:
    """What `convert` made of an annotation tool's export."""

    out: Path
    data_format: str
    """What the export was found to be: cvat, voc, png, coco, label-studio, labelme or yolo."""
    title: str
    """The same for people."""
    classes: tuple[str, ...]
    num_masks: int
    num_empty: int
    """Masks without any object."""
    num_images: int
    """Pictures of the data set."""
    ignored_share: float
    """Share of the masks' pixels that are 255, in 0..1."""
    findings: tuple[Finding, ...] = ()
    """What was left out, or may not be what it was taken for."""


def convert_export(
    source: Path,
    *,
    data: Path,
    out: Path,
    reading: DataOptions,
    classes: Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> ConvertedExport:
    """The part of `convert` for masks from annotation tools: a folder of label PNG, whole or not at all.

    `out` holds NAME.png per annotated picture of `data`, and classes.txt. Classes are matched by name. `unlabeled`,
    `others` and `mask_ids` of `reading` speak of the export, all else of `data`.
    """
    with unpacked(source) as folder:
        export = read_export(folder, classes=classes, mask_ids=reading.mask_ids)
        of_data = replace(reading, unlabeled="auto", mask_ids=())
        sets = open_splits(data, list_splits(data, options=of_data), of_data, need_tags=False)
        pictures = {picture.name: picture for each in sets.values() for picture in each.pictures}
        names = _Classes(export, next(iter(sets.values())).classes, data, reading)
        chosen, findings = _matched(export, pictures, data, reading)
        counts = _Counts()

        def told() -> tuple[Finding, ...]:
            found = (*findings, *names.findings(counts.unknown), *counts.findings(export.source))
            return (*export.findings, *found)

        def fill(place: Path) -> None:
            results = dict(zip(pictures, result_names(list(pictures), numbered=False), strict=True))

            def work(item: tuple[Annotated, Picture]) -> _Mask:
                return _mask(*item, names, place / f"{results[item[1].name]}.png")

            for done, mask in enumerate(in_threads(work, chosen), start=1):
                counts.add(mask)
                if progress is not None:
                    progress(done, len(chosen))
            _refuse_nothing(export, counts, told())
            write_lines(place / "classes.txt", names.written)

        make_folder_atomically(out, fill)
        return ConvertedExport(
            out=out,
            data_format=export.data_format,
            title=export.title,
            classes=names.written,
            num_masks=counts.masks,
            num_empty=counts.empty,
            num_images=len(pictures),
            ignored_share=float(counts.pixels[IGNORE] / counts.pixels.sum()),
            findings=tuple(replace(each, message=each.message.replace(str(folder), str(source))) for each in told()),
        )


class _Classes:
    """The classes of an export by those of the data set."""

    def __init__(self, export: Export, classes: Sequence[str], data: Path, reading: DataOptions) -> None:
        self.source, self.data, self.classes = export.source, data, tuple(classes)
        self.declared = export.classes
        self.other = BACKGROUND if reading.others == "background" else IGNORE
        self.twins: dict[str, str] = {}
        self.written = self.classes
        """Those that the masks know, in the order of the labels."""
        if self.declared is not None:
            known = {self._found(name) for name in self.declared}
            self.written = tuple(name for name in self.classes if name in known)
            if not self.written:
                raise DataError(self._foreign(self.declared))

    def label(self, name: str) -> int | None:
        """0..C or 255; None for a name that the data set does not know."""
        found = self._found(name)
        return mask_word(class_name(name)) if found is None else self.written.index(found) + 1

    def _found(self, name: str) -> str | None:
        """The data set's spelling of a class: the same, or the only one that people take for the same."""
        kept = class_name(name)
        if kept in self.classes:
            return kept
        twins = [each for each in self.classes if twin_key(each) == twin_key(kept)]
        if len(twins) != 1:
            return None
        self.twins[kept] = twins[0]
        return twins[0]

    def _foreign(self, names: Sequence[str]) -> str:
        return (
            f"No class in common: those of {self.source} are {', '.join(names)}, those of {self.data} "
            f"{', '.join(self.classes)}. Give the data set that was annotated, or rename the classes in the tool."
        )

    def findings(self, unknown: Counter[str]) -> tuple[Finding, ...]:
        """On classes that only one of the two has, and on spellings; `unknown` counts the pictures of each class."""
        missing = [name for name in self.classes if name not in self.written]
        twins = [f"{name} as {kept}" for name, kept in self.twins.items()]
        return (
            *about(
                [f"{name}: {some(count, 'picture')}" for name, count in unknown.most_common()],
                code="other_classes",
                message=f"{self.source}: {some(len(unknown), 'class')} that {self.data} does not have, with the "
                f"pictures of each: {counted(unknown)}. Their pixels are "
                f"{'background (--others)' if self.other == BACKGROUND else '255'}.",
                cure="Rename them in the tool if they are spelled wrong; --others background makes them background.",
            ),
            *about(
                missing,
                code="classes_not_drawn",
                message=f"{self.source}: {some(len(missing), 'class')} of {self.data} that it does not have: "
                f"{', '.join(missing)}. classes.txt of the masks leaves out what they do not know; --masks-for-some "
                "refuses masks that do not know a class.",
                cure="Add the label in the tool and look at the pictures again; if none of them shows one, add the "
                "name as the last line of classes.txt.",
            ),
            *about(
                twins,
                severity="note",
                code="spelled_otherwise",
                message=f"{self.source}: {some(len(twins), 'class')} spelled otherwise than in {self.data}, and taken "
                f"for the same: {', '.join(twins[:5])}.",
                cure="Nothing, if they are the same.",
            ),
        )


def _matched(
    export: Export, pictures: dict[str, Picture], data: Path, reading: DataOptions
) -> tuple[list[tuple[Annotated, Picture]], tuple[Finding, ...]]:
    """The annotated pictures that the data set has, and what is said of the others.

    Raises:
        DataError: it has none of them, or two of them are the same picture.
    """
    skipped = [each for each in export.pictures if not each.labeled]
    names = PictureNames(pictures, data)
    chosen: dict[str, Annotated] = {}
    strange: list[str] = []
    for each in export.pictures if not is_skipped(_UNLABELED, reading) else [e for e in export.pictures if e.labeled]:
        name = names.find(each.reference, each.where)
        if name is None:
            strange.append(each.reference)
        elif (other := chosen.setdefault(name, each)) is not each:
            raise DataError(f"{each.where} and {other.where} both mean the picture {name}. Keep one, and export again.")
    left_out = unlabeled(_UNLABELED, [e.reference for e in skipped], len(export.pictures), export.source, reading)
    if strange and not chosen:
        raise DataError(
            f"{export.source}: none of its {some(len(strange), 'annotated picture')} is in {data}, for example "
            f"{strange[0]}; {data} has {next(iter(pictures))} and {len(pictures) - 1} more. Give the data set that was "
            "annotated as --data."
        )
    findings = about(
        strange,
        code="without_picture",
        message=f"{export.source}: {some(len(strange), 'annotated picture')} that {data} does not have: not used.",
        cure="Nothing, if they are not meant to be; else add them to the data set, or give them the same name.",
    )
    return [(each, pictures[name]) for name, each in chosen.items()], (*left_out, *findings)


class _Mask(NamedTuple):
    """What became of a picture."""

    name: str
    painted: Painted | None
    """None where there can be no mask."""
    unknown: frozenset[str]
    """Classes that the data set does not have."""
    problem: str = ""
    """Why there is no mask."""


def _mask(annotated: Annotated, picture: Picture, names: _Classes, place: Path) -> _Mask:
    """Paint and write the mask of a picture."""
    unknown: set[str] = set()

    def label_of(name: str) -> int:
        label = names.label(name)
        if label is None:
            unknown.add(name)
        return names.other if label is None else label

    try:
        size, drawn = shown_size(picture.path), annotated.size()
        if drawn is not None and drawn != size:
            problem = f"was drawn on {drawn[0]} x {drawn[1]} (height x width), the picture has {size[0]} x {size[1]}"
            return _Mask(picture.name, None, frozenset(), f"{picture.name} {problem} after EXIF rotation")
        painted = annotated.paint(size, label_of)
    except (PictureError, OSError) as error:
        return _Mask(picture.name, None, frozenset(), f"{picture.name}: {error}")
    save_mask(place, painted.labels)
    return _Mask(picture.name, painted, frozenset(unknown))


@dataclass(eq=False)
class _Counts:
    """Counts over the masks; of the masks themselves nothing is kept."""

    masks: int = 0
    empty: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    unknown: Counter[str] = field(default_factory=Counter)
    boxes: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    overlap: int = 0
    foreign: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, mask: _Mask) -> None:
        """Take what became of the next picture."""
        if mask.painted is None:
            self.broken.append(mask.problem)
            return
        painted = mask.painted
        counts = label_counts(painted.labels)
        self.masks += 1
        self.empty += int(counts[BACKGROUND] == counts.sum())
        self.pixels += counts
        self.unknown.update(mask.unknown)
        self.overlap += painted.overlap
        self.boxes += [mask.name] if painted.boxes else []
        self.overlaps += [mask.name] if painted.overlap else []
        self.foreign += [f"{mask.name}: {', '.join(painted.foreign[:MOST_NAMES])}"] if painted.foreign else []

    def findings(self, source: Path) -> tuple[Finding, ...]:
        """On masks that could not be made, boxes, overlaps, ids and colors."""
        share = self.overlap / max(int(self.pixels.sum()), 1)
        return (
            *about(
                self.broken,
                code="broken_masks",
                message=f"{source}: {some(len(self.broken), 'mask')} left out. {''.join(self.broken[:1])}",
                cure="Annotate these pictures as they are in the data set.",
            ),
            *about(
                self.boxes,
                code="boxes",
                message=f"{source}: {some(len(self.boxes), 'picture')} with boxes. A box does not say which of its "
                "pixels show the object: those that no other shape covers are 255.",
                cure="Draw the objects themselves, with a brush or as polygons.",
            ),
            *about(
                self.overlaps,
                severity="note",
                code="overlaps",
                message=f"{source}: {some(len(self.overlaps), 'picture')} with objects of several classes on one pixel "
                f"({share:.1%} of all pixels): docs/formats.md says which one is on top.",
                cure="Nothing, if that is right; else correct the objects in the tool.",
            ),
            *about(
                self.foreign,
                code="foreign_ids",
                message=f"{source}: {some(len(self.foreign), 'mask')} with ids or colors that stand for nothing, "
                f"which are 255: {self.foreign[0] if self.foreign else ''}.",
                cure="Name them: ids in classes.txt beside the masks or with --mask-ids, colors in labelmap.txt.",
            ),
        )


def _refuse_nothing(export: Export, counts: _Counts, findings: Sequence[Finding]) -> None:
    """Refuse a folder without a mask, or one whose masks are all background and 255.

    Raises:
        DataError: with the findings, which say why.
    """
    told = warned(findings)
    if not counts.masks:
        left = [each.message for each in findings if each.code == "unlabeled"]
        raise DataError(f"No mask can be made of {export.source}.{told or ''.join(f' {each}' for each in left)}")
    if counts.pixels[IGNORE] and not counts.pixels[1:IGNORE].any():
        raise DataError(f"No mask of {export.source} would show a class.{told}")
