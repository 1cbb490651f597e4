"""Masks of many pictures as files; `Segmenter.predict` makes each."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask import outputs
from tag2mask.base.arrays import stored
from tag2mask.base.files import whole_file, write_atomically, write_lines
from tag2mask.base.memory import ran_out
from tag2mask.base.options import public
from tag2mask.base.stages import Outcome
from tag2mask.config.formats import OutputFormat
from tag2mask.config.inference import Inference
from tag2mask.data.findings import Finding, log_findings
from tag2mask.data.storage.pictures import PictureTooLarge, opened
from tag2mask.inference.prediction import Prediction
from tag2mask.inference.segmenter import Asked, Segmenter
from tag2mask.inference.sources import NamedPicture
from tag2mask.jobs.predicting import rank_page, ranking
from tag2mask.jobs.predicting.manifest import Gathered, Manifest
from tag2mask.jobs.predicting.plan import HIDDEN_MASKS, Plan, make_plan, remove_parts
from tag2mask.outputs import render, voc_archive

log = logging.getLogger("tag2mask")


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What `predict` wrote."""

    out: Path
    written: tuple[str, ...]
    """Names of the pictures done, by this call or a killed one before it: masks/NAME.png, overlays/NAME.jpg."""
    errors: dict[str, str]
    """Message per picture whose prediction failed."""
    too_large: int = 0
    """How many of them have more than `max_pixels` pixels."""
    archive: Path | None = None
    """results.tgz of the formats comp5 and comp6; None where a prediction failed."""
    files: dict[str, Path] = field(default_factory=dict)
    """File or folder of each other format: a name of `tag2mask.config.formats.MaskFormat`."""
    complete: bool = True
    """Whether every picture has been tried; False while other processes of the job work on theirs. The last one writes
    scores.csv, `archive` and `files`."""
    findings: tuple[Finding, ...] = ()
    """What was passed over in the sources, rows of `tags` without a picture, and pictures without a row."""


@public
def predict(
    run: str | Path | Segmenter,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    formats: Sequence[OutputFormat] = ("png",),
    tags: str | Path | None = None,
    list_file: str | Path | None = None,
    rank: bool = False,
    options: outputs.OutputOptions | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
    inference: Inference | None = None,
    **inference_options: Any,
) -> PredictSummary:
    """Write masks of pictures: OUT/masks/NAME.png, OUT/overlays/NAME.jpg, OUT/scores.csv and OUT/classes.txt.

    NAME is the picture's path below the folder or glob that named it, without suffix (docs/formats.md, names). Files of
    an earlier call are replaced. A broken picture is reported in `errors` and the others are done.

    A call that was killed goes on when it is repeated with the same model, sources and options: OUT/manifest says what
    is done.

    Args:
        run: Run folder, .safetensors or .onnx file, or `Segmenter`.
        sources: Files, folders, globs.
        out: Folder, made if needed.
        formats: `png` for masks with the VOC palette and overlays; `ids` for OUT/ids/NAME.png, the same labels as 8-bit
            grey for readers that turn a palette into colors; `npz` for OUT/probs/NAME.npz with `probs`
            float16 [K, H, W] and `labels`, the names of its K maps; `comp6` (or `comp5`) for OUT/results.tgz, the
            archive of the PASCAL VOC test server (see `voc_archive`), and the masks in it as files; the formats of
            annotation tools (docs/formats.md): `coco` for OUT/coco.json, `label-studio` for OUT/label-studio.json and
            .xml, `cvat` for OUT/cvat.zip, `yolo`, `geojson`, `voc`, `ultralytics-semantic` and `hf-imagefolder` for
            folders of that name. Those appear when all pictures are done; a picture in `errors` is not in them.
        tags: The classes known to be in each picture: a table in either form of a data set's tags.csv, or a data set in
            any format; pictures that it does not list are predicted without. Tags belong to their very file where that
            is predicted, else to the picture of that path below its source; those of a bare name to the only picture
            that is called so (`tag2mask.inference.sources.called`).
        list_file: Only the pictures that this file names, one per line, called as in `tags`, or without suffix.
        rank: Also write OUT/rank.csv and OUT/rank.html: which pictures a person should look at first
            (`tag2mask.jobs.predicting.ranking.Review`).
        options: How the formats of annotation tools write objects.
        device: Where the network runs.
        progress: Called with (done, all).
        share: (index, count): of `count` processes that are given the same this is number `index`, from 0, and does
            its part of the pictures. The command takes it from RANK and WORLD_SIZE, as torchrun sets them.
        inference: How each picture is predicted; its `tags` stay None.
        **inference_options: Fields of `inference` by name, as `crf=True`.

    Raises:
        ValueError, FileNotFoundError: nothing could be started: no model, no picture, a bad table or list, or classes
            or names of pictures that a format cannot hold.
        FileExistsError: OUT holds files that `predict` did not write, or another process is writing into it.
    """
    inference = (inference or Inference()).replace(**inference_options)
    plan = make_plan(run, sources, Path(out), formats, inference, tags, list_file, rank, options, device, share)
    if plan.share.index == 0:
        log_findings(plan.findings, log)
    with Manifest(plan.out, plan.settings, plan.share) as manifest:
        _clear(plan, manifest)
        summary = _predict_share(plan, manifest, progress)
        write_lines(plan.out / "classes.txt", plan.segmenter.classes)
        with manifest.gathering([picture.name for picture in plan.pictures]) as everything:
            if everything is not None:
                _gather(plan, everything)
                manifest.close_round()
                shutil.rmtree(plan.out / HIDDEN_MASKS, ignore_errors=True)
        if not manifest.is_closed:
            return summary
    archive = plan.out / voc_archive.FILE
    return replace(
        summary,
        complete=True,
        archive=archive if plan.competition is not None and archive.is_file() else None,
        files={name: plan.out / place for name, place in outputs.PLACES.items() if name in formats},
    )


def _clear(plan: Plan, manifest: Manifest) -> None:
    """Remove what an interrupted process has left, and an archive that would be taken for the one of this call."""
    if manifest.goes_on:
        log.info("%d of %d pictures are done already: going on", len(manifest.done), len(plan.pictures))
        if plan.share.count == 1:
            remove_parts(plan.out)
    elif plan.competition is not None:
        (plan.out / voc_archive.FILE).unlink(missing_ok=True)


def _predict_share(plan: Plan, manifest: Manifest, progress: Callable[[int, int], None] | None) -> PredictSummary:
    """Predict the pictures of this process that are not done."""
    own = [plan.pictures[i] for i in plan.share.range(len(plan.pictures))]
    known = {
        picture.name
        for picture in own
        if picture.name in manifest.done and all(path.is_file() for path in plan.mask_files(picture))
    }
    asked = (Asked(each.path, plan.tags.get(each.file_name), each) for each in own if each.name not in known)
    run = plan.segmenter.stages(plan.inference, partial(_write_picture, plan)).run(asked)
    written: list[str] = []
    errors: dict[str, str] = {}
    too_large = 0
    try:
        for done, picture in enumerate(own, start=1):
            try:
                if picture.name not in known:
                    _note(manifest, next(run))
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                errors[str(picture.path)] = _reason(error, picture)
                too_large += isinstance(error, PictureTooLarge)
                manifest.add(picture.name, {}, error=errors[str(picture.path)])
            else:
                written.append(picture.name)
            if progress is not None:
                progress(done, len(own))
    finally:
        for outcome in run.close():  # of an interrupted call
            if outcome.error is None:
                _note(manifest, outcome)
    findings = plan.findings + plan.segmenter.findings
    return PredictSummary(
        out=plan.out, written=tuple(written), errors=errors, too_large=too_large, complete=False, findings=findings
    )


def _note(manifest: Manifest, outcome: Outcome[Asked, tuple[dict[str, float], dict[str, Any]]]) -> None:
    """Write into the manifest that a picture is done."""
    scores, more = outcome.get()
    manifest.add(outcome.item.name.name, scores, **more)


def _write_picture(plan: Plan, asked: Asked, result: Prediction) -> tuple[dict[str, float], dict[str, Any]]:
    """Write the files of one picture; its tag scores, and its review where pictures are ranked."""
    picture: NamedPicture = asked.name
    name, out, formats = picture.name, plan.out, plan.formats
    if "png" in formats:
        render.save_picture(out / "overlays" / f"{name}.jpg", result.overlay())
    for path, palette in plan.mask_files(picture).items():
        render.save_mask(path, result.mask, palette=palette)
    margin = _pass_over_probs(plan, result, name)
    if plan.competition is not None:
        voc_archive.save_result(out, plan.competition, picture.file_name, result.mask, plan.segmenter.classes)
    if not plan.rank:
        return result.tag_scores, {}
    review = ranking.review(result, asked.tags, plan.segmenter.class_activation_maps, margin)
    return result.tag_scores, {"review": list(review)}


def _pass_over_probs(plan: Plan, result: Prediction, name: str) -> float | None:
    """Write probs/NAME.npz and give the margin, from one computation of the probabilities; each only if asked for.

    The probabilities are float16 [K, H, W]; those of a large picture are never all in memory in float32.
    """
    probs, unsure = None, 0.0
    if "npz" in plan.formats:
        probs = stored((len(result.classes) + 1, *result.mask.shape), np.float16)
    elif not plan.rank:
        return None
    for rows, columns, part in result.parts():
        if probs is not None:
            probs[:, rows, columns] = part
        if plan.rank:
            unsure += ranking.unsure_pixels(part)
    if probs is not None:
        half, labels = probs, np.array(["background", *result.classes])
        path = plan.out / "probs" / f"{name}.npz"
        write_atomically(path, lambda file: np.savez_compressed(file, probs=half, labels=labels))
    return unsure / result.mask.size


def _reason(error: Exception, picture: NamedPicture) -> str:
    """Why the prediction of a picture failed; an error that is not about the picture is raised."""
    if (reason := ran_out(error)) is not None:
        return (
            f"{picture.path} does not fit into memory ({reason}). Predict it in smaller tiles (--tile 512), without "
            "--crf, or at fewer and smaller --scales."
        )
    if isinstance(error, RuntimeError):
        raise error
    return str(error)


def _gather(plan: Plan, everything: Gathered) -> None:
    """Write what holds all pictures: scores.csv, the files of annotation tools, the ranking, the archive.

    Their masks are read from the disk, as other processes and killed ones have made some of them; each once, for all
    annotation tools.
    """
    out, classes, done = plan.out, plan.segmenter.classes, 0
    reviewed: list[ranking.Ranked] = []
    with (
        whole_file(out / "scores.csv") as table,
        table.open("w", newline="", encoding="utf-8") as file,
        outputs.writers(out, plan.formats, classes, plan.options) as add,
    ):
        writer = csv.writer(file)
        writer.writerow(["file_name", *classes])
        lines = everything.lines([picture.name for picture in plan.pictures])
        for picture, line in zip(plan.pictures, lines, strict=True):
            if "error" in line:
                continue
            done += 1
            writer.writerow([picture.file_name, *(f"{score:.6f}" for score in line["scores"].values())])
            mask = plan.mask_file(picture)
            if plan.rank:
                review = ranking.Review(*line["review"])
                reviewed.append(ranking.Ranked(picture.file_name, picture.path, mask, review))
            if plan.has_tools:
                with opened(mask, None) as image:
                    labels = np.asarray(image)
                add(outputs.LabeledPicture(picture.name, picture.file_name, labels, line["scores"], picture.path))
    if not done:
        (out / "scores.csv").unlink()
    if reviewed:
        order = ranking.ranked(reviewed)
        ranking.write_table(out / "rank.csv", order)
        rank_page.write_page(out / "rank.html", order, classes)
    if plan.competition is not None and done == len(plan.pictures):
        voc_archive.pack_results(out, plan.competition, [picture.file_name for picture in plan.pictures])
