"""Masks of many pictures as files; `Segmenter.predict` makes each."""

from __future__ import annotations

import csv
import logging
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask import __version__, outputs, ranking, render, voc_archive
from tag2mask.config import MAX_PIXELS
from tag2mask.data.pictures import PictureTooLarge, opened
from tag2mask.data.tables import class_indices, read_tag_table
from tag2mask.files import model_file, whole_file, write_atomically, write_text
from tag2mask.formats import OUTPUT_FORMATS, OutputFormat
from tag2mask.manifest import Gathered, Manifest, Share, file_digest, fingerprint
from tag2mask.memory import ran_out
from tag2mask.prediction import CRFChoice, Prediction, Segmenter, check_scales, resolve_crf
from tag2mask.ranking import review
from tag2mask.sources import NamedPicture, find_pictures, only_listed
from tag2mask.tiling import check_limits, stored

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
) -> PredictSummary:
    """Write masks of pictures: OUT/masks/NAME.png, OUT/overlays/NAME.jpg, OUT/scores.csv and OUT/classes.txt.

    NAME is the picture's path below the folder or glob that named it, without suffix. Files of an earlier call are
    replaced. A broken picture is reported in `errors` and the others are done.

    A call that was killed goes on when it is repeated with the same model and options: OUT/manifest says what is done.
    Several processes of a job (RANK and WORLD_SIZE, as torchrun sets them) share the pictures.

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
            it does not list are done without.
        list_file: Only the pictures that this file names, one per line, without or with suffix.
        rank: Also write OUT/rank.csv and OUT/rank.html: which pictures a person should look at first
            (`tag2mask.ranking.Review`).
        options: How the formats of annotation tools write objects.
        tile: Side of overlapping tiles in pixels (see `Segmenter.predict`).
        max_pixels: Pictures with more pixels are left out; they are in `errors`.
        device: Where the network runs.
        progress: Called with (done, all).

    Raises:
        ValueError, FileNotFoundError: nothing could be started: no model, no picture, a bad table or list, or classes
            or names of pictures that a format cannot hold.
    """
    if unknown := sorted(set(formats) - set(OUTPUT_FORMATS)):
        raise ValueError(f"--format must be one of {', '.join(OUTPUT_FORMATS)}, got {', '.join(unknown)}.")
    out, competition = Path(out), voc_archive.competition_of(formats)
    pictures = find_pictures([sources] if isinstance(sources, (str, Path)) else sources)
    if list_file is not None:
        pictures = only_listed(pictures, Path(list_file))
    known = {} if tags is None else read_tag_table(Path(tags), lambda name: name.replace("\\", "/")).rows
    segmenter = run if isinstance(run, Segmenter) else Segmenter.load(run, device=device)
    check_limits(tile, max_pixels)
    check_scales(scales)  # this and a misspelled class are found before any work
    for line in known.values():
        class_indices(line.tags, segmenter.classes, f"{tags} line {line.line}", "Correct the tag.")
    for name in outputs.BY_STEM.intersection(formats):
        outputs.check_stems([_file_name(picture) for picture in pictures], name)
    if competition is not None:
        voc_archive.result_names([picture.path for picture in pictures])
        ids = voc_archive.voc_ids(segmenter.classes)
    gathered = rank or bool(outputs.WRITERS.keys() & set(formats))
    masks = out / ("masks" if "png" in formats else _HIDDEN_MASKS)
    options = options or outputs.OutputOptions()
    settings = _settings(run, formats, crf, scales, flip, tags, options, rank, tile, max_pixels)
    share = Share.of_environment()
    own = share.range(len(pictures))
    written, errors, too_large = [], {}, 0
    with Manifest(out, settings, share) as manifest:
        if manifest.goes_on:
            log.info("%d of %d pictures are done already: going on", len(manifest.done), len(pictures))
            if share.count == 1:
                _remove_parts(out)
        elif competition is not None:
            (out / "results.tgz").unlink(missing_ok=True)  # an older one would be taken for this one
        for done, picture in enumerate((pictures[i] for i in own), start=1):
            if picture.name in manifest.done:
                written.append(picture.name)
            else:
                try:
                    row = known.get(picture.relative, known.get(picture.path.name))
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
                        voc_archive.save_result(out, competition, picture.path.stem, result.mask, ids)
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
        everything = manifest.finished([picture.name for picture in pictures])
        if everything is None:
            return PredictSummary(out=out, written=tuple(written), errors=errors, too_large=too_large, complete=False)
        archive = _gather(everything, pictures, out, masks, formats, segmenter.classes, options, competition)
        manifest.close_round()
    shutil.rmtree(out / _HIDDEN_MASKS, ignore_errors=True)
    files = {name: out / place for name, place in outputs.PLACES.items() if name in formats}
    return PredictSummary(
        out=out, written=tuple(written), errors=errors, too_large=too_large, archive=archive, files=files
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
) -> Path | None:
    """Write what holds all pictures: scores.csv, the files of annotation tools, the archive; return the archive."""
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
            writer.writerow([picture.relative, *(f"{score:.6f}" for score in line.scores.values())])
            mask_file = masks / f"{picture.name}.png"
            if "review" in line.more:
                made = ranking.Review(*line.more["review"])
                order.append(ranking.Ranked(picture.relative, picture.path, mask_file, made))
            if tools:
                with opened(mask_file, None) as mask:
                    labels = np.asarray(mask)
                add(outputs.LabeledPicture(picture.name, _file_name(picture), labels, line.scores))
    if order:
        order = ranking.ranked(order)
        ranking.write_table(out / "rank.csv", order)
        ranking.write_page(out / "rank.html", order, classes)
    if not rows:
        (out / "scores.csv").unlink()
    if competition is None or failed:
        return None
    return voc_archive.pack_results(out, competition, voc_archive.result_names([p.path for p in pictures]))


def _file_name(picture: NamedPicture) -> str:
    """The picture's path below its source; where two sources have one of that name, the longer unique name."""
    without = str(PurePosixPath(picture.relative).with_suffix(""))
    return picture.relative if picture.name in (without, picture.relative) else picture.name


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
