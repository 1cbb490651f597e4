"""What a score is: the report, IoU from a confusion matrix, and the protocol that makes two numbers comparable.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tag2mask.base.tables import text_table
from tag2mask.base.values import Value
from tag2mask.config import IGNORE
from tag2mask.data import Picture, PictureError, PictureSet
from tag2mask.data.dataset import MaskCodes
from tag2mask.data.masks.labels import class_label, expected_mask
from tag2mask.runs.protocol import protocol_line
from tag2mask.scoring.boundary import BoundaryCounter, BoundaryScore

if TYPE_CHECKING:
    from tag2mask.base.team import Team

_T = TypeVar("_T")
_STRIP = 1 << 20
"""Pixels that are counted at a time."""

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report(Value):
    """Scores of masks against the truth; docs/evaluation.md says what each means. Equal where all of them are."""

    miou: float
    """Mean of the IoU over the labels that occur, background included, in 0..1; NaN if none does."""
    iou: dict[str, float | None]
    """IoU per label in 0..1, background first; None where the label is neither in the truth nor in the masks."""
    confusion: NDArray[np.int64]
    """Pixels [K, K]: rows are the truth, columns the masks."""
    num_images: int
    protocol: dict[str, Any]
    """Everything needed to repeat or to compare the numbers."""
    boundary_f: BoundaryScore | None = None
    """Boundary F-scores, where asked for."""
    cam: tuple[CamCurve, ...] = ()
    """Sweeps of the CAM's background threshold, where asked for."""
    reliable: LabelQuality | None = None
    """Quality of the reliable labels, where asked for."""

    @property
    def protocol_line(self) -> str:
        """The protocol as one line for people."""
        return protocol_line(self.protocol)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values; what was not asked for is left out."""
        values = {
            "miou": _finite(self.miou),
            "iou": self.iou,
            "confusion": self.confusion.tolist(),
            "num_images": self.num_images,
            "protocol": self.protocol,
            "protocol_line": self.protocol_line,
        }
        asked = {
            "boundary_f": self.boundary_f and dataclasses.asdict(self.boundary_f),
            "cam": [curve.as_dict() for curve in self.cam],
            "reliable": self.reliable and dataclasses.asdict(self.reliable),
        }
        return values | {name: value for name, value in asked.items() if value}


TagSource: TypeAlias = Literal["true", "predicted"]
"""Where the classes of a CAM come from: the tags of the data, or those that the network gives more than `TAG_SCORE`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CamCurve(Value):
    """The mIoU of a CAM against its background threshold."""

    scales: tuple[float, ...]
    tags: TagSource
    thresholds: tuple[float, ...]
    """Ascending."""
    miou: tuple[float, ...]
    """mIoU at each threshold in 0..1, NaN if nothing could be scored."""
    best: Report
    """The whole report at the threshold with the highest mIoU, which `best.protocol` names."""

    @property
    def name(self) -> str:
        """Scales and tags in a few characters, for tables and legends."""
        return f"CAM {'+'.join(f'{scale:g}' for scale in self.scales)}, {self.tags} tags"

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        lists = {"scales": list(self.scales), "thresholds": list(self.thresholds), "miou": [*map(_finite, self.miou)]}
        return {"name": self.name} | vars(self) | lists | {"best": self.best.as_dict()}


@dataclass(frozen=True, kw_only=True)
class LabelQuality:
    """How many pixels have a label, and how many of those labels are right."""

    coverage: float
    """Share of the pixels with a true label that got one, in 0..1."""
    precision: float | None
    """Share of the labeled pixels whose label is right; None without any."""
    precision_per_label: dict[str, float | None]
    """The same for each label, background first; None for labels never given."""
    recall_per_label: dict[str, float | None]
    """Share of each label's true pixels that got this label; None for labels that never occur."""
    coverage_per_label: dict[str, float | None]
    """Share of each label's true pixels that got any label; None for labels that never occur."""
    recall: float | None
    """Share of the pixels with a true label that got this label; None without any."""
    object_recall: float | None
    """The same over the pixels of all objects (every label but background); None without any."""
    num_images: int
    protocol: dict[str, Any] = field(default_factory=dict)
    """Everything needed to repeat or to compare the numbers."""


def report_from_confusion(
    confusion: NDArray[np.int64],
    classes: Sequence[str],
    num_images: int,
    protocol: dict[str, Any],
    *,
    boundary_f: BoundaryScore | None = None,
) -> Report:
    """IoU = TP / (TP + FP + FN) per label over all pixels of all pictures, and its mean over the labels that occur."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - hits
    names = ("background", *classes)
    iou = {name: float(hit / u) if u > 0 else None for name, hit, u in zip(names, hits, union, strict=True)}
    scored = [value for value in iou.values() if value is not None]
    protocol = protocol | {"labels_not_scored": [name for name, value in iou.items() if value is None]}
    return Report(
        miou=float(np.mean(scored)) if scored else float("nan"),
        iou=iou,
        confusion=confusion,
        num_images=num_images,
        protocol=protocol,
        boundary_f=boundary_f,
    )


def confusion_matrix(predicted: ArrayLike, truth: ArrayLike, num_labels: int) -> NDArray[np.int64]:
    """Pixels int64 [K, K], rows truth; pixels that are IGNORE in the truth or in the prediction count nowhere.

    Args:
        predicted: Labels in {0..K-1, 255} of any shape: an array, or a tensor on the CPU.
        truth: As many labels.
        num_labels: K.

    Raises:
        ValueError: the sizes differ, or there is another label.
    """
    ours, theirs = (np.asarray(labels).ravel() for labels in (predicted, truth))
    if ours.size != theirs.size:
        raise ValueError(f"predicted and true labels differ in size: {ours.size} and {theirs.size} pixels")
    counts = np.zeros(256 * 256, dtype=np.int64)
    for start in range(0, ours.size, _STRIP):
        part = slice(start, start + _STRIP)
        counts += np.bincount(theirs[part].astype(np.int64) * 256 + ours[part], minlength=counts.size)
    pairs = counts.reshape(256, 256)
    if pairs[num_labels:IGNORE].any() or pairs[:, num_labels:IGNORE].any():
        raise ValueError(f"labels must be less than {num_labels}, or {IGNORE}")
    return pairs[:num_labels, :num_labels].copy()


class MaskCounter:
    """Counts label maps against the truth picture by picture; memory does not grow with the pictures."""

    def __init__(self, classes: Sequence[str], *, boundary: bool = False) -> None:
        self.classes, labels = tuple(classes), len(classes) + 1
        self.confusion = np.zeros((labels, labels), dtype=np.int64)
        self.edges = BoundaryCounter(labels) if boundary else None

    def update(self, predicted: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.int64]:
        """Count one picture: label maps [H, W] in {0..C, 255}. Returns its own confusion matrix [K, K]."""
        own = confusion_matrix(predicted, truth, len(self.confusion))
        self.confusion += own
        if self.edges is not None:
            self.edges.update(predicted, truth)
        return own

    def report(self, num_images: int, protocol: dict[str, Any]) -> Report:
        """The scores of everything that was counted."""
        edges = None
        if self.edges is not None:
            protocol = protocol | {"boundary_tolerance": self.edges.tolerance}
            edges = self.edges.score(self.classes)
        return report_from_confusion(self.confusion, self.classes, num_images, protocol, boundary_f=edges)


def data_protocol(
    pictures: PictureSet, count: int, classes: Sequence[str], unknown: Sequence[str] | None = None
) -> dict[str, Any]:
    """The part of a protocol that is about the data, of which `count` pictures were scored with labels of `classes`.

    `unknown` are the classes of the data that were not scored; None for those whose names are not among `classes`.
    """
    if unknown is None:
        unknown = [name for name in pictures.classes if name not in classes]
    ignored = set(np.flatnonzero(pictures.mask_codes.table == IGNORE).tolist())
    outside = "every id outside the class list" if ignored - {IGNORE} else ""
    return {
        "data": str(pictures.root),
        "split": pictures.split,
        "num_images": count,
        "size": "original: masks are scored at their own size",
        "labels": ["background", *classes],
        "mean_over": "labels that occur in truth or masks, background included; pixels of all pictures pooled",
        "ignored_ids": " and ".join(filter(None, ["255" if IGNORE in ignored else "", outside])) or "none",
        "classes_counted_as_255": list(unknown),
        "findings": [each.as_dict() for each in pictures.findings],
    }


def model_codes(classes: Sequence[str], pictures: PictureSet) -> MaskCodes:
    """From the numbers in the data's mask files to labels of `classes`, matched by name.

    Raises:
        ValueError: no class is common to both.
    """
    labels = [class_label(name, classes) for name in pictures.classes]
    if not any(labels):
        raise ValueError(
            f"The model knows {', '.join(classes)}, the data {pictures.root} has {', '.join(pictures.classes)}: "
            "no class in common."
        )
    own = np.full(256, IGNORE, dtype=np.uint8)
    own[: len(labels) + 1] = [0, *(label or IGNORE for label in labels)]
    return dataclasses.replace(pictures.mask_codes, table=own[pictures.mask_codes.table])


def with_masks(pictures: PictureSet, limit: int = 0) -> list[Picture]:
    """The pictures that have a mask, at most `limit` (0: all).

    Raises:
        ValueError: there is none.
    """
    chosen = [picture for picture in pictures.pictures if picture.mask is not None]
    if not chosen:
        raise ValueError(
            f"Split {pictures.split!r} of {pictures.root} has no masks, so there is nothing to score with. "
            f"{expected_mask(pictures)}"
        )
    return chosen[:limit] if limit else chosen


def tracked(items: Sequence[Any], progress: Progress | None) -> Iterator[Any]:
    """The items, with `progress(done, all)` after each."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, len(items))


def readable(
    pictures: Sequence[Picture],
    read: Callable[[Picture], _T],
    *,
    broken: dict[str, str] | None,
    progress: Progress | None,
    team: Team,
) -> Iterator[tuple[Picture, _T]]:
    """This process's share of the pictures, each with what `read` makes of it; all processes must take all of them.

    `broken` gets the message per picture that cannot be read, of all processes; such a picture is left out. None raises
    the error.
    """
    for picture in tracked(team.share(pictures), progress):
        try:
            found = read(picture)
        except PictureError as error:
            if broken is None:
                raise
            broken[picture.name] = str(error)
            continue
        yield picture, found
    for notes in team.gather(broken):
        if broken is not None and notes is not None:
            broken.update(notes)


def stage(progress: Progress | None, index: int, count: int) -> Progress | None:
    """The progress of pass `index` of `count` over the same pictures, so that one bar shows them all."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, count * total)


def score_table(columns: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Lines of a table with one row per label; a value that is None is shown as a dash."""
    labels = dict.fromkeys(label for values in columns.values() for label in values)
    rows = []
    for label in labels:
        cells = (values.get(label) for values in columns.values())
        rows.append([label, *("-" if cell is None else f"{cell:.4f}" for cell in cells)])
    return text_table([["", *columns], *rows], least=8)


def report_lines(report: Report) -> list[str]:
    """The report for a terminal: tables of everything that was asked for, each with its protocol."""
    columns: dict[str, Mapping[str, float | None]] = {"IoU": report.iou | {"mean": _finite(report.miou)}}
    if report.boundary_f is not None:
        columns["boundary F"] = report.boundary_f.per_label | {"mean": report.boundary_f.mean}
    head = f"mIoU {report.miou:.4f} on {report.num_images} pictures"
    lines = [head, "", *score_table(columns), "", report.protocol_line]
    if report.cam:
        best = {curve.name: curve.best.iou | {"mean": _finite(curve.best.miou)} for curve in report.cam}
        lines += ["", "IoU of the CAM at its best background threshold", *score_table(best)]
        lines += ["", *(f"{curve.name}: {curve.best.protocol_line}" for curve in report.cam)]
    if report.reliable is not None:
        quality = report.reliable
        shares = {
            "coverage": quality.coverage_per_label | {"all pixels": quality.coverage},
            "precision": quality.precision_per_label | {"all pixels": quality.precision},
            "recall": quality.recall_per_label | {"all pixels": quality.recall, "objects": quality.object_recall},
        }
        lines += ["", "Reliable labels", *score_table(shares), "", protocol_line(quality.protocol)]
    return lines


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value


def score_lines(scores: Mapping[str, Report]) -> list[str]:
    """A table of IoU per label, one column per report, with the mean below."""
    return score_table({name: report.iou | {"mIoU": report.miou} for name, report in scores.items()})
