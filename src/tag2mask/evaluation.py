"""Scores: mIoU of masks, mAP of tags, quality of CAMs and of reliable labels. Memory does not grow with the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix, multilabel_average_precision

from tag2mask.config import IGNORE
from tag2mask.data import Picture, PictureError, PictureSet, open_data, read_mask, read_picture
from tag2mask.score_maps import refine
from tag2mask.segmenter import CRFChoice, Segmenter, resolve_crf

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Scores of masks against the truth."""

    miou: float
    """Mean of the IoU over the labels that occur, background included, in 0..1; NaN if none does."""
    iou: dict[str, float | None]
    """IoU per label in 0..1, background first; None where the label is neither in the truth nor in the masks."""
    confusion: NDArray[np.int64]
    """Pixels [K, K]: rows are the truth, columns the masks."""
    num_images: int
    protocol: dict[str, Any]
    """Everything needed to repeat or to compare the numbers."""

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "miou": None if np.isnan(self.miou) else self.miou,
            "iou": self.iou,
            "confusion": self.confusion.tolist(),
            "num_images": self.num_images,
            "protocol": self.protocol,
        }


def report_from_confusion(
    confusion: NDArray[np.int64], classes: Sequence[str], num_images: int, protocol: dict[str, Any]
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
    )


def confusion_matrix(predicted: Tensor, truth: Tensor, num_labels: int) -> NDArray[np.int64]:
    """Pixels int64 [K, K], rows truth; pixels that are IGNORE in the truth or in the prediction count nowhere."""
    scored = predicted != IGNORE
    matrix = multiclass_confusion_matrix(
        predicted[scored].long(), truth[scored].long(), num_classes=num_labels, ignore_index=IGNORE
    )
    return np.asarray(matrix.numpy(), dtype=np.int64)


def evaluate(
    run: str | Path | Segmenter | None = None,
    *,
    masks: str | Path | None = None,
    data: str | Path,
    split: str = "val",
    crf: CRFChoice = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    data_format: str = "auto",
    others: str = "ignore",
    limit: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Report:
    """Score a run, or a folder of masks, against the masks of a data set at their own size.

    Args:
        run: Run folder, .safetensors file or `Segmenter`; or None with `masks`.
        masks: Folder of indexed PNG files NAME.png with labels 0..C of the data's class list and 255 for "none".
        data: Data set with masks. Its classes are matched to the run's by name; classes that the run does not know
            count as 255 and are named in the protocol.
        split: Name of a split, or a file with one picture per line.
        crf: Refine the probabilities (see `Segmenter.predict`).
        scales: Factors on the network's picture size.
        flip: Average with the mirrored picture.
        data_format: Format of `data` when looking is not enough.
        others: Mask ids outside the class list become 255 (`ignore`) or 0 (`background`).
        limit: Score only the first so many pictures; 0 for all.
        device: Where the network runs.
        progress: Called with (done, all).

    Raises:
        ValueError: neither or both of `run` and `masks`, a data set without masks, or masks that do not fit.
    """
    if (run is None) == (masks is None):
        raise ValueError("evaluate needs either a run or --masks DIR, not both.")
    pictures = open_data(data, split=split, data_format=data_format, others=others, need_tags=False)
    if run is not None:
        segmenter = run if isinstance(run, Segmenter) else Segmenter.load(run, device=device)
        return score_pictures(segmenter, pictures, crf=crf, scales=scales, flip=flip, limit=limit, progress=progress)
    if crf or tuple(scales) != (1.0,) or flip:
        raise ValueError("--crf, --scales and --flip belong to a network; with --masks there is none.")
    return score_masks(Path(str(masks)), pictures, limit=limit, progress=progress)


def score_pictures(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    crf: CRFChoice = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    true_tags: bool = False,
    limit: int = 0,
    broken: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Score a network on pictures with masks, at the size of the masks; see `evaluate`.

    Args:
        segmenter: The network.
        pictures: Pictures with masks.
        crf: Refine the probabilities.
        scales: Factors on the network's picture size.
        flip: Average with the mirrored picture.
        true_tags: Let the network know which classes are in the picture (an easier task; said in the protocol).
        limit: Score only the first so many pictures; 0 for all.
        broken: Where to note the message per picture that cannot be read, which is then left out; None raises it.
        progress: Called with (done, all).

    Raises:
        ValueError: no picture has a mask, or no class is common to network and data.
    """
    params, codes = resolve_crf(crf), model_codes(segmenter.classes, pictures)
    unknown = [name for name in pictures.classes if name not in segmenter.classes]
    chosen = with_masks(pictures, limit)
    labels = len(segmenter.classes) + 1
    confusion = np.zeros((labels, labels), dtype=np.int64)
    for picture in tracked(chosen, progress):
        try:
            rgb = read_picture(picture.path)
            truth = torch.from_numpy(read_mask(picture.mask, codes, rgb.shape[:2]))
        except PictureError as error:
            _note(broken, picture, error)
            continue
        names = [pictures.classes[i] for i in picture.tags]
        allowed = segmenter.allowed_labels([n for n in names if n in segmenter.classes]) if true_tags else None
        maps, _ = segmenter.score_maps([rgb], scales=scales, flip=flip, allowed=[allowed])[0]
        with segmenter.inference():
            predicted = maps.labels() if params is None else refine(rgb, maps, params).argmax(0)
        confusion += confusion_matrix(predicted, truth, labels)
    count = len(chosen) - len(broken or ())
    protocol = _protocol(pictures, count, unknown) | {
        "masks_from": "network",
        "image_size": segmenter.config.image_size,
        "network_input": "longer side = image_size x scale (None: the picture's own), sides rounded to the stride",
        "scales": list(scales),
        "flip": flip,
        "crf": None if params is None else dataclasses.asdict(params),
        "label_prior": "true tags" if true_tags else "none",
        "model_selection": segmenter.selection,
    }
    return report_from_confusion(confusion, segmenter.classes, count, protocol)


def _note(broken: dict[str, str] | None, picture: Picture, error: PictureError) -> None:
    if broken is None:
        raise error
    broken[picture.name] = str(error)


def score_masks(folder: Path, pictures: PictureSet, *, limit: int = 0, progress: Progress | None = None) -> Report:
    """Score the files `folder`/NAME.png against the masks of `pictures`.

    Pixels that are 255 in a file count nowhere; their share is `unlabeled_share` in the protocol.

    Raises:
        ValueError: a file is missing, is not indexed or grey, has another size, or holds a number that is no label.
    """
    chosen = with_masks(pictures, limit)
    labels = len(pictures.classes) + 1
    codes = np.full(256, IGNORE - 1, dtype=np.uint8)  # no label: lets a foreign number be seen
    codes[:labels], codes[IGNORE] = np.arange(labels), IGNORE
    confusion, unlabeled, total = np.zeros((labels, labels), dtype=np.int64), 0, 0
    for picture in tracked(chosen, progress):
        path = (folder / picture.name).with_suffix(".png")
        if not path.is_file():
            hint = f" Did you mean {folder / 'masks'}?" if (folder / "masks").is_dir() else ""
            raise ValueError(f"There is no mask {path} for picture {picture.name}.{hint}")
        truth = torch.from_numpy(read_mask(picture.mask, pictures.mask_codes))
        predicted = torch.from_numpy(read_mask(path, codes, (truth.shape[0], truth.shape[1])))
        if (predicted == IGNORE - 1).any():
            raise ValueError(f"{path} holds numbers that are no label; allowed are 0..{labels - 1} and {IGNORE}.")
        confusion += confusion_matrix(predicted, truth, labels)
        unlabeled += int(((predicted == IGNORE) & (truth != IGNORE)).sum())
        total += int((truth != IGNORE).sum())
    protocol = _protocol(pictures, len(chosen), []) | {
        "masks_from": str(folder),
        "unlabeled_share": unlabeled / max(total, 1),
        "unlabeled_pixels": "255 in a mask counts nowhere",
    }
    return report_from_confusion(confusion, pictures.classes, len(chosen), protocol)


def _protocol(pictures: PictureSet, count: int, unknown: Sequence[str]) -> dict[str, Any]:
    ignored = [i for i in range(256) if pictures.mask_codes[i] == IGNORE]
    return {
        "data": str(pictures.root),
        "split": pictures.split,
        "num_images": count,
        "size": "original: masks are scored at their own size",
        "labels": ["background", *pictures.classes],
        "mean_over": "labels that occur in truth or masks, background included; pixels of all pictures pooled",
        "ignored_ids": "255 and every id outside the class list" if len(ignored) > 1 else "255",
        "classes_counted_as_255": list(unknown),
    }


def model_codes(classes: Sequence[str], pictures: PictureSet) -> NDArray[np.uint8]:
    """Table uint8 [256] from the numbers in the data's mask files to labels of `classes`, matched by name.

    Raises:
        ValueError: no class is common to both.
    """
    if not set(classes) & set(pictures.classes):
        raise ValueError(
            f"The model knows {', '.join(classes)}, the data {pictures.root} has {', '.join(pictures.classes)}: "
            "no class in common."
        )
    own = np.full(256, IGNORE, dtype=np.uint8)
    own[0] = 0
    for i, name in enumerate(pictures.classes):
        own[i + 1] = classes.index(name) + 1 if name in classes else IGNORE
    return own[pictures.mask_codes]


def with_masks(pictures: PictureSet, limit: int = 0) -> list[Any]:
    """The pictures that have a mask, at most `limit` (0: all).

    Raises:
        ValueError: there is none.
    """
    chosen = [picture for picture in pictures.pictures if picture.mask is not None]
    if not chosen:
        raise ValueError(
            f"Split {pictures.split!r} of {pictures.root} has no masks, so there is nothing to score with."
        )
    return chosen[:limit] if limit else chosen


def tracked(items: Sequence[Any], progress: Progress | None) -> Iterator[Any]:
    """The items, with `progress(done, all)` after each."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(done, len(items))


@dataclass(frozen=True, kw_only=True)
class TagReport:
    """How well the tags are predicted."""

    map: float
    """Mean of the average precision over the classes that occur, in 0..1; NaN if none does."""
    ap: dict[str, float | None]
    """Average precision per class; None where no picture has the class."""
    num_images: int


def tag_report(scores: Tensor, tags: Tensor, classes: Sequence[str]) -> TagReport:
    """Average precision of tag scores float [N, C] against tags bool [N, C]."""
    ap: dict[str, float | None] = dict.fromkeys(classes)
    found = tags.bool().any(0).nonzero().flatten().tolist()
    if found:
        values = multilabel_average_precision(scores[:, found], tags[:, found].long(), len(found), average=None)
        ap |= {classes[i]: float(value) for i, value in zip(found, values.reshape(-1), strict=True)}
    scored = [value for value in ap.values() if value is not None]
    return TagReport(map=float(np.mean(scored)) if scored else float("nan"), ap=ap, num_images=len(scores))


def score_tags(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    limit: int = 0,
    broken: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> TagReport:
    """The mAP of the tag classifier on tagged pictures, which needs no masks; `broken` as in `score_pictures`."""
    scores, tags = [torch.zeros(0, len(segmenter.classes))], []
    for picture in tracked(pictures.pictures[: limit or None], progress):
        try:
            rgb = read_picture(picture.path)
        except PictureError as error:
            _note(broken, picture, error)
            continue
        scores.append(segmenter.score_maps([rgb])[0][1][None])
        names = {pictures.classes[i] for i in picture.tags}
        tags.append([name in names for name in segmenter.classes])
    truth = torch.tensor(tags, dtype=torch.bool).reshape(-1, len(segmenter.classes))
    return tag_report(torch.cat(scores), truth, segmenter.classes)
