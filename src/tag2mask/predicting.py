"""Masks of many pictures as files; `Segmenter.predict` makes each."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from tag2mask import outputs, render, voc_archive
from tag2mask.data.tables import class_indices, read_tag_table
from tag2mask.files import write_atomically, write_text
from tag2mask.formats import OUTPUT_FORMATS, OutputFormat
from tag2mask.prediction import CRFChoice, Prediction, Segmenter, check_scales
from tag2mask.sources import NamedPicture, find_pictures, only_listed


@dataclass(frozen=True, kw_only=True)
class PredictSummary:
    """What `predict` wrote."""

    out: Path
    written: tuple[str, ...]
    """Names of the pictures done: masks/NAME.png, overlays/NAME.jpg."""
    errors: dict[str, str]
    """Message per picture that could not be done."""
    archive: Path | None = None
    """results.tgz of the formats comp5 and comp6; None where a picture could not be done."""
    files: dict[str, Path] = field(default_factory=dict)
    """File or folder of each other format: coco, yolo, label-studio, cvat, geojson, voc."""


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
    options: outputs.OutputOptions | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> PredictSummary:
    """Write masks of pictures: OUT/masks/NAME.png, OUT/overlays/NAME.jpg, OUT/scores.csv and OUT/classes.txt.

    NAME is the picture's path below the folder or glob that named it, without suffix. Files of an earlier call are
    replaced. A broken picture is reported in `errors` and the others are done.

    Args:
        run: Run folder, .safetensors or .onnx file, or `Segmenter`.
        sources: Files, folders, globs.
        out: Folder, made if needed.
        formats: `png` for masks with the VOC palette and overlays; `npz` for OUT/probs/NAME.npz with `probs`
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
        options: How the formats of annotation tools write objects.
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
    check_scales(scales)  # this and a misspelled class are found before any work
    for line in known.values():
        class_indices(line.tags, segmenter.classes, f"{tags} line {line.line}", "Correct the tag.")
    for name in outputs.BY_STEM.intersection(formats):
        outputs.check_stems([_file_name(picture) for picture in pictures], name)
    written, errors, rows, archive = [], {}, [], None
    if competition is not None:
        results = voc_archive.result_names([picture.path for picture in pictures])
        ids = voc_archive.voc_ids(segmenter.classes)
        (out / "results.tgz").unlink(missing_ok=True)  # an older one would be taken for this one
    with outputs.writers(out, formats, segmenter.classes, options or outputs.OutputOptions()) as add:
        for done, picture in enumerate(pictures, start=1):
            try:
                row = known.get(picture.relative, known.get(picture.path.name))
                present = None if row is None else row.tags
                result = segmenter.predict(picture.path, crf=crf, scales=scales, flip=flip, tags=present)
                _write_prediction(result, picture.name, out, formats)
                if competition is not None:
                    voc_archive.save_result(out, competition, picture.path.stem, result.mask, ids)
                written.append(picture.name)
                rows.append([picture.relative, *(f"{score:.6f}" for score in result.tag_scores.values())])
            except (ValueError, OSError) as error:
                errors[str(picture.path)] = str(error)
            else:  # an error in here leaves no half file, but ends the call
                add(outputs.LabeledPicture(picture.name, _file_name(picture), result.mask, result.tag_scores))
            if progress is not None:
                progress(done, len(pictures))
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in segmenter.classes))
    if rows:
        write_atomically(out / "scores.csv", lambda p: _write_table(p, ["file_name", *segmenter.classes], rows))
    if competition is not None and not errors:
        archive = voc_archive.pack_results(out, competition, results)
    files = {name: out / place for name, place in outputs.PLACES.items() if name in formats}
    return PredictSummary(out=out, written=tuple(written), errors=errors, archive=archive, files=files)


def _file_name(picture: NamedPicture) -> str:
    """The picture's path below its source; where two sources have one of that name, the longer unique name."""
    without = str(PurePosixPath(picture.relative).with_suffix(""))
    return picture.relative if picture.name in (without, picture.relative) else picture.name


def _write_prediction(result: Prediction, name: str, out: Path, formats: Sequence[str]) -> None:
    if "png" in formats:
        render.save_mask(out / "masks" / f"{name}.png", result.mask)
        render.save_picture(out / "overlays" / f"{name}.jpg", result.overlay())
    if "npz" in formats:
        probs, labels = result.probs.astype(np.float16), np.array(["background", *result.classes])
        write_atomically(out / "probs" / f"{name}.npz", lambda p: np.savez_compressed(p, probs=probs, labels=labels))


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
