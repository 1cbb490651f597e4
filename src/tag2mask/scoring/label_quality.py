"""How good the labels on the way are: thresholded CAMs and reliable labels against true masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.config import IGNORE
from tag2mask.data import PictureSet
from tag2mask.data.storage.pictures import read_mask, read_picture
from tag2mask.inference.first_step import TAG_SCORE, picture_taught, predicted_tags, tag_vector
from tag2mask.inference.segmenter import Segmenter
from tag2mask.scoring.report import (
    CamCurve,
    LabelQuality,
    Progress,
    Report,
    TagSource,
    confusion_matrix,
    data_protocol,
    model_codes,
    report_from_confusion,
    tracked,
    with_masks,
)

THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(1, 41))
"""Background thresholds of the sweep, 0.02 to 0.8."""


class CamSweep:
    """Scores of CAMs under many background thresholds in one pass.

    At threshold t a pixel is background if no CAM exceeds t, else the class of the largest CAM.
    """

    def __init__(self, num_labels: int, thresholds: Sequence[float] = THRESHOLDS) -> None:
        """Start with nothing counted.

        Raises:
            ValueError: no threshold, or one outside [0, 1].
        """
        if not thresholds or min(thresholds) < 0 or max(thresholds) > 1:
            raise ValueError(f"CAM thresholds must be numbers in [0, 1], at least one, got {tuple(thresholds)}")
        self.thresholds = torch.tensor(sorted(set(thresholds)))
        # counts[truth, class of the largest CAM, number of thresholds below that CAM]
        self.counts = torch.zeros(num_labels, num_labels - 1, len(self.thresholds) + 1, dtype=torch.int64)

    def update(self, cams: Tensor, truth: Tensor) -> None:
        """Count the pixels of one picture: cams float [C, H, W], truth [H, W] in {0..C, 255}."""
        value, winner = cams.max(0)
        passed = torch.searchsorted(self.thresholds, value.contiguous())  # thresholds strictly below the CAM
        scored = truth != IGNORE
        _, classes, bins = self.counts.shape
        index = (truth[scored].long() * classes + winner[scored]) * bins + passed[scored]
        self.counts += torch.bincount(index, minlength=self.counts.numel()).reshape(self.counts.shape)

    def confusion(self, index: int) -> NDArray[np.int64]:
        """Pixels [K, K] at thresholds[index], rows truth."""
        objects = self.counts[:, :, index + 1 :].sum(-1)
        background = self.counts[:, :, : index + 1].sum((-2, -1))
        return np.asarray(torch.cat([background[:, None], objects], dim=1).numpy())

    def reports(self, classes: Sequence[str], num_images: int, protocol: dict[str, Any]) -> list[Report]:
        """One report per threshold, ascending, which its protocol names."""
        return [
            report_from_confusion(
                self.confusion(i), classes, num_images, protocol | {"background_threshold": round(float(t), 4)}
            )
            for i, t in enumerate(self.thresholds)
        ]


class LabelCounter:
    """Collects the quality of partial labels picture by picture."""

    def __init__(self, num_labels: int) -> None:
        self.confusion = np.zeros((num_labels, num_labels), dtype=np.int64)
        self.true_pixels = np.zeros(num_labels, dtype=np.int64)
        self.num_images = 0

    def update(self, labels: Tensor, truth: Tensor) -> None:
        """Count one picture: labels and truth [H, W] in {0..C, 255}."""
        self.confusion += confusion_matrix(labels, truth, len(self.confusion))
        self.true_pixels += np.bincount(np.asarray(truth).ravel(), minlength=256)[: len(self.true_pixels)]
        self.num_images += 1

    def quality(self, classes: Sequence[str], protocol: dict[str, Any] | None = None) -> LabelQuality:
        """What was collected."""
        hits, given, true = np.diag(self.confusion), self.confusion.sum(0), self.true_pixels
        names = ("background", *classes)

        def shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> dict[str, float | None]:
            return {name: _share(p, w) for name, p, w in zip(names, part, whole, strict=True)}

        return LabelQuality(
            coverage=float(given.sum() / max(true.sum(), 1)),
            precision=_share(hits.sum(), given.sum()),
            precision_per_label=shares(hits, given),
            recall_per_label=shares(hits, true),
            coverage_per_label=shares(self.confusion.sum(1), true),
            recall=_share(hits.sum(), true.sum()),
            object_recall=_share(hits[1:].sum(), true[1:].sum()),
            num_images=self.num_images,
            protocol=protocol or {},
        )


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole > 0 else None


def cam_curves(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    scales: Sequence[Sequence[float]] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    tags: Sequence[TagSource] = ("true",),
    limit: int = 0,
    progress: Progress | None = None,
) -> list[CamCurve]:
    """The mIoU of the CAM, at the size of the masks, at every background threshold; one pass over the pictures.

    Args:
        segmenter: A network of the first step.
        pictures: Pictures with masks, and with tags for `tags` "true".
        scales: For each curve the scales whose maps are averaged; None is one curve at the scales of the training.
        thresholds: Background thresholds in [0, 1].
        tags: "true": the classes of a picture are its tags, the usual protocol. "predicted": those that the network
            gives a score above 0.5; a picture without any is all background.
        limit: Score only the first so many pictures; 0 for all.
        progress: Called with (done, all).

    Returns:
        One curve per entry of `tags` and of `scales`, in this order.

    Raises:
        ValueError: a network of the second step, no mask, a threshold outside [0, 1], or scales that are not positive.
    """
    _, method = segmenter.network.first_step()
    chosen_scales = [tuple(each) for each in scales or (method.cam_scales,)]
    unknown = [source for source in tags if source not in get_args(TagSource)]
    if unknown or not tags:
        raise ValueError(f"cam tags must be true or predicted, got {', '.join(map(repr, unknown)) or 'none'}")
    chosen, codes = with_masks(pictures, limit), model_codes(segmenter.classes, pictures)
    labels = len(segmenter.classes) + 1
    sweeps = {(source, each): CamSweep(labels, thresholds) for source in tags for each in chosen_scales}
    for picture in tracked(chosen, progress):
        rgb = read_picture(picture.path)
        truth = torch.from_numpy(read_mask(picture.mask, codes, rgb.shape[:2]))
        names = [pictures.classes[i] for i in picture.tags]
        present = {
            source: tag_vector(segmenter, names) if source == "true" else predicted_tags(segmenter, rgb)
            for source in dict.fromkeys(tags)
        }
        for (source, each), sweep in sweeps.items():
            cams, _ = segmenter.network.cams(rgb, present[source], each)
            cams = F.interpolate(cams.cpu(), truth.shape, mode="bilinear", align_corners=False)
            sweep.update(cams[0], truth)
    curves = []
    for (source, each), sweep in sweeps.items():
        protocol = _first_step_protocol(segmenter, pictures, len(chosen), each) | {
            "masks_from": "CAM",
            "label_prior": "true tags" if source == "true" else f"predicted tags (score above {TAG_SCORE})",
        }
        reports = sweep.reports(segmenter.classes, len(chosen), protocol)
        curves.append(
            CamCurve(
                scales=each,
                tags=source,
                thresholds=tuple(report.protocol["background_threshold"] for report in reports),
                miou=tuple(report.miou for report in reports),
                best=max(reports, key=lambda report: report.miou),
            )
        )
    return curves


def score_cams(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    scales: Sequence[float] | None = None,
    limit: int = 0,
    progress: Progress | None = None,
) -> Report:
    """The mIoU of the CAM with the true tags given and the background threshold that suits it best, at mask size."""
    several = None if scales is None else [scales]
    return cam_curves(segmenter, pictures, scales=several, limit=limit, progress=progress)[0].best


def score_reliable_labels(
    segmenter: Segmenter, pictures: PictureSet, *, limit: int = 0, progress: Progress | None = None
) -> LabelQuality:
    """Coverage, precision and recall of the reliable labels of whole pictures at the network's size.

    The labels are those of the end of the training (`picture_taught`); the true masks are resized to them (nearest).

    Raises:
        ValueError: a network of the second step, or no mask.
    """
    _, method = segmenter.network.first_step()
    chosen, codes = with_masks(pictures, limit), model_codes(segmenter.classes, pictures)
    counter, rule, share = LabelCounter(len(segmenter.classes) + 1), method.reliable, 0.0
    for picture in tracked(chosen, progress):
        tags = tag_vector(segmenter, [pictures.classes[i] for i in picture.tags])
        lesson = picture_taught(segmenter, read_picture(picture.path), tags)
        rule, share = lesson.rule, lesson.teacher_share
        truth = torch.from_numpy(read_mask(picture.mask, codes))
        truth = F.interpolate(truth[None, None].float(), lesson.labels.shape[1:], mode="nearest")[0, 0].long()
        counter.update(lesson.labels[0].cpu(), truth)
    protocol = _first_step_protocol(segmenter, pictures, len(chosen), method.cam_scales) | {
        "masks_from": "reliable labels",
        "size": "the network's: true masks are resized to it (nearest)",
        "label_prior": "true tags",
        "rules": dataclasses.asdict(rule),
        "teacher_share": share,
    }
    return counter.quality(segmenter.classes, protocol)


def _first_step_protocol(
    segmenter: Segmenter, pictures: PictureSet, count: int, scales: Sequence[float]
) -> dict[str, Any]:
    return data_protocol(pictures, count, segmenter.classes) | {
        "image_size": segmenter.config.image_size,
        "scales": list(scales),
        "flip": False,
        "model_selection": segmenter.selection,
    }
