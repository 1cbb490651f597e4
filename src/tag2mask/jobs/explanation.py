"""One picture step by step: tag scores, CAMs, the teacher's maps, CRF votes, reliable labels, prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import check_folder, write_text
from tag2mask.base.options import public
from tag2mask.config import IGNORE, CRFParams
from tag2mask.config.inference import Inference
from tag2mask.inference.first_step import likely_classes, maps_by_name, picture_taught, tag_vector
from tag2mask.inference.segmenter import Segmenter, need_network
from tag2mask.inference.sources import Source, as_rgb
from tag2mask.method import Taught
from tag2mask.outputs import render

Cells: TypeAlias = list[tuple[str, NDArray[np.uint8]]]
"""Captions and pictures uint8 [H, W, 3] of a sheet."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `explain` found and wrote."""

    sheet: Path
    """PNG with every step."""
    json: Path
    """The numbers of `steps`."""
    steps: dict[str, Any]


@public
def explain(
    run: str | Path | Segmenter,
    image: Source,
    out: str | Path,
    *,
    inference: Inference | None = None,
    device: str = "auto",
    **options: Any,
) -> Explanation:
    """Show how the method labels one picture, and what the trained network predicts.

    CAMs, the teacher's maps, votes and reliable labels are those of the end of the training (`picture_taught`), on the
    whole picture at the network's size and without dropout. The classes are `tags`, else those with a tag score above
    0.5, else the one with the best score.

    Args:
        run: Run folder, .safetensors file or `Segmenter`.
        image: The picture.
        out: Folder for NAME.png (the sheet) and NAME.json.
        inference: How the network predicts; None is `Inference(crf=True)`. With a CRF the prediction is shown without
            it too.
        device: Where the network runs.
        options: Fields of `Inference` by name, such as `tags`, the classes known to be in the picture (may be empty).

    Raises:
        ValueError: an unknown tag or an unusable picture.
        FileExistsError: the sheet would replace the picture.
    """
    name = Path(image).stem if isinstance(image, (str, Path)) else "picture"
    if isinstance(image, (str, Path)) and Path(image).resolve() == (Path(out) / f"{name}.png").resolve():
        raise FileExistsError(f"--out {out}: the sheet would replace the picture {image}. Choose another folder")
    need_network(run, "explain", "tag2mask predict MODEL PICTURE --out DIR shows the mask alone")
    check_folder(Path(out))
    inference = (inference or Inference(crf=True)).replace(**options)
    segmenter = Segmenter.load(run, device=device)
    rgb, classes = as_rgb(image, inference.max_pixels), segmenter.classes
    prediction = segmenter.predict(rgb, inference, crf=None)
    names = likely_classes(prediction.tag_scores)
    if inference.tags is not None:
        allowed = segmenter.allowed_labels([str(tag) for tag in inference.tags])
        names = [name for name, known in zip(classes, allowed[1:], strict=True) if known]
    lesson = picture_taught(segmenter, rgb, tag_vector(segmenter, names))
    small = segmenter.network.resized(rgb).permute(1, 2, 0).cpu().numpy()
    cells, labels = _lesson(lesson, small, names, classes)
    cells.append(("prediction", render.blend_labels(rgb, prediction.mask)))
    steps: dict[str, Any] = {
        "picture": name,
        "size": list(rgb.shape[:2]),
        "network_size": list(small.shape[:2]),
        "tag_scores": prediction.tag_scores,
        "classes": names,
        "classes_from": "tag scores" if inference.tags is None else "given tags",
        "cam": _numbers(maps_by_name(lesson.cams, names, classes)),
        "teacher": None if lesson.teacher is None else _numbers(maps_by_name(lesson.teacher, names, classes)),
        "teacher_share": lesson.teacher_share,
        **{key: shares(each, classes) for key, each in labels.items()},
        "prediction": shares(prediction.mask, classes),
        "rule": asdict(lesson.rule),
    }
    if isinstance(inference.crf, CRFParams):
        refined = segmenter.predict(rgb, inference).mask
        cells.append(("prediction with CRF", render.blend_labels(rgb, refined)))
        steps["prediction_with_crf"] = shares(refined, classes) | {"crf": asdict(inference.crf)}
    return _write(Path(out), name, classes, cells, steps)


def _lesson(
    lesson: Taught, small: NDArray[np.uint8], names: Sequence[str], classes: Sequence[str]
) -> tuple[Cells, dict[str, NDArray[Any]]]:
    """What the network is taught of a picture [h, w, 3]: as cells of the sheet, and the labels of each step."""
    cells: Cells = [("picture", small)]
    for caption, maps in (
        ("CAM of {}", lesson.cams),
        (f"teacher's map of {{}} (share {lesson.teacher_share:g})", lesson.teacher),
    ):
        found = maps_by_name(maps, names, classes)
        cells += [(caption.format(name), render.heat_map(small, each)) for name, each in found.items()]
    votes, rule = lesson.votes_of(0), lesson.rule
    assert votes is not None  # there is no true mask
    low, high = (vote.cpu().numpy() for vote in votes)
    cells.append((f"CRF vote for objects (power {rule.foreground_power:g})", render.blend_labels(small, low)))
    if rule.votes == "two":
        caption = f"CRF vote for background (power {rule.background_power:g})"
        cells.append((caption, render.blend_labels(small, high)))
    labels = lesson.labels[0].cpu().numpy()
    cells.append(("reliable labels (hatched: teaches nothing)", render.color_labels(labels)))
    return cells, {"foreground_vote": low, "background_vote": high, "reliable_labels": labels}


def _numbers(maps: dict[str, NDArray[np.float32]]) -> dict[str, dict[str, float]]:
    return {
        name: {"mean": float(each.mean()), "share_above_0.5": float((each > 0.5).mean())} for name, each in maps.items()
    }


def shares(labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
    """Share of the pixels per label that occurs, in 0..1; 255 is called "ignored"."""
    counts = label_counts(labels) / labels.size
    names = {0: "background", IGNORE: "ignored"} | {i: n for i, n in enumerate(classes, start=1)}
    return {names[int(i)]: float(counts[i]) for i in np.flatnonzero(counts)}


def _write(out: Path, name: str, classes: tuple[str, ...], cells: Cells, steps: dict[str, Any]) -> Explanation:
    title = f"{name}: " + ", ".join(f"{n} {score:.2f}" for n, score in steps["tag_scores"].items())
    maps = ("foreground_vote", "background_vote", "reliable_labels", "prediction", "prediction_with_crf")
    used = [n for n in classes if any(n in steps.get(key, ()) for key in maps)]
    sheet = render.captioned_grid(cells, columns=4, title=title, labels=used, classes=classes)
    return Explanation(
        sheet=render.save_picture(out / f"{name}.png", sheet),
        json=write_text(out / f"{name}.json", json.dumps(steps, indent=2) + "\n"),
        steps=steps,
    )
