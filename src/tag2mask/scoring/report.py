"""What a score is: the report, IoU from a confusion matrix, and the protocol that makes two numbers comparable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from tag2mask.base.values import Value
from tag2mask.config import IGNORE, CRFParams
from tag2mask.data import Picture, PictureSet
from tag2mask.data.dataset import MaskCodes
from tag2mask.data.masks.mask_labels import class_label, expected_mask
from tag2mask.scoring.boundary import BoundaryScore

if TYPE_CHECKING:
    from tag2mask.scoring.label_quality import CamCurve, LabelQuality

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
            "miou": None if np.isnan(self.miou) else self.miou,
            "iou": self.iou,
            "confusion": self.confusion.tolist(),
            "num_images": self.num_images,
            "protocol": self.protocol,
            "protocol_line": self.protocol_line,
        }
        if self.boundary_f is not None:
            values["boundary_f"] = dataclasses.asdict(self.boundary_f)
        if self.cam:
            values["cam"] = [curve.as_dict() for curve in self.cam]
        if self.reliable is not None:
            values["reliable"] = dataclasses.asdict(self.reliable)
        return values


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


def confusion_matrix(predicted: Tensor, truth: Tensor, num_labels: int) -> NDArray[np.int64]:
    """Pixels int64 [K, K], rows truth; pixels that are IGNORE in the truth or in the prediction count nowhere."""
    scored = predicted != IGNORE
    matrix = multiclass_confusion_matrix(
        predicted[scored].long(), truth[scored].long(), num_classes=num_labels, ignore_index=IGNORE
    )
    return np.asarray(matrix.numpy(), dtype=np.int64)


def data_protocol(pictures: PictureSet, count: int, unknown: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """The part of a protocol that speaks of the data: `count` pictures were scored with the labels of `classes`,
    `unknown` classes were not.
    """
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


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """One line that says how a number came about; what the protocol does not hold is left out."""
    parts = [f"data {protocol['data']}" if "data" in protocol else "", _split(protocol), _source(protocol)]
    if "size" in protocol:
        parts.append(f"scored at {str(protocol['size']).split(':')[0]} size")
    if "image_size" in protocol:
        size = protocol["image_size"]
        parts.append("network input at the picture's size" if size is None else f"network input {size} px")
    if "scales" in protocol:
        scales = ", ".join(f"{scale:g}" for scale in protocol["scales"])
        parts.append(f"{'scale' if len(protocol['scales']) == 1 else 'scales'} {scales}")
    if "flip" in protocol:
        parts.append("with flip" if protocol["flip"] else "no flip")
    if "crf" in protocol:
        parts.append(crf_words(protocol["crf"]))
    if "label_prior" in protocol:
        parts.append(f"label prior: {protocol['label_prior']}")
    if "model_selection" in protocol:
        parts.append(f"weights: {protocol['model_selection']}")
    parts.append(_ignored(protocol))
    if protocol.get("labels_not_scored"):
        parts.append(f"not in the mean: {', '.join(protocol['labels_not_scored'])}")
    return "; ".join(filter(None, parts))


def _split(protocol: Mapping[str, Any]) -> str:
    if "split" not in protocol:
        return ""
    return f"split {protocol['split']}, {protocol.get('num_images', '?')} pictures"


def _source(protocol: Mapping[str, Any]) -> str:
    source = protocol.get("masks_from", "network")
    if source == "CAM":
        threshold = protocol.get("background_threshold")
        return "CAM" if threshold is None else f"CAM at background threshold {threshold:g}, the best of those tried"
    if source in ("network", "reliable labels"):
        return "" if source == "network" else source
    return f"masks of {source}, {100 * protocol.get('unlabeled_share', 0):.1f} % of the pixels unlabeled"


def _ignored(protocol: Mapping[str, Any]) -> str:
    if "ignored_ids" not in protocol:
        return ""
    foreign = protocol.get("classes_counted_as_255")
    return f"ignored: {protocol['ignored_ids']}" + (f", and the classes {', '.join(foreign)}" if foreign else "")


def crf_words(crf: Mapping[str, Any] | None) -> str:
    """The CRF of a protocol by name and numbers: widths/compatibility of its kernels and its steps."""
    if crf is None:
        return "no CRF"
    presets = {"inference": CRFParams.inference(), "aaai_inference": CRFParams.aaai_inference()}
    name = next((n for n, params in presets.items() if dataclasses.asdict(params) == dict(crf)), "custom")
    return (
        f"CRF {name} (Gaussian {crf['gaussian_sxy']:g}/{crf['gaussian_compat']:g}, bilateral "
        f"{crf['bilateral_sxy']:g}/{crf['bilateral_srgb']:g}/{crf['bilateral_compat']:g}, "
        f"{crf['iterations']} iterations)"
    )


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


def stage(progress: Progress | None, index: int, count: int) -> Progress | None:
    """The progress of pass `index` of `count` over the same pictures, so that one bar shows them all."""
    if progress is None:
        return None
    return lambda done, total: progress(index * total + done, count * total)


def score_table(columns: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Lines of a table with one row per label; a value that is None is shown as a dash."""
    labels = list(dict.fromkeys(label for values in columns.values() for label in values))
    width = max(map(len, labels), default=0)
    lines = ["  ".join([" " * width, *(name.rjust(8) for name in columns)])]
    for label in labels:
        cells = (values.get(label) for values in columns.values())
        shown = ("-" if cell is None else f"{cell:.4f}" for cell in cells)
        row = (text.rjust(max(8, len(name))) for text, name in zip(shown, columns, strict=True))
        lines.append("  ".join([label.ljust(width), *row]))
    return lines


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
