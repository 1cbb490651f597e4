"""Scores of masks and tags, and what `evaluate` reports. Memory does not grow with the data."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from tag2mask.base.arrays import LARGE
from tag2mask.base.charts import Series, save_plot
from tag2mask.base.files import check_folder, write_text
from tag2mask.base.team import ALONE, Team
from tag2mask.config import IGNORE
from tag2mask.config.formats import DataOptions
from tag2mask.config.inference import CRFChoice, resolve_crf
from tag2mask.data import Picture, PictureError, PictureSet, open_data, read_mask, read_picture
from tag2mask.data.dataset import MaskCodes, label_codes
from tag2mask.data.findings import Finding, about, log_findings, some
from tag2mask.data.masks.labels import (
    MaskFiles,
    class_label,
    codes_by_name,
    mask_list,
    mask_name,
    refuse_foreign_list,
)
from tag2mask.data.masks.survey import survey, with_measuring_masks
from tag2mask.data.storage.pictures import file_size
from tag2mask.inference.score_maps import probability_parts
from tag2mask.inference.segmenter import Segmenter, need_network
from tag2mask.inference.tiles import TILE, labels_of
from tag2mask.scoring.boundary import BoundaryCounter
from tag2mask.scoring.label_quality import THRESHOLDS, cam_curves, score_reliable_labels
from tag2mask.scoring.report import (
    Progress,
    Report,
    TagSource,
    confusion_matrix,
    data_protocol,
    model_codes,
    report_from_confusion,
    stage,
    tracked,
    with_masks,
)

__all__ = [
    "Progress",
    "Report",
    "TagReport",
    "confusion_matrix",
    "evaluate",
    "model_codes",
    "report_from_confusion",
    "score_masks",
    "score_pictures",
    "score_tags",
    "tag_report",
    "tracked",
    "with_masks",
]

log = logging.getLogger("tag2mask")

_MASKS_FIRST = "write its masks with tag2mask predict MODEL PICTURES --out DIR, and score them with --masks DIR/masks"


def evaluate(
    run: str | Path | Segmenter | None = None,
    *,
    masks: str | Path | None = None,
    data: str | Path,
    split: str = "val",
    crf: CRFChoice = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    boundary: bool = False,
    cam: bool = False,
    cam_scales: Sequence[Sequence[float]] | None = None,
    cam_thresholds: Sequence[float] = THRESHOLDS,
    cam_tags: Sequence[TagSource] = ("true",),
    reliable: bool = False,
    limit: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    data_options: DataOptions | None = None,
    **fields: Any,
) -> Report:
    """Score a run, or a folder of masks, against the masks of a data set at their own size.

    Args:
        run: Run folder, .safetensors file or `Segmenter`; or None with `masks`.
        masks: Folder of indexed PNG files NAME.png with labels of the class list in the folder or beside it
            (classes.txt), else of the data's, and 255 for "none".
        data: Data set with masks. Its classes are matched to the run's by name; classes that the run does not know
            count as 255 and are named in the protocol.
        split: Name of a split, or a file with one picture per line.
        crf: Refine the probabilities (see `Segmenter.predict`).
        scales: Factors on the network's picture size.
        flip: Average with the mirrored picture.
        boundary: Also score the boundaries: `Report.boundary_f` (see `tag2mask.scoring.boundary`).
        cam: Also sweep the background threshold of the CAM: `Report.cam` (see `cam_curves`).
        cam_scales: Scales of each curve; None is one curve at the scales of the run's training.
        cam_thresholds: Background thresholds in [0, 1].
        cam_tags: Where the CAM's classes come from: "true" tags, tags "predicted" by the network, or both.
        reliable: Also score the reliable labels of these pictures: `Report.reliable`.
        limit: Score only the first so many pictures; 0 for all.
        out: Folder for evaluation.json and, with `cam`, the curves as cam.svg and cam.png.
        device: Where the network runs.
        progress: Called with (done, all).
        data_options: How `data` is read where looking is not enough.
        fields: Fields of `data_options` by name, as `data_format`.

    Raises:
        ValueError: neither or both of `run` and `masks`, a data set without masks, masks that do not fit, or a CAM or
            reliable labels of a network that has none.
    """
    if (run is None) == (masks is None):
        raise ValueError("evaluate needs either a run or --masks DIR, not both.")
    if limit < 0:
        raise ValueError(f"--limit must be 0 (all pictures) or more, got {limit}.")
    need_network(run, "evaluate", _MASKS_FIRST)
    if out is not None:
        check_folder(Path(out))
    need_tags = reliable or (cam and "true" in cam_tags)
    reading = DataOptions.merged(data_options, fields)
    pictures = open_data(data, split=split, options=reading, need_tags=need_tags)
    dead: tuple[Finding, ...] = ()
    if run is None:
        if crf or tuple(scales) != (1.0,) or flip or cam or reliable:
            raise ValueError(
                "--crf, --scales, --flip, --cam and --reliable belong to a network; with --masks there is none."
            )
        report = score_masks(Path(str(masks)), pictures, boundary=boundary, limit=limit, progress=progress)
    else:
        segmenter = run if isinstance(run, Segmenter) else Segmenter.load(run, device=device)
        dead = segmenter.findings
        pictures = with_measuring_masks(pictures, limit, strict=True)
        log_findings(pictures.findings, log)
        if cam or reliable:
            segmenter.first_step()  # a network without CAM is found before the work
        passes = 1 + cam + reliable
        report = score_pictures(
            segmenter,
            pictures,
            crf=crf,
            scales=scales,
            flip=flip,
            boundary=boundary,
            limit=limit,
            progress=stage(progress, 0, passes),
        )
        if cam:
            curves = cam_curves(
                segmenter,
                pictures,
                scales=cam_scales,
                thresholds=cam_thresholds,
                tags=cam_tags,
                limit=limit,
                progress=stage(progress, 1, passes),
            )
            report = dataclasses.replace(report, cam=tuple(curves))
        if reliable:
            last = stage(progress, passes - 1, passes)
            quality = score_reliable_labels(segmenter, pictures, limit=limit, progress=last)
            report = dataclasses.replace(report, reliable=quality)
    if dead:
        findings = [*report.protocol["findings"], *(each.as_dict() for each in dead)]
        report = dataclasses.replace(report, protocol=report.protocol | {"findings": findings})
    if out is not None:
        write_evaluation(Path(out), report)
    return report


def write_evaluation(out: Path, report: Report) -> None:
    """Write OUT/evaluation.json and, where there are CAM curves, OUT/cam.svg and OUT/cam.png."""
    write_text(out / "evaluation.json", json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
    series = [
        Series(name=curve.name, points=tuple(zip(curve.thresholds, curve.miou, strict=True))) for curve in report.cam
    ]
    for name in ("cam.svg", "cam.png") if series else ():
        save_plot(out / name, series, title="CAM", x_label="background threshold", y_label="mIoU")


def score_pictures(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    crf: CRFChoice = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    true_tags: bool = False,
    boundary: bool = False,
    limit: int = 0,
    broken: dict[str, str] | None = None,
    each: Callable[[Picture, NDArray[np.int64]], None] | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Report:
    """Score a network on pictures with masks, at the size of the masks; see `evaluate`.

    Args:
        segmenter: The network.
        pictures: Pictures with masks.
        crf: Refine the probabilities.
        scales: Factors on the network's picture size.
        flip: Average with the mirrored picture.
        true_tags: Let the network know which classes are in the picture (an easier task; said in the protocol).
        boundary: Also score the boundaries.
        limit: Score only the first so many pictures; 0 for all.
        broken: Where to note the message per picture that cannot be read, which is then left out; None raises it.
        each: Called with every picture of this process and its own confusion matrix int64 [K, K].
        progress: Called with (done, all).
        team: Processes that share the pictures; all get the same report and notes in `broken`.

    Raises:
        ValueError: no picture has a mask, or no class is common to network and data.
    """
    params, codes = resolve_crf(crf), model_codes(segmenter.classes, pictures)
    unknown = [name for name in pictures.classes if name not in segmenter.classes]
    chosen = with_masks(pictures, limit)
    labels = len(segmenter.classes) + 1
    confusion = np.zeros((labels, labels), dtype=np.int64)
    edges = BoundaryCounter(labels) if boundary else None
    for picture in tracked(team.share(chosen), progress):
        try:
            rgb = read_picture(picture.path)
            truth = torch.from_numpy(read_mask(picture.mask, codes, rgb.shape[:2]))
        except PictureError as error:
            _note(broken, picture, error)
            continue
        names = [pictures.classes[i] for i in picture.tags]
        allowed = segmenter.allowed_labels([n for n in names if n in segmenter.classes]) if true_tags else None
        maps, _ = segmenter.score_maps([rgb], scales=scales, flip=flip, allowed=[allowed])[0]
        predicted = torch.from_numpy(labels_of(probability_parts(rgb, maps, params), maps.size))
        own = confusion_matrix(predicted, truth, labels)
        confusion += own
        if each is not None:
            each(picture, own)
        if edges is not None:
            edges.update(predicted.numpy(), truth.numpy())
    confusion = _summed(confusion, team)
    if edges is not None:
        edges.counts = _summed(edges.counts, team)
    _share_notes(broken, team)
    count = len(chosen) - len(broken or ())
    protocol = data_protocol(pictures, count, unknown, segmenter.classes) | {
        "masks_from": "network",
        "image_size": segmenter.config.image_size,
        "network_input": "longer side = image_size x scale (None: the picture's own), sides rounded to the stride"
        + (f"; above {LARGE} pixels in tiles of {TILE}" if segmenter.config.image_size is None else ""),
        "scales": list(scales),
        "flip": flip,
        "crf": None if params is None else dataclasses.asdict(params),
        "label_prior": "true tags" if true_tags else "none",
        "model_selection": segmenter.selection,
    }
    return _report(confusion, edges, segmenter.classes, count, protocol)


def _report(
    confusion: NDArray[np.int64],
    edges: BoundaryCounter | None,
    classes: Sequence[str],
    count: int,
    protocol: dict[str, Any],
) -> Report:
    if edges is None:
        return report_from_confusion(confusion, classes, count, protocol)
    protocol = protocol | {"boundary_tolerance": edges.tolerance}
    return report_from_confusion(confusion, classes, count, protocol, boundary_f=edges.score(classes))


def _note(broken: dict[str, str] | None, picture: Picture, error: PictureError) -> None:
    if broken is None:
        raise error
    broken[picture.name] = str(error)


def _share_notes(broken: dict[str, str] | None, team: Team) -> None:
    for notes in team.gather(broken):
        if broken is not None and notes is not None:
            broken.update(notes)


def _summed(counts: NDArray[np.int64], team: Team) -> NDArray[np.int64]:
    return team.total(torch.from_numpy(counts).to(team.device)).cpu().numpy()


def score_masks(
    folder: Path,
    pictures: PictureSet,
    *,
    boundary: bool = False,
    limit: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Score the files `folder`/NAME.png against the masks of `pictures`, classes by name.

    Pixels that are 255 in a file count nowhere; their share is `unlabeled_share` in the protocol.

    Raises:
        ValueError: before any is scored: a file is missing, is not indexed or grey, has another size, or holds a number
            that is no label; or nothing is left to score.
    """
    pictures = with_measuring_masks(pictures, limit, strict=True, sizes=False)
    classes, unknown, codes = _classes_of(folder, pictures)
    chosen, labels = with_masks(pictures, limit), len(classes) + 1
    truth_codes = model_codes(classes, pictures)
    paths = _mask_files(folder, chosen)
    labels_of_tags = [class_label(name, classes) for name in pictures.classes]
    placed = tuple(
        dataclasses.replace(each, mask=path, tags=tuple(label - 1 for i in each.tags if (label := labels_of_tags[i])))
        for each, path in zip(chosen, paths, strict=True)
    )
    _refuse_unscorable(folder, PictureSet(classes, placed, codes, folder, pictures.split, ""), chosen)
    log_findings(pictures.findings, log)
    confusion = np.zeros((labels, labels), dtype=np.int64)
    unlabeled, total = np.zeros(labels, dtype=np.int64), np.zeros(labels, dtype=np.int64)
    edges = BoundaryCounter(labels) if boundary else None
    for picture, path in tracked(list(zip(chosen, paths, strict=True)), progress):
        truth = torch.from_numpy(read_mask(picture.mask, truth_codes))
        predicted = torch.from_numpy(read_mask(path, codes, (truth.shape[0], truth.shape[1])))
        confusion += confusion_matrix(predicted, truth, labels)
        if edges is not None:
            edges.update(predicted.numpy(), truth.numpy())
        scored = truth[truth != IGNORE]
        total += np.bincount(scored, minlength=labels)
        unlabeled += np.bincount(scored[predicted[truth != IGNORE] == IGNORE], minlength=labels)
    lost = _unlabeled(classes, unlabeled, total)
    log_findings(lost, log)
    pictures = dataclasses.replace(pictures, findings=(*pictures.findings, *lost))
    protocol = data_protocol(pictures, len(chosen), unknown, classes) | {
        "masks_from": str(folder),
        "unlabeled_share": int(unlabeled.sum()) / max(int(total.sum()), 1),
        "unlabeled_pixels": "255 in a mask counts nowhere",
    }
    return _report(confusion, edges, classes, len(chosen), protocol)


def _classes_of(folder: Path, pictures: PictureSet) -> tuple[tuple[str, ...], list[str], MaskCodes]:
    """The classes that a folder of masks is scored with, those of the data set that it does not know, and its codes.

    By name where a class list goes with the masks: as for a run of these classes. By position where none does.
    """
    listed = mask_list(folder)
    if listed is None:
        return pictures.classes, [], label_codes(len(pictures.classes), others="ignore")
    refuse_foreign_list(listed, pictures.classes, f"the data set {pictures.root}")
    names = tuple(listed.ids.values())
    both = [name for name in pictures.classes if class_label(name, names) is not None]
    classes = (*both, *(name for name in listed.names if class_label(name, both) is None))
    codes = MaskCodes.of(codes_by_name(listed.ids, classes), others="ignore", colors=listed.colors)
    return classes, [name for name in pictures.classes if class_label(name, both) is None], codes


def _mask_files(folder: Path, chosen: Sequence[Picture]) -> list[Path]:
    files, paths = MaskFiles(folder), []
    for picture in chosen:
        path = files.find(picture.name)
        if path is None:
            strays = files.stray_words(each.name for each in chosen)
            raise ValueError(f"There is no mask {folder / mask_name(picture.name)} for picture {picture.name}{strays}.")
        paths.append(path)
    return paths


def _refuse_unscorable(folder: Path, placed: PictureSet, chosen: Sequence[Picture]) -> None:
    """Read all masks of a folder before any is scored; `chosen` are the pictures with their true masks.

    Raises:
        ValueError: a mask cannot be used, holds a number that is no label, or none shows a class.
    """
    sizes = {each.name: each.mask or each.path for each in chosen}
    tally = survey(placed, placed.pictures, size_of=lambda each: file_size(sizes[each.name]), whose=str(folder))
    if tally.num_broken:
        raise PictureError(f"{some(tally.num_broken, 'mask')} of {folder} cannot be scored: {tally.broken[0][1]}")
    if tally.foreign:
        raise ValueError(
            f"{tally.first_strange} ({some(tally.num_strange, 'mask')} of {folder}) holds numbers that are no label: "
            f"{tally.foreign_words()}. {tally.cure()}"
        )
    if tally.pixels[IGNORE] and (reason := tally.nothing_left()) is not None:  # all background is a bad mask, but one
        raise ValueError(f"Nothing is left to score. {reason}")


def _unlabeled(classes: Sequence[str], unlabeled: NDArray[np.int64], total: NDArray[np.int64]) -> tuple[Finding, ...]:
    """What is said of labels whose every true pixel is 255 in the masks."""
    names = [
        name for name, lost, all in zip(("background", *classes), unlabeled, total, strict=True) if all and lost == all
    ]
    return about(
        names,
        severity="warning",
        code="unlabeled",
        message=f"{some(len(names), 'label')} of which every true pixel is 255 in the masks: none counts.",
        cure="If 255 stands for a class in these masks, write labels; else say so beside the score.",
    )


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
    for i in tags.bool().any(0).nonzero().flatten().tolist():
        ap[classes[i]] = float(binary_average_precision(scores[:, i], tags[:, i].long()))
    scored = [value for value in ap.values() if value is not None]
    return TagReport(map=float(np.mean(scored)) if scored else float("nan"), ap=ap, num_images=len(scores))


def score_tags(
    segmenter: Segmenter,
    pictures: PictureSet,
    *,
    limit: int = 0,
    broken: dict[str, str] | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> TagReport:
    """The mAP of the tag classifier on tagged pictures, which needs no masks; the rest as in `score_pictures`."""
    scores, tags = [torch.zeros(0, len(segmenter.classes))], []
    for picture in tracked(team.share(pictures.pictures[: limit or None]), progress):
        try:
            rgb = read_picture(picture.path)
        except PictureError as error:
            _note(broken, picture, error)
            continue
        scores.append(torch.from_numpy(segmenter.score_maps([rgb])[0][1])[None])
        names = {pictures.classes[i] for i in picture.tags}
        tags.append([name in names for name in segmenter.classes])
    _share_notes(broken, team)
    truth = torch.tensor(tags, dtype=torch.bool).reshape(-1, len(segmenter.classes))
    shares = team.gather((torch.cat(scores), truth))  # in the order of the pictures, each once
    every_score, every_tag = (torch.cat(parts) for parts in zip(*shares, strict=True))
    return tag_report(every_score, every_tag, segmenter.classes)
