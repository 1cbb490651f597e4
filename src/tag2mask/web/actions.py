"""What the page does, without the page: look at a picture, save its masks, read a ranked list. Needs no Gradio."""

from __future__ import annotations

import csv
import logging
import shlex
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask import outputs
from tag2mask.base.spelling import existing
from tag2mask.data.storage.tables import safe_name
from tag2mask.inference.prediction import Prediction
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.sources import as_rgb
from tag2mask.outputs import render

_log = logging.getLogger("tag2mask")


class Look(NamedTuple):
    """What the page shows about one picture."""

    prediction: Prediction
    overlay: Image.Image
    """The picture with its mask and a legend."""
    steps: list[tuple[Image.Image, str]]
    """Class activation maps and reliable labels with their captions; empty for models without a tag branch."""
    scores: dict[str, float]
    """Tag score per class in 0..1."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Files made for one picture."""

    mask: Path
    """Indexed PNG with the VOC palette: 0 background, 1 the first class, ..."""
    coco: Path
    overlay: Path


class RankedPicture(NamedTuple):
    """One line of a ranked list."""

    title: str
    path: Path


def look(segmenter: Segmenter, picture: str | Path, *, crf: bool = False, tags: Sequence[str] = ()) -> Look:
    """Predict a picture, `tags` of which are known (none: all classes are open), and show the steps to it.

    Raises:
        ValueError: the file is no picture.
    """
    rgb = as_rgb(picture)
    prediction = segmenter.predict(rgb, crf=crf, tags=list(tags) or None)
    return Look(prediction, prediction.overlay(), _steps(segmenter, rgb, prediction, tags), prediction.tag_scores)


def _steps(
    segmenter: Segmenter, rgb: NDArray[np.uint8], prediction: Prediction, tags: Sequence[str]
) -> list[tuple[Image.Image, str]]:
    if not segmenter.has_maps(rgb):
        return []
    from tag2mask.inference.first_step import likely_classes, maps_by_name, picture_taught, tag_vector

    names = list(tags) or likely_classes(prediction.tag_scores)
    lesson = picture_taught(segmenter, rgb, tag_vector(segmenter, names))
    height, width = lesson.labels.shape[1:]
    small = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
    steps = [
        (Image.fromarray(render.heat_map(small, each)), f"{caption}: {name}")
        for caption, maps in (("CAM", lesson.cams), ("teacher", lesson.teacher))
        for name, each in maps_by_name(maps, names, segmenter.classes).items()
    ]
    labels = Image.fromarray(render.color_labels(lesson.labels[0].cpu().numpy()))
    return [*steps, (labels, "reliable labels (hatched: none)")]


def save(folder: Path, name: str, prediction: Prediction) -> Saved:
    """Write the mask as PNG, as COCO JSON, and the overlay into a new folder of their own below `folder`.

    They are called after the last part of `name`, the file of the picture.
    """
    base = PurePosixPath(name.replace("\\", "/")).name or "picture"
    stem = PurePosixPath(base).stem or "picture"
    place = folder / uuid.uuid4().hex
    mask = render.save_mask(place / f"{stem}.png", prediction.mask)
    overlay = render.save_picture(place / f"{stem}-overlay.jpg", prediction.overlay())
    with outputs.writers(place, ("coco",), prediction.classes, outputs.OutputOptions()) as add:
        add(outputs.LabeledPicture(stem, base, prediction.mask, prediction.tag_scores))
    coco = (place / outputs.PLACES["coco"]).rename(place / f"{stem}-coco.json")
    return Saved(mask=mask, coco=coco, overlay=overlay)


def ranked_list(ranked: Path, pictures: Path, most: int = 500) -> list[RankedPicture]:
    """The first `most` lines of the rank.csv that `predict --rank` wrote into `ranked`, with the files of the pictures.

    Nothing outside `pictures`, the folder that predict was given, is shown.

    Raises:
        FileNotFoundError: there is no rank.csv, or none of its pictures.
        ValueError: it has other columns, or a name that leaves the folder.
    """
    path = ranked / "rank.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}; write it with: tag2mask predict RUN PICTURES --rank --out {shlex.quote(str(ranked))}"
        )
    root, found, missing = pictures.resolve(), list[RankedPicture](), list[str]()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not {"rank", "file", "score", "reason"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} needs the columns rank, file, score and reason, as tag2mask predict --rank writes"
            )
        for row in reader:
            name = safe_name(row["file"], f"{path} line {reader.line_num}")
            picture = (existing(root, name) or root / name).resolve()
            if picture.is_relative_to(root) and picture.is_file():
                found.append(RankedPicture(f"{row['rank']}. {name} ({row['score']}): {row['reason']}", picture))
            else:
                missing.append(name)
            if len(found) == most:
                _log.info("The list shows the first %d pictures of %s.", most, path)
                break
    if not found:
        raise FileNotFoundError(f"None of the pictures of {path} is in {pictures}; give the folder with --pictures DIR")
    if missing:
        some = ", ".join(missing[:3])
        _log.warning("%d pictures of %s are not in %s, so not in the list: %s.", len(missing), path, pictures, some)
    return found
