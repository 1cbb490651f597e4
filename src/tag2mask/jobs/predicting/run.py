"""Masks of many pictures as files; `Segmenter.predict` makes each."""

from __future__ import annotations

import csv
import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask import __version__, outputs
from tag2mask.base.arrays import stored
from tag2mask.base.files import check_folder, model_file, whole_file, write_atomically, write_text
from tag2mask.base.memory import ran_out
from tag2mask.base.share import Share
from tag2mask.config import MAX_PIXELS
from tag2mask.config.formats import OUTPUT_FORMATS, OutputFormat
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding, about, are, log_findings, named, some
from tag2mask.data.storage.pictures import PictureTooLarge, opened
from tag2mask.data.storage.result_names import check_lengths
from tag2mask.data.storage.searching import is_predicted
from tag2mask.data.storage.tables import TagRow, class_indices, read_tag_table
from tag2mask.inference.segmenter import CRFChoice, Prediction, Segmenter, check_scales, resolve_crf
from tag2mask.inference.sources import NamedPicture, called, only_listed, search
from tag2mask.inference.tiles import check_limits
from tag2mask.jobs.predicting import ranking
from tag2mask.jobs.predicting.manifest import Gathered, Manifest, file_digest, fingerprint
from tag2mask.jobs.predicting.rank_page import write_page
from tag2mask.jobs.predicting.ranking import review
from tag2mask.outputs import render, voc_archive

log = logging.getLogger("tag2mask")

_HIDDEN_MASKS = ".masks"
"""Folder below OUT of the masks that the formats of annotation tools are made of, where no others are asked for."""


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What `predict` wrote."""

    out: Path
    written: tuple[str, ...]
    """Names of the pictures done, by this call or a killed one before it: masks/NAME.png, overlays/NAME.jpg."""
    errors: dict[str, str]
    """Message per picture that could not be done."""
    too_large: int = 0
    """How many of them have more than `max_pixels` pixels."""
    archive: Path | None = None
    """results.tgz of the formats comp5 and comp6; None where a picture could not be done."""
    files: dict[str, Path] = field(default_factory=dict)
    """File or folder of each other format: coco, yolo, label-studio, cvat, geojson, voc."""
    complete: bool = True
    """Whether every picture has been tried; False while other processes of the job work on theirs. The last one writes
    scores.csv, `archive` and `files`."""
    findings: tuple[Finding, ...] = ()
    """What was passed over in the sources, rows of `tags` without a picture, and pictures without a row."""


def predict(
    run: str | Path | Segmenter,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    formats: Sequence[OutputFormat] = ("png",),
    crf: CRFChoice = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    tags: str | Path | None = None,
    list_file: str | Path | None = None,
    rank: bool = False,
    options: outputs.OutputOptions | None = None,
    tile: int | None = None,
    max_pixels: int = MAX_PIXELS,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    share: tuple[int, int] = (0, 1),
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
            .xml, `cvat` for OUT/cvat.zip, `yolo`, `geojson` and `voc` for folders of that name. Those appear when
            all pictures are done; a picture in `errors` is not in them.
        crf: Refine the probabilities (see `Segmenter.predict`).
        scales: Factors on the network's picture size.
        flip: Average with the mirrored picture.
        tags: Table of the classes known to be in each picture, in either form of a data set's tags.csv; pictures that
            it does not list are done without. A row belongs to the picture of that path below its source; a bare name
            to the only picture that is called so (`tag2mask.inference.sources.called`).
        list_file: Only the pictures that this file names, one per line, called as in `tags`, or without suffix.
        rank: Also write OUT/rank.csv and OUT/rank.html: which pictures a person should look at first
            (`tag2mask.jobs.predicting.ranking.Review`).
        options: How the formats of annotation tools write objects.
        tile: Side of overlapping tiles in pixels (see `Segmenter.predict`).
        max_pixels: Pictures with more pixels are left out; they are in `errors`.
        device: Where the network runs.
        progress: Called with (done, all).
        share: (index, count): of `count` processes that are given the same this is number `index`, from 0, and does
            its part of the pictures. The command takes it from RANK and WORLD_SIZE, as torchrun sets them.

    Raises:
        ValueError, FileNotFoundError: nothing could be started: no model, no picture, a bad table or list, or classes
            or names of pictures that a format cannot hold.
        FileExistsError: OUT holds files that `predict` did not write, or another process is writing into it.
    """
    if unknown := sorted(set(formats) - set(OUTPUT_FORMATS)):
        raise ValueError(f"--format must be one of {', '.join(OUTPUT_FORMATS)}, got {', '.join(unknown)}.")
    out, competition = Path(out), voc_archive.competition_of(formats)
    check_folder(out)
    own_share = Share(index=share[0], count=share[1])
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    everywhere, findings = search(sources)
    pictures = everywhere if list_file is None else only_listed(everywhere, Path(list_file))
    segmenter = run if isinstance(run, Segmenter) else Segmenter.load(run, device=device)
    check_limits(tile, max_pixels)
    check_scales(scales)  # this and a misspelled class are found before any work
    known: dict[str, TagRow] = {}
    if tags is not None:
        known, told = _known_tags(Path(tags), segmenter.classes, everywhere, pictures)
        findings += told
    options = options or outputs.OutputOptions()
    outputs.check(formats, segmenter.classes, [picture.file_name for picture in pictures], options, max_pixels)
    if competition is not None:
        voc_archive.result_names(picture.file_name for picture in pictures)
        ids = voc_archive.voc_ids(segmenter.classes)
    check_lengths((picture.name for picture in pictures), ".geojson" if "geojson" in formats else ".png")
    _check_out(out, formats, pictures)
    findings += _earlier_results(out, formats, segmenter.classes, pictures)
    if own_share.index == 0:
        log_findings(findings, log)
    findings += segmenter.findings
    gathered = rank or bool(outputs.WRITERS.keys() & set(formats))
    masks = out / ("masks" if "png" in formats else _HIDDEN_MASKS)
    lasting = [masks] if "png" in formats or gathered else []
    lasting += [out / "ids"] if "ids" in formats else []
    settings = _settings(run, sources, formats, crf, scales, flip, tags, options, rank, tile, max_pixels)
    own = own_share.range(len(pictures))
    written, errors, too_large = [], {}, 0
    archive = None
    with Manifest(out, settings, own_share) as manifest:
        if manifest.goes_on:
            log.info("%d of %d pictures are done already: going on", len(manifest.done), len(pictures))
            if own_share.count == 1:
                _remove_parts(out)
        elif competition is not None:
            (out / "results.tgz").unlink(missing_ok=True)  # an older one would be taken for this one
        for done, picture in enumerate((pictures[i] for i in own), start=1):
            if picture.name in manifest.done and all((place / f"{picture.name}.png").is_file() for place in lasting):
                written.append(picture.name)
            else:
                try:
                    row = known.get(picture.file_name)
                    present = None if row is None else row.tags
                    result = segmenter.predict(
                        picture.path,
                        crf=crf,
                        scales=scales,
                        flip=flip,
                        tags=present,
                        tile=tile,
                        max_pixels=max_pixels,
                    )
                    _write_prediction(result, picture.name, out, formats)
                    if gathered and "png" not in formats:
                        render.save_mask(masks / f"{picture.name}.png", result.mask)
                    more: dict[str, Any] = {}
                    if rank:
                        more["review"] = list(review(result, present, segmenter.class_activation_maps))
                    if competition is not None:
                        place = voc_archive.result_name(picture.file_name)
                        voc_archive.save_result(out, competition, place, result.mask, ids)
                except (ValueError, OSError, MemoryError, RuntimeError) as error:
                    errors[str(picture.path)] = _reason(error, picture)
                    too_large += isinstance(error, PictureTooLarge)
                    manifest.add(picture.name, {}, error=errors[str(picture.path)])
                else:
                    manifest.add(picture.name, result.tag_scores, **more)
                    written.append(picture.name)
            if progress is not None:
                progress(done, len(own))
        write_text(out / "classes.txt", "".join(f"{name}\n" for name in segmenter.classes))
        with manifest.gathering([picture.name for picture in pictures]) as everything:
            if everything is not None:
                _gather(everything, pictures, out, masks, formats, segmenter.classes, options, competition)
                manifest.close_round()
                shutil.rmtree(out / _HIDDEN_MASKS, ignore_errors=True)
        complete = manifest.is_closed
    if complete and competition is not None and (out / "results.tgz").is_file():
        archive = out / "results.tgz"
    return PredictSummary(
        out=out,
        written=tuple(written),
        errors=errors,
        too_large=too_large,
        archive=archive,
        files={name: out / place for name, place in outputs.PLACES.items() if name in formats} if complete else {},
        complete=complete,
        findings=findings,
    )


def _known_tags(
    path: Path, classes: Sequence[str], everywhere: Sequence[NamedPicture], pictures: Sequence[NamedPicture]
) -> tuple[dict[str, TagRow], tuple[Finding, ...]]:
    """Rows of a table by `file_name` of their picture, and what is to be said of those that belong to none.

    Args:
        path: The table.
        classes: Of the model.
        everywhere: All pictures of the sources.
        pictures: Those to predict.

    Raises:
        DataError: an unknown class, a row of several pictures, or no row at all for these pictures.
    """
    rows = read_tag_table(path, lambda name: name.replace("\\", "/")).rows
    for row in rows.values():
        class_indices(row.tags, classes, f"{path} line {row.line}", "Correct the tag.")
    found = called({name: f"{path} line {row.line}" for name, row in rows.items()}, everywhere)
    known = {picture.file_name: rows[name] for name, picture in found.items()}
    without = [picture.file_name for picture in pictures if picture.file_name not in known]
    unused = [name for name in rows if name not in found]
    if len(without) == len(pictures):
        row_name = f"the first row says {next(iter(rows))!r}" if rows else "it has no row"
        raise DataError(
            f"{path} has no row for any of the pictures: {row_name}, the first picture is called "
            f"{pictures[0].file_name!r}. Write the pictures' paths below the source, or leave --tags out."
        )
    return known, (
        *about(
            without,
            severity="warning",
            code="pictures_without_row",
            message=f"{some(len(without), 'picture')} without a row in {path}, predicted as if nothing were known.",
            cure="Add a row for each, with an empty cell if it shows no class.",
        ),
        *about(
            unused,
            severity="note",
            code="rows_without_picture",
            message=f"{some(len(unused), 'row')} of {path} without a picture in the sources.",
            cure="Correct the names if their pictures are there.",
        ),
    )


def _check_out(out: Path, formats: Sequence[str], pictures: Sequence[NamedPicture]) -> None:
    """Refuse to write where other files would be replaced: a picture, or the masks and classes of a data set."""
    root, to_predict = out.resolve(), {picture.path.resolve() for picture in pictures}
    kinds = [("masks", "png"), ("overlays", "jpg")] if "png" in formats else []
    kinds += [("ids", "png")] if "ids" in formats else []
    for picture in pictures:
        for folder, suffix in kinds:
            if (made := root / folder / f"{picture.name}.{suffix}") in to_predict:
                raise FileExistsError(f"--out {out}: {made} is one of the pictures to predict. Choose another folder")
    if is_predicted(out):
        return
    places = ["classes.txt", "scores.csv", *(outputs.PLACES[name] for name in outputs.PLACES if name in formats)]
    places += [folder for folder, _ in kinds]
    if foreign := [place for place in places if (out / place).exists()]:
        raise FileExistsError(
            f"--out {out} holds {', '.join(foreign)}, not written by predict (there is no {out / 'manifest'}). "
            "Choose another folder, so that nothing is lost"
        )


def _earlier_results(
    out: Path, formats: Sequence[str], classes: Sequence[str], pictures: Sequence[NamedPicture]
) -> tuple[Finding, ...]:
    """What is said of files in OUT that an earlier call has written, and that this one does not replace.

    Raises:
        FileExistsError: they have other classes than this model, so that classes.txt would name them wrongly.
    """
    if not is_predicted(out):
        return ()
    names = {picture.name for picture in pictures}
    folders = {"masks": "png", "overlays": "png", "ids": "ids", "probs": "npz", "yolo/labels": "yolo"}
    folders |= {"geojson": "geojson", "voc/SegmentationClass": "voc", "voc/SegmentationObject": "voc"}
    old = [out / place for name, place in outputs.PLACES.items() if Path(place).suffix and name not in formats]
    for folder, name in folders.items():
        files = (path for path in sorted((out / folder).rglob("*")) if not path.name.startswith("."))
        replaced = names if name in formats else set()
        old += [path for path in files if path.relative_to(out / folder).with_suffix("").as_posix() not in replaced]
    left = [path.relative_to(out).as_posix() for path in old if path.is_file()]
    if not left:
        return ()
    listed = out / "classes.txt"
    before = tuple(listed.read_text(encoding="utf-8").splitlines()) if listed.is_file() else tuple(classes)
    if before != tuple(classes):
        raise FileExistsError(
            f"--out {out} holds {some(len(left), 'file')} of an earlier call that this one would not replace "
            f"({left[0]}), with the classes {', '.join(before)}; this model has {', '.join(classes)}. Choose another "
            "folder, or remove the files"
        )
    return (
        Finding(
            severity="note",
            code="earlier_results",
            message=f"{are(len(left), 'file')} in {out} from an earlier call, of other pictures or formats; they stay, "
            "and scores.csv does not speak of them.",
            cure="If they should not be mixed, remove them or choose another --out.",
            **named(left),
        ),
    )


def _reason(error: Exception, picture: NamedPicture) -> str:
    """Why a picture could not be done; an error that is not about the picture is raised."""
    if (reason := ran_out(error)) is not None:
        return (
            f"{picture.path} does not fit into memory ({reason}). Predict it in smaller tiles (--tile 512), without "
            "--crf, or at fewer and smaller --scales."
        )
    if isinstance(error, RuntimeError):
        raise error
    return str(error)


def _settings(
    run: str | Path | Segmenter,
    sources: Sequence[str | Path],
    formats: Sequence[str],
    crf: CRFChoice,
    scales: Sequence[float],
    flip: bool,
    tags: str | Path | None,
    options: outputs.OutputOptions,
    rank: bool,
    tile: int | None,
    max_pixels: int,
) -> str:
    """A word for everything that changes what is written for a picture."""
    model: str
    if isinstance(run, Segmenter):
        model = uuid.uuid4().hex  # nobody knows what it is made of: never taken for an earlier one
    else:
        file = model_file(Path(run))
        model = file_digest(file) if file.is_file() else str(run)
    refine = resolve_crf(crf)
    return fingerprint(
        {
            "version": __version__,
            "model": model,
            "sources": list(map(str, sources)),  # names may mean other pictures of other sources
            "formats": sorted(formats),
            "crf": None if refine is None else asdict(refine),
            "scales": list(scales),
            "flip": flip,
            "tags": None if tags is None else file_digest(Path(tags)),
            "options": asdict(options),
            "rank": rank,
            "tile": tile,
            "max_pixels": max_pixels,
        }
    )


def _remove_parts(out: Path) -> None:
    """Remove what a killed process was writing."""
    for folder in ("masks", "ids", "overlays", "probs", "results", _HIDDEN_MASKS):
        for path in (out / folder).rglob(".*.part.*"):
            path.unlink(missing_ok=True)


def _gather(
    everything: Gathered,
    pictures: Sequence[NamedPicture],
    out: Path,
    masks: Path,
    formats: Sequence[str],
    classes: Sequence[str],
    options: outputs.OutputOptions,
    competition: voc_archive.Competition | None,
) -> None:
    """Write what holds all pictures: scores.csv, the files of annotation tools, the archive."""
    failed, rows = 0, 0
    order: list[ranking.Ranked] = []
    tools = [name for name in outputs.WRITERS if name in formats]
    with (
        whole_file(out / "scores.csv") as table,
        table.open("w", newline="", encoding="utf-8") as file,
        outputs.writers(out, formats, classes, options) as add,
    ):
        writer = csv.writer(file)
        writer.writerow(["file_name", *classes])
        lines = everything.lines([picture.name for picture in pictures])
        for picture, (_, line) in zip(pictures, lines, strict=True):
            if line.error is not None:
                failed += 1
                continue
            rows += 1
            writer.writerow([picture.file_name, *(f"{score:.6f}" for score in line.scores.values())])
            mask_file = masks / f"{picture.name}.png"
            if "review" in line.more:
                made = ranking.Review(*line.more["review"])
                order.append(ranking.Ranked(picture.file_name, picture.path, mask_file, made))
            if tools:
                with opened(mask_file, None) as mask:
                    labels = np.asarray(mask)
                add(outputs.LabeledPicture(picture.name, picture.file_name, labels, line.scores))
    if order:
        order = ranking.ranked(order)
        ranking.write_table(out / "rank.csv", order)
        write_page(out / "rank.html", order, classes)
    if not rows:
        (out / "scores.csv").unlink()
    if competition is not None and not failed:
        names = voc_archive.result_names(picture.file_name for picture in pictures)
        voc_archive.pack_results(out, competition, names)


def _write_prediction(result: Prediction, name: str, out: Path, formats: Sequence[str]) -> None:
    if "png" in formats:
        render.save_mask(out / "masks" / f"{name}.png", result.mask)
        render.save_picture(out / "overlays" / f"{name}.jpg", result.overlay())
    if "ids" in formats:
        render.save_mask(out / "ids" / f"{name}.png", result.mask, palette=False)
    if "npz" in formats:
        probs, labels = _half_probs(result), np.array(["background", *result.classes])
        write_atomically(out / "probs" / f"{name}.npz", lambda p: np.savez_compressed(p, probs=probs, labels=labels))


def _half_probs(result: Prediction) -> NDArray[np.float16]:
    """Probabilities float16 [K, H, W], without those of a large picture in float32."""
    probs = stored((len(result.classes) + 1, *result.mask.shape), np.float16)
    for rows, columns, part in result.parts():
        probs[:, rows, columns] = part
    return probs
