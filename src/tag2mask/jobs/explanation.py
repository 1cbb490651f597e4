"""One picture step by step: tag scores, CAMs, the teacher's maps, CRF votes, reliable labels, prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tag2mask.base.files import check_folder, write_text
from tag2mask.base.spelling import class_name
from tag2mask.config import IGNORE, CRFParams
from tag2mask.inference.first_step import picture_taught, tag_vector
from tag2mask.inference.sources import Source, as_rgb
from tag2mask.inference.torch_backend import CRFChoice, Segmenter, need_network, resolve_crf
from tag2mask.outputs import render


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `explain` found and wrote."""

    sheet: Path
    """PNG with every step."""
    json: Path
    """The numbers of `steps`."""
    steps: dict[str, Any]


def explain(
    run: str | Path | Segmenter,
    image: Source,
    out: str | Path,
    *,
    tags: Sequence[str] | None = None,
    crf: CRFChoice = True,
    device: str = "auto",
) -> Explanation:
    """Show how the method labels one picture, and what the trained network predicts.

    CAMs, the teacher's maps, votes and reliable labels are those of the end of the training (`picture_taught`), on the
    whole picture at the network's size and without dropout. The classes are `tags`, else those with a tag score above
    0.5, else the one with the best score.

    Args:
        run: Run folder, .safetensors file or `Segmenter`.
        image: The picture.
        out: Folder for NAME.png (the sheet) and NAME.json.
        tags: Classes known to be in the picture; may be empty.
        crf: CRF of the last prediction (see `Segmenter.predict`); None leaves it out.
        device: Where the network runs.

    Raises:
        ValueError: an unknown tag or an unusable picture.
    """
    if isinstance(image, (str, Path)) and Path(image).resolve() == (Path(out) / f"{Path(image).stem}.png").resolve():
        raise FileExistsError(f"--out {out}: the sheet would replace the picture {image}. Choose another folder")
    need_network(run, "explain", "tag2mask predict MODEL PICTURE --out DIR shows the mask alone")
    check_folder(Path(out))
    segmenter = run if isinstance(run, Segmenter) else Segmenter.load(run, device=device)
    rgb, name = as_rgb(image), Path(image).stem if isinstance(image, (str, Path)) else "picture"
    prediction = segmenter.predict(rgb, tags=tags)
    known = None if tags is None else [class_name(name) for name in tags]
    names = _classes(prediction.tag_scores) if known is None else [n for n in segmenter.classes if n in known]
    lesson = picture_taught(segmenter, rgb, tag_vector(segmenter, names))
    rule, labels = lesson.rule, lesson.labels[0].cpu().numpy()
    votes = lesson.votes_of(0)
    assert votes is not None
    low, high = (vote.cpu().numpy() for vote in votes)
    picture = segmenter.resized(rgb).permute(1, 2, 0).cpu().numpy()
    cells = [("picture", picture)]
    cells += [(f"CAM of {n}", render.heat_map(picture, _map(segmenter, lesson.cams, n))) for n in names]
    if lesson.teacher is not None:
        caption = f"teacher's map of {{}} (share {lesson.teacher_share:g})"
        cells += [(caption.format(n), render.heat_map(picture, _map(segmenter, lesson.teacher, n))) for n in names]
    cells.append((f"CRF vote for objects (power {rule.foreground_power:g})", render.blend_labels(picture, low)))
    if rule.votes == "two":
        caption = f"CRF vote for background (power {rule.background_power:g})"
        cells.append((caption, render.blend_labels(picture, high)))
    cells += [
        ("reliable labels (hatched: teaches nothing)", render.color_labels(labels)),
        ("prediction", render.blend_labels(rgb, prediction.mask)),
    ]
    steps: dict[str, Any] = {
        "picture": name,
        "size": list(rgb.shape[:2]),
        "network_size": list(picture.shape[:2]),
        "tag_scores": prediction.tag_scores,
        "classes": names,
        "classes_from": "tag scores" if tags is None else "given tags",
        "cam": {n: _numbers(_map(segmenter, lesson.cams, n)) for n in names},
        "teacher": None if lesson.teacher is None else {n: _numbers(_map(segmenter, lesson.teacher, n)) for n in names},
        "teacher_share": lesson.teacher_share,
        "foreground_vote": shares(low, segmenter.classes),
        "background_vote": shares(high, segmenter.classes),
        "reliable_labels": shares(labels, segmenter.classes),
        "prediction": shares(prediction.mask, segmenter.classes),
        "rule": asdict(rule),
    }
    if (params := resolve_crf(crf)) is not None:
        _add_refined(segmenter, rgb, tags, params, cells, steps)
    return _write(Path(out), name, segmenter, cells, steps)


def _classes(scores: dict[str, float]) -> list[str]:
    return [n for n, score in scores.items() if score > 0.5] or [max(scores, key=lambda n: scores[n])]


def _map(segmenter: Segmenter, maps: Tensor, name: str) -> NDArray[np.float32]:
    return np.asarray(maps[0, segmenter.classes.index(name)].cpu().numpy(), dtype=np.float32)


def _numbers(values: NDArray[np.float32]) -> dict[str, float]:
    return {"mean": float(values.mean()), "share_above_0.5": float((values > 0.5).mean())}


def shares(labels: NDArray[Any], classes: Sequence[str]) -> dict[str, float]:
    """Share of the pixels per label that occurs, in 0..1; 255 is called "ignored"."""
    counts = np.bincount(labels.astype(np.int64).ravel(), minlength=256) / labels.size
    names = {0: "background", IGNORE: "ignored"} | {i: n for i, n in enumerate(classes, start=1)}
    return {names[int(i)]: float(counts[i]) for i in np.flatnonzero(counts)}


def _add_refined(
    segmenter: Segmenter,
    rgb: NDArray[np.uint8],
    tags: Sequence[str] | None,
    params: CRFParams,
    cells: list[tuple[str, NDArray[np.uint8]]],
    steps: dict[str, Any],
) -> None:
    refined = segmenter.predict(rgb, tags=tags, crf=params).mask
    cells.append(("prediction with CRF", render.blend_labels(rgb, refined)))
    steps["prediction_with_crf"] = shares(refined, segmenter.classes) | {"crf": asdict(params)}


def _write(
    out: Path, name: str, segmenter: Segmenter, cells: list[tuple[str, NDArray[np.uint8]]], steps: dict[str, Any]
) -> Explanation:
    title = f"{name}: " + ", ".join(f"{n} {score:.2f}" for n, score in steps["tag_scores"].items())
    maps = ("foreground_vote", "background_vote", "reliable_labels", "prediction", "prediction_with_crf")
    used = [n for n in segmenter.classes if any(n in steps.get(key, ()) for key in maps)]
    sheet = render.captioned_grid(cells, columns=4, title=title, labels=used, classes=segmenter.classes)
    return Explanation(
        sheet=render.save_picture(out / f"{name}.png", sheet),
        json=write_text(out / f"{name}.json", json.dumps(steps, indent=2) + "\n"),
        steps=steps,
    )
