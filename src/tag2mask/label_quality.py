"""How good the labels on the way are: thresholded CAMs and reliable labels against true masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.cam import multi_scale_cam
from tag2mask.config import IGNORE
from tag2mask.data import PictureSet
from tag2mask.data.pictures import read_mask, read_picture
from tag2mask.evaluation import (
    Progress,
    Report,
    confusion_matrix,
    model_codes,
    report_from_confusion,
    tracked,
    with_masks,
)
from tag2mask.reliable import reliable_labels
from tag2mask.segmenter import Segmenter

THRESHOLDS = tuple(round(0.02 * i, 2) for i in range(1, 41))
"""Background thresholds of the sweep, 0.02 to 0.8."""


class CamSweep:
    """Scores of CAMs under many background thresholds in one pass.

    At threshold t a pixel is background if no CAM exceeds t, else the class of the largest CAM.
    """

    def __init__(self, num_labels: int, thresholds: Sequence[float] = THRESHOLDS) -> None:
        self.thresholds = torch.tensor(sorted(thresholds))
        # counts[truth, class of the largest CAM, number of thresholds below that CAM]
        self.counts = torch.zeros(num_labels, num_labels - 1, len(thresholds) + 1, dtype=torch.int64)

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

    def best(self, classes: Sequence[str], num_images: int, protocol: dict[str, Any]) -> Report:
        """The report at the threshold with the highest mIoU, which its protocol names."""
        reports = [
            report_from_confusion(
                self.confusion(i), classes, num_images, protocol | {"background_threshold": round(float(t), 4)}
            )
            for i, t in enumerate(self.thresholds)
        ]
        return max(reports, key=lambda report: report.miou)


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
    num_images: int


class LabelCounter:
    """Collects the quality of partial labels picture by picture."""

    def __init__(self, num_labels: int) -> None:
        self.confusion = np.zeros((num_labels, num_labels), dtype=np.int64)
        self.true_pixels = np.zeros(num_labels, dtype=np.int64)
        self.num_images = 0

    def update(self, labels: Tensor, truth: Tensor) -> None:
        """Count one picture: labels and truth [H, W] in {0..C, 255}."""
        self.confusion += confusion_matrix(labels, truth, len(self.confusion))
        known = truth[truth != IGNORE].long()
        self.true_pixels += torch.bincount(known, minlength=len(self.true_pixels)).numpy()
        self.num_images += 1

    def quality(self, classes: Sequence[str]) -> LabelQuality:
        """What was collected."""
        hits, given = np.diag(self.confusion), self.confusion.sum(0)
        names = ("background", *classes)
        return LabelQuality(
            coverage=float(given.sum() / max(self.true_pixels.sum(), 1)),
            precision=_share(hits.sum(), given.sum()),
            precision_per_label={n: _share(h, g) for n, h, g in zip(names, hits, given, strict=True)},
            recall_per_label={n: _share(h, t) for n, h, t in zip(names, hits, self.true_pixels, strict=True)},
            num_images=self.num_images,
        )


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole > 0 else None


def picture_cams(
    segmenter: Segmenter, rgb: NDArray[np.uint8], tags: Tensor, scales: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """CAMs float [1, C, h, w] of one picture and that picture uint8 [1, 3, h, w], both at the network's size.

    `tags` is bool [C]; `scales` defaults to those of the run's training. On the network's device.
    """
    small = segmenter.resized(rgb)[None]
    method = segmenter.config.method
    with segmenter.inference():
        images = segmenter.model.normalize(small)
        cams = multi_scale_cam(
            segmenter.model, images, tags[None].to(small.device), scales or method.cam_scales, flip=method.cam_flip
        )
    return cams, small


def tag_vector(segmenter: Segmenter, names: Sequence[str]) -> Tensor:
    """The tags, bool [C], of the named classes; names that the network does not know are left out."""
    return torch.tensor([name in names for name in segmenter.classes])


def score_cams(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    scales: Sequence[float] | None = None,
    limit: int = 0,
    progress: Progress | None = None,
) -> Report:
    """The mIoU of the CAM with the true tags given and the background threshold that suits it best, at mask size."""
    chosen, codes = with_masks(pictures, limit), model_codes(segmenter.classes, pictures)
    sweep = CamSweep(len(segmenter.classes) + 1)
    for picture in tracked(chosen, progress):
        tags = tag_vector(segmenter, [pictures.classes[i] for i in picture.tags])
        cams, _ = picture_cams(segmenter, read_picture(picture.path), tags, scales)
        truth = torch.from_numpy(read_mask(picture.mask, codes))
        cams = F.interpolate(cams.cpu(), truth.shape, mode="bilinear", align_corners=False)
        sweep.update(cams[0], truth)
    protocol = {
        "data": str(pictures.root),
        "split": pictures.split,
        "masks_from": "CAM",
        "label_prior": "true tags",
        "scales": list(scales or segmenter.config.method.cam_scales),
        "image_size": segmenter.config.image_size,
        "size": "original: masks are scored at their own size",
        "model_selection": segmenter.selection,
    }
    return sweep.best(segmenter.classes, len(chosen), protocol)


def score_reliable_labels(
    segmenter: Segmenter, pictures: PictureSet, *, limit: int = 0, progress: Progress | None = None
) -> LabelQuality:
    """Coverage and precision of the reliable labels of whole pictures at the network's size."""
    chosen, codes = with_masks(pictures, limit), model_codes(segmenter.classes, pictures)
    counter = LabelCounter(len(segmenter.classes) + 1)
    for picture in tracked(chosen, progress):
        tags = tag_vector(segmenter, [pictures.classes[i] for i in picture.tags])
        cams, small = picture_cams(segmenter, read_picture(picture.path), tags)
        labels = reliable_labels(small, cams, tags[None].to(cams.device), segmenter.config.method.reliable)[0].cpu()
        truth = torch.from_numpy(read_mask(picture.mask, codes))
        truth = F.interpolate(truth[None, None].float(), labels.shape, mode="nearest")[0, 0].long()
        counter.update(labels, truth)
    return counter.quality(segmenter.classes)
