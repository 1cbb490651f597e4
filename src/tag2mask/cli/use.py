"""Commands that use a trained network: predict, evaluate, pseudo-label, explain."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tag2mask.base.console import Bar
from tag2mask.cli.advice import (
    after_predicting,
    after_scoring,
    after_scoring_masks,
    beside,
    next_command,
    unless_dead,
)
from tag2mask.cli.common import CRFPreset, Misuse, Result, Run, crf_choice, jsonable
from tag2mask.config import MAX_PIXELS
from tag2mask.config.formats import DataOptions, OutputFormat


def predict_command(
    run: Run,
    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE...")],
    *,
    out: Path,
    format: Annotated[tuple[OutputFormat, ...], tyro.conf.arg(metavar="F...")] = ("png",),
    shapes: Literal["rle", "polygons"] = "rle",
    instances: bool = False,
    tolerance: float = 0.0,
    picture_prefix: str = "/data/local-files/?d=",
    crf: bool = False,
    crf_preset: CRFPreset | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    tags: Path | None = None,
    list: Path | None = None,
    rank: bool = False,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Write masks for files, folders and globs: OUT/masks, OUT/overlays, OUT/scores.csv.

    Args:
        run: Run folder, .safetensors or .onnx file.
        sources: Pictures, folders (with their sub-folders), globs.
        out: Folder for the results.
        format: One or more of png (masks, overlays), ids (grey masks), npz (probabilities), comp5 and comp6 (VOC test
            server), coco, yolo, label-studio, cvat, geojson, voc (docs/formats.md).
        shapes: Objects of coco and label-studio: run lengths, exact, or polygons.
        instances: One object per connected region instead of one per class.
        tolerance: Pixels by which polygons may miss the outline; 0 is exact.
        picture_prefix: Before a picture's path in label-studio.
        crf: Refine with the dense CRF at the picture's size.
        crf_preset: Parameters of that CRF (implies --crf).
        scales: Factors on the network's picture size, averaged.
        flip: Average with the mirrored picture.
        tags: Table like tags.csv: the classes known to be in a picture.
        list: File with a picture name per line; others are left out.
        rank: Also rank.csv, rank.html: what a person should look at first.
        tile: Side in pixels of overlapping tiles (docs/tiling.md); by itself for large pictures of runs that keep
            their size.
        max_pixels: Leave out pictures with more pixels, before they are unpacked.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    if not sources:
        raise Misuse("predict needs at least one picture, folder or glob after RUN.")
    from tag2mask.base.share import Share
    from tag2mask.jobs.predicting.run import predict
    from tag2mask.outputs.objects import OutputOptions

    share = Share.of_environment()
    options = OutputOptions(shapes=shapes, instances=instances, tolerance=tolerance, picture_prefix=picture_prefix)
    with Bar("predict") as bar:
        result = predict(
            run,
            sources,
            out,
            formats=format,
            crf=crf_choice(crf, crf_preset),
            scales=scales,
            flip=flip,
            tags=tags,
            list_file=list,
            rank=rank,
            options=options,
            tile=tile,
            max_pixels=max_pixels,
            device=device,
            progress=bar.update,
            share=(share.index, share.count),
        )
    for message in result.errors.values():
        print(f"tag2mask: error: {message}", file=sys.stderr)
    large = f" ({result.too_large} of them above --max-pixels {max_pixels})" if result.too_large else ""
    lines = [f"{len(result.written)} pictures done, {len(result.errors)} failed{large}: {result.out}"]
    if "png" in format:
        lines.append(f"masks: {result.out / 'masks'}, overlays: {result.out / 'overlays'}")
    if "ids" in format:
        lines.append(f"grey masks: {result.out / 'ids'}")
    if not result.complete:
        lines.append("other processes have pictures left; the last one writes what holds all of them, as scores.csv")
    lines += [f"{name}: {path}" for name, path in result.files.items()]
    if rank and result.complete:
        lines.append(f"look first at the pictures on top of {result.out / 'rank.html'} (all: rank.csv)")
    if result.archive is not None:
        lines.append(f"archive: {result.archive}")
    elif result.complete and {"comp5", "comp6"} & set(format):
        lines.append("no results.tgz was written, because it would not be complete")
    lines.append(after_predicting(run, sources, result.out, format, tools=bool(result.files), ranked=rank))
    return jsonable(result), lines, 1 if result.errors else 0


def evaluate_command(
    run: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="RUN")] = None,
    *,
    data: Path,
    masks: Path | None = None,
    split: str = "val",
    crf: bool = False,
    crf_preset: CRFPreset | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    boundary: bool = False,
    cam: bool = False,
    cam_scales: tuple[str, ...] | None = None,
    cam_thresholds: tuple[float, ...] | None = None,
    cam_tags: tuple[Literal["true", "predicted"], ...] = ("true",),
    reliable: bool = False,
    limit: int = 0,
    out: Path | None = None,
    reading: DataOptions = DataOptions(),
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Score a run, or a folder of masks (--masks), against true masks: mIoU, IoU per class, protocol.

    Args:
        run: Run folder or .safetensors file; left out with --masks.
        data: Data set with masks.
        masks: Folder of masks NAME.png, with their classes.txt.
        split: Name of a split, or a file with one picture per line.
        crf: Refine with the dense CRF at the picture's size.
        crf_preset: Parameters of that CRF (implies --crf).
        scales: Factors on the network's picture size, averaged.
        flip: Average with the mirrored picture.
        boundary: Also the boundary F-score per class.
        cam: Also the mIoU of the CAM against its background threshold.
        cam_scales: A curve per word, commas between averaged scales: 1 1,0.5,1.5,2; implies --cam.
        cam_thresholds: Background thresholds in [0, 1]; implies --cam.
        cam_tags: Classes of the CAM: from the data's tags, or predicted.
        reliable: Also coverage, precision, recall of the reliable labels.
        limit: Score only the first so many pictures; 0 for all.
        out: Folder for evaluation.json and the curves of --cam; else RUN.
        device: auto, cpu, cuda or mps.
        reading: How a data set is read.
        json: Print one JSON object on stdout and nothing else.
    """
    if (run is None) == (masks is None):
        raise Misuse("evaluate needs either RUN or --masks DIR.")
    curves = _scale_sets(cam_scales)
    from tag2mask.scoring.evaluation import evaluate, evaluation_folder
    from tag2mask.scoring.label_quality import THRESHOLDS
    from tag2mask.scoring.report import report_lines

    with Bar("evaluate") as bar:
        report = evaluate(
            run,
            masks=masks,
            data=data,
            split=split,
            crf=crf_choice(crf, crf_preset),
            scales=scales,
            flip=flip,
            boundary=boundary,
            cam=cam or curves is not None or cam_thresholds is not None,
            cam_scales=curves,
            cam_thresholds=cam_thresholds or THRESHOLDS,
            cam_tags=cam_tags,
            reliable=reliable,
            limit=limit,
            out=out,
            device=device,
            progress=bar.update,
            data_options=reading,
        )
    lines = report_lines(report)
    place = evaluation_folder(run, out)
    nowhere = "no file was written, as there is no run folder; --out DIR writes evaluation.json"
    lines.append(nowhere if place is None else f"scores: {place / 'evaluation.json'}")
    if masks is not None:
        lines.append(after_scoring_masks(masks, data, reading, split))
    else:
        lines.append(after_scoring(str(run), data, reading))
    return report.as_dict(), lines, 0


def _scale_sets(words: Sequence[str] | None) -> list[list[float]] | None:
    """The scales of each curve of --cam-scales."""
    if words is None:
        return None
    try:
        return [[float(scale) for scale in word.split(",")] for word in words]
    except ValueError as error:
        raise Misuse(f"--cam-scales takes words like 1 or 1,0.5,1.5, got {' '.join(words)!r}.") from error


def pseudo_label_command(
    run: Run,
    *,
    data: Path,
    out: Path,
    split: str | None = None,
    crf: bool = False,
    crf_preset: CRFPreset | None = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    min_confidence: float = 0.0,
    reading: DataOptions = DataOptions(),
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Write training masks for a second network, limited to each picture's tags.

    Args:
        run: Run folder or .safetensors file.
        data: Data set with tags.
        out: Folder of the masks.
        split: Name of a split, or a file with one picture per line; default the split to train on.
        crf: Refine with the dense CRF at the picture's size.
        crf_preset: Parameters of that CRF (implies --crf).
        scales: Factors on the network's picture size, averaged.
        flip: Average with the mirrored picture.
        min_confidence: Pixels to whose label the network gives less (before any CRF) become 255.
        device: auto, cpu, cuda or mps.
        reading: How a data set is read.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.config import RetrainConfig
    from tag2mask.jobs.pseudo_labels import pseudo_label

    with Bar("pseudo-label") as bar:
        result = pseudo_label(
            run,
            data=data,
            out=out,
            split=split,
            crf=crf_choice(crf, crf_preset),
            scales=scales,
            flip=flip,
            min_confidence=min_confidence,
            device=device,
            progress=bar.update,
            data_options=reading,
        )
    for message in result.errors.values():
        print(f"tag2mask: error: {message}", file=sys.stderr)
    lines = [f"{result.num_images} masks, {result.ignored_share:.1%} of their pixels ignored: {result.out}"]
    used = {"data": data, **reading.asked(), "train_split": split}
    same = result.backbone == RetrainConfig.preset("small").backbone
    start = run if same and Path(run).exists() else None  # a model of the hub is no file to start from
    again = next_command("retrain", "small", **used, masks=result.out, weights=start)
    if result.shows_nothing:
        again = next_command("check", data, **reading.asked(), train_split=split, out="check.html")
    lines.append(unless_dead(run, again))
    return jsonable(result), lines, 1 if result.errors else 0


def explain_command(
    run: Run,
    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")],
    *,
    out: Path,
    tags: tuple[str, ...] | None = None,
    crf_preset: CRFPreset = "inference",
    device: str = "auto",
    json: bool = False,
) -> Result:
    """Show one picture step by step: CAM, CRF votes, reliable labels, prediction; a PNG and a JSON.

    Args:
        run: Run folder or .safetensors file.
        image: The picture.
        out: Folder for NAME.png and NAME.json.
        tags: Classes known to be in the picture; default those that the tag scores name.
        crf_preset: CRF of the last step.
        device: auto, cpu, cuda or mps.
        json: Print one JSON object on stdout and nothing else.
    """
    from tag2mask.jobs.explanation import explain

    result = explain(run, image, out, tags=tags, crf=crf_preset, device=device)
    lines = [f"sheet: {result.sheet}", f"numbers: {result.json}"]
    lines.append(unless_dead(run, next_command("predict", run, image.parent, out=beside(run, "predicted"))))
    return jsonable(result), lines, 0
