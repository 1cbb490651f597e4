"""What `evaluate` reports: scores of a network, or of masks, against the truth. Memory does not grow with the data."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tag2mask.base.arrays import LARGE
from tag2mask.base.charts import Series, save_plot
from tag2mask.base.files import check_folder, write_text
from tag2mask.base.options import public
from tag2mask.base.team import ALONE, Team
from tag2mask.config import CRFParams
from tag2mask.config.formats import DataOptions
from tag2mask.config.inference import Inference
from tag2mask.data import Picture, PictureSet, open_data, read_mask, read_picture
from tag2mask.data.findings import log_findings
from tag2mask.data.masks.survey import with_measuring_masks
from tag2mask.inference.segmenter import Segmenter, need_network
from tag2mask.inference.tiles import TILE
from tag2mask.runs.places import own_reading
from tag2mask.scoring.label_quality import THRESHOLDS, cam_curves, score_reliable_labels
from tag2mask.scoring.masks import score_masks
from tag2mask.scoring.report import (
    CamCurve,
    MaskCounter,
    Progress,
    Report,
    TagSource,
    data_protocol,
    model_codes,
    readable,
    stage,
    with_masks,
)

log = logging.getLogger("tag2mask")

_MASKS_FIRST = "write its masks with tag2mask predict MODEL PICTURES{} --out DIR, and score them with --masks DIR/masks"
_PLAIN = Inference()


@public
def evaluate(
    run: str | Path | Segmenter | None = None,
    *,
    masks: str | Path | None = None,
    data: str | Path,
    split: str = "val",
    boundary: bool = False,
    cam: bool = False,
    cam_scales: Sequence[Sequence[float]] | None = None,
    cam_thresholds: Sequence[float] = THRESHOLDS,
    cam_tags: Sequence[TagSource] = ("true",),
    reliable: bool = False,
    with_tags: bool = False,
    limit: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    data_options: DataOptions | None = None,
    inference: Inference | None = None,
    **options: Any,
) -> Report:
    """Score a run, or a folder of masks, against the masks of a data set at their own size.

    Args:
        run: Run folder, .safetensors file, "hf://owner/name" or `Segmenter`; or None with `masks`.
        masks: Folder of indexed PNG files NAME.png with labels of the class list in the folder or beside it
            (classes.txt), else of the data's, and 255 for "none".
        data: Data set with masks. Its classes are matched to the run's by name; classes that the run does not know
            count as 255 and are named in the protocol.
        split: Name of a split, or a file with one picture per line.
        boundary: Also score the boundaries: `Report.boundary_f` (see `tag2mask.scoring.boundary`).
        cam: Also sweep the background threshold of the CAM: `Report.cam` (see `cam_curves`).
        cam_scales: Scales of each curve; None is one curve at the scales of the run's training.
        cam_thresholds: Background thresholds in [0, 1].
        cam_tags: Where the CAM's classes come from: "true" tags, tags "predicted" by the network, or both.
        reliable: Also score the reliable labels of these pictures: `Report.reliable`.
        with_tags: Tell the network which classes the tags of the data set name in each picture: an easier task, for
            pictures whose tags are known when masks are made too. `label_prior` in the protocol says so.
        limit: Score only the first so many pictures; 0 for all.
        out: Folder for evaluation.json and, with `cam`, the curves as cam.svg and cam.png; they replace those of an
            earlier evaluation. None is the run folder (see `evaluation_folder`).
        device: Where the network runs.
        progress: Called with (done, all).
        data_options: How `data` is read where looking is not enough.
        inference: How the network predicts (see `tag2mask.config.inference.Inference`).
        options: Fields of `inference` by name, as `crf`, `scales`, `flip`, `tile`; and of `data_options`, as
            `data_format`.

    Raises:
        ValueError: neither or both of `run` and `masks`, a data set without masks, masks that do not fit, or a CAM or
            reliable labels of a network that has none.
    """
    if (run is None) == (masks is None):
        raise ValueError("evaluate needs either a run or --masks DIR, not both.")
    if limit < 0:
        raise ValueError(f"--limit must be 0 (all pictures) or more, got {limit}.")
    asked, reading = _read_options(inference, data_options, options)
    need_network(run, "evaluate", _MASKS_FIRST.format(f" --tags {data}" if with_tags else ""))
    folder = evaluation_folder(run, out)
    reading = own_reading(run, Path(data), reading)
    need_tags = with_tags or reliable or (cam and "true" in cam_tags)
    pictures = open_data(data, split=split, options=reading, need_tags=need_tags)
    if run is None:
        if asked != _PLAIN or cam or reliable or with_tags:
            raise ValueError(
                "--crf, --scales, --flip, --cam, --reliable and --with-tags belong to a network; with --masks there is "
                "none."
            )
        report = score_masks(Path(str(masks)), pictures, boundary=boundary, limit=limit, progress=progress)
    else:
        segmenter = Segmenter.load(run, device=device)
        sweep = partial(cam_curves, scales=cam_scales, thresholds=cam_thresholds, tags=cam_tags) if cam else None
        score = partial(score_pictures, inference=asked, with_tags=with_tags, boundary=boundary)
        report = _score_network(segmenter, pictures, score, sweep, reliable, limit, progress)
    if folder is not None:
        write_text(folder / "evaluation.json", json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n")
        lines = [
            Series(name=each.name, points=tuple(zip(each.thresholds, each.miou, strict=True))) for each in report.cam
        ]
        for name in ("cam.svg", "cam.png") if lines else ():
            save_plot(folder / name, lines, title="CAM", x_label="background threshold", y_label="mIoU")
    return report


def _read_options(
    inference: Inference | None, data_options: DataOptions | None, options: dict[str, Any]
) -> tuple[Inference, DataOptions]:
    """The two records with the fields that were given by name."""
    asked, others = Inference.split(inference, options)
    if asked.tags is not None:
        raise ValueError("evaluate takes no tags but those of the data set: leave tags out, and say --with-tags.")
    return asked, DataOptions.merged(data_options, others)


def _score_network(
    segmenter: Segmenter,
    pictures: PictureSet,
    score: Callable[..., Report],
    sweep: Callable[..., list[CamCurve]] | None,
    reliable: bool,
    limit: int,
    progress: Progress | None,
) -> Report:
    """What `score` gives, with the curves of `sweep` and the quality of the reliable labels where asked for."""
    pictures = with_measuring_masks(pictures, limit, strict=True)
    log_findings(pictures.findings, log)
    if sweep or reliable:
        segmenter.network.first_step()  # a network without CAM is found before the work
    count = 1 + (sweep is not None) + reliable
    passes = [stage(progress, i, count) for i in range(count)]
    report = score(segmenter, pictures, limit=limit, progress=passes[0])
    findings = [*report.protocol["findings"], *(each.as_dict() for each in segmenter.findings)]
    return dataclasses.replace(
        report,
        cam=tuple(sweep(segmenter, pictures, limit=limit, progress=passes[1])) if sweep else (),
        reliable=score_reliable_labels(segmenter, pictures, limit=limit, progress=passes[-1]) if reliable else None,
        protocol=report.protocol | {"findings": findings},
    )


def evaluation_folder(run: str | Path | Segmenter | None, out: str | Path | None) -> Path | None:
    """Where `evaluate` writes: `out`; else the run folder; None for masks, a file, a model of the hub or a `Segmenter`,
    which have no folder of their own, and for a run folder that may not be written to.

    Raises:
        NotADirectoryError, PermissionError: `out` cannot be written to.
    """
    if out is not None:
        check_folder(Path(out))
        return Path(out)
    if not isinstance(run, (str, Path)) or not Path(run).is_dir() or not os.access(run, os.W_OK | os.X_OK):
        return None
    return Path(run)


def score_pictures(
    segmenter: Segmenter,
    pictures: PictureSet,
    inference: Inference = _PLAIN,
    *,
    with_tags: bool = False,
    boundary: bool = False,
    limit: int = 0,
    broken: dict[str, str] | None = None,
    each: Callable[[Picture, NDArray[np.int64]], None] | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Report:
    """Score a network on pictures with masks, at the size of the masks; what is not said here is as in `evaluate`.

    With `with_tags` the network knows which classes are in the picture: an easier task, said in the protocol. `each` is
    called with every picture of this process and its own confusion matrix int64 [K, K]. For `broken` and `team` see
    `readable`; all processes get the same report.

    Raises:
        ValueError: no picture has a mask, or no class is common to network and data.
    """
    codes, chosen = model_codes(segmenter.classes, pictures), with_masks(pictures, limit)
    counter = MaskCounter(segmenter.classes, boundary=boundary)

    def read(picture: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        assert picture.mask is not None  # see with_masks
        rgb = read_picture(picture.path, inference.max_pixels)
        return rgb, read_mask(picture.mask, codes, rgb.shape[:2])

    for picture, (rgb, truth) in readable(chosen, read, broken=broken, progress=progress, team=team):
        names = [pictures.classes[i] for i in picture.tags if pictures.classes[i] in segmenter.classes]
        predicted = segmenter.predict(rgb, inference, tags=names if with_tags else None)
        own = counter.update(predicted.mask, truth)
        if each is not None:
            each(picture, own)
    counter.confusion = _summed(counter.confusion, team)
    if counter.edges is not None:
        counter.edges.counts = _summed(counter.edges.counts, team)
    count = len(chosen) - len(broken or ())
    return counter.report(count, _protocol(segmenter, pictures, count, inference, with_tags=with_tags))


def _protocol(
    segmenter: Segmenter, pictures: PictureSet, count: int, inference: Inference, *, with_tags: bool
) -> dict[str, Any]:
    crf, size = inference.crf, segmenter.config.image_size
    tiles = f"; in tiles of {inference.tile}" if inference.tile else ""
    if size is None and not inference.tile:
        tiles = f"; above {LARGE} pixels in tiles of {TILE}"
    return data_protocol(pictures, count, segmenter.classes) | {
        "masks_from": "network",
        "image_size": size,
        "network_input": "longer side = image_size x scale (None: the picture's own), sides rounded to the stride"
        + tiles,
        "scales": list(inference.scales),
        "flip": inference.flip,
        "crf": dataclasses.asdict(crf) if isinstance(crf, CRFParams) else None,
        "label_prior": "true tags" if with_tags else "none",
        "model_selection": segmenter.selection,
    }


def _summed(counts: NDArray[np.int64], team: Team) -> NDArray[np.int64]:
    return team.total(torch.from_numpy(counts).to(team.device)).cpu().numpy()
