"""Masks of the training pictures for the second step (method 7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tag2mask.base.files import check_folder, write_text
from tag2mask.config import IGNORE
from tag2mask.config.formats import DataOptions
from tag2mask.config.inference import CRFChoice, resolve_crf
from tag2mask.data import PictureError, PictureSet, open_data, read_picture
from tag2mask.data.findings import Finding, log_findings, named, some
from tag2mask.data.masks.labels import PSEUDO_LABELS
from tag2mask.data.storage.result_names import name_key, result_names
from tag2mask.inference.score_maps import probability_parts
from tag2mask.inference.segmenter import Segmenter, need_network
from tag2mask.outputs import render
from tag2mask.runs.learned import NEARLY_ALL
from tag2mask.scoring.evaluation import Progress, tracked

log = logging.getLogger("tag2mask")
_EMPTY = "masks_without_objects"


@dataclass(frozen=True, kw_only=True)
class PseudoLabelSummary:
    """What `pseudo_label` wrote."""

    out: Path
    backbone: str
    """Of the network that drew the masks: a second network on the same one can start from it."""
    num_images: int
    ignored_share: float
    """Share of all pixels that are 255 for lack of confidence, in 0..1."""
    errors: dict[str, str]
    """Message per picture that could not be done."""
    background_only: int = 0
    """Masks of tagged pictures that show no object."""
    findings: tuple[Finding, ...] = ()
    """What was left out of the data set, or may not be what it was taken for; what is wrong with the masks."""

    @property
    def shows_nothing(self) -> bool:
        """Whether no more is in the masks than a network could learn nothing from."""
        return any(each.code == _EMPTY and each.severity == "warning" for each in self.findings)


def pseudo_label(
    run: str | Path | Segmenter,
    *,
    data: str | Path,
    out: str | Path,
    split: str | None = None,
    crf: CRFChoice = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    min_confidence: float = 0.0,
    device: str = "auto",
    progress: Progress | None = None,
    data_options: DataOptions | None = None,
    **fields: Any,
) -> PseudoLabelSummary:
    """Write OUT/NAME.png for every picture: labels 0..C of the data's class list, only those of the picture's tags.

    Args:
        run: Run folder, .safetensors file or `Segmenter`.
        data: Data set with tags.
        out: Folder of the masks; classes.txt in it names the labels, `pseudo_labels.json` says how they were made.
        split: Name of a split or a file with one picture per line; None is the split to train on.
        crf: Refine the probabilities (see `Segmenter.predict`).
        scales: Factors on the network's picture size.
        flip: Average with the mirrored picture.
        min_confidence: Pixels to whose label the network gives a lower probability become 255; 0 keeps all. With a CRF
            this is still the probability before it: those after it lie near 1 almost everywhere, right or wrong.
        device: Where the network runs.
        progress: Called with (done, all).
        data_options: How `data` is read where looking is not enough; said in `pseudo_labels.json`.
        fields: Fields of `data_options` by name, as `data_format`.

    Raises:
        ValueError: tags that the run does not know, two pictures whose names some systems take for one, or masks of the
            data set in the way.
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"--min-confidence must lie in [0, 1], got {min_confidence}.")
    need_network(run, "pseudo-label", "tag2mask predict MODEL PICTURES --tags FILE --out DIR knows the tags as well")
    out, params = Path(out), resolve_crf(crf)
    check_folder(out)
    reading = DataOptions.merged(data_options, fields)
    pictures = open_data(data, split=split, options=reading)
    log_findings(pictures.findings, log)
    places = _places(pictures, out)
    segmenter = run if isinstance(run, Segmenter) else Segmenter.load(run, device=device)
    findings = (*pictures.findings, *segmenter.findings)
    if unknown := [name for name in pictures.classes if name not in segmenter.classes]:
        raise ValueError(f"The run does not know {', '.join(unknown)}; its classes are {', '.join(segmenter.classes)}.")
    to_data = np.zeros(256, dtype=np.uint8)
    to_data[IGNORE] = IGNORE
    for i, name in enumerate(pictures.classes):
        to_data[segmenter.classes.index(name) + 1] = i + 1
    ignored, total, errors, empty, tagged = 0, 0, {}, [], 0
    for picture, place in tracked(list(zip(pictures.pictures, places, strict=True)), progress):
        try:
            rgb = read_picture(picture.path)
        except (PictureError, OSError) as error:
            errors[str(picture.path)] = str(error)
            continue
        allowed = segmenter.allowed_labels([pictures.classes[i] for i in picture.tags])
        maps, _ = segmenter.score_maps([rgb], scales=scales, flip=flip, allowed=[allowed])[0]
        labels = np.empty(maps.size, dtype=np.uint8)
        for rows, columns, probs in probability_parts(rgb, maps, params):
            best = probs.argmax(0)
            part = to_data[best]
            if min_confidence > 0:
                own = probs if params is None else maps.probs(rows, columns)
                part[np.take_along_axis(own, best[None], 0)[0] < min_confidence] = IGNORE
            labels[rows, columns] = part
        render.save_mask(place, labels)
        tagged += bool(picture.tags)
        if picture.tags and not ((labels > 0) & (labels != IGNORE)).any():
            empty.append(picture.name)
        ignored, total = ignored + int((labels == IGNORE).sum()), total + labels.size
    if empty:
        findings = (*findings, _without_objects(empty, tagged))
        log_findings(findings[-1:], log)
    summary = PseudoLabelSummary(
        out=out,
        backbone=segmenter.config.backbone,
        num_images=len(places) - len(errors),
        ignored_share=ignored / max(total, 1),
        errors=errors,
        background_only=len(empty),
        findings=findings,
    )
    settings = {
        "data": str(pictures.root),
        "split": pictures.split,
        "classes": list(pictures.classes),
        "label_prior": "tags of the picture",
        "tags_from": reading.tags_from,
        "reading": reading.asked(),
        "crf": None if params is None else asdict(params),
        "scales": list(scales),
        "flip": flip,
        "min_confidence": min_confidence,
        "num_images": summary.num_images,
        "ignored_share": summary.ignored_share,
        "background_only": summary.background_only,
        "model_selection": segmenter.selection,
    }
    write_text(out / PSEUDO_LABELS, json.dumps(settings, indent=2) + "\n")
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in pictures.classes))
    return summary


def _without_objects(names: Sequence[str], tagged: int) -> Finding:
    """Masks of tagged pictures that show no object: a few are usual, nearly all are of no use."""
    few = len(names) < NEARLY_ALL * tagged
    return Finding(
        severity="note" if few else "warning",
        code=_EMPTY,
        message=f"{len(names)} of the {some(tagged, 'mask')} of tagged pictures show no object.",
        cure="Look at them before you train on them." if few else "Do not train on them; train the first step longer.",
        **named(names),
    )


def _places(pictures: PictureSet, out: Path) -> list[Path]:
    """The file of each picture's mask, see `result_names`; refused where some systems would take two for one, or where
    a true mask would be lost.
    """
    names = result_names([picture.name for picture in pictures.pictures], numbered=False)
    places = [out / f"{name}.png" for name in names]
    owner: dict[str, str] = {}
    for picture, name, place in zip(pictures.pictures, names, places, strict=True):
        other = owner.setdefault(name_key(name), picture.name)
        if other != picture.name:
            raise ValueError(f"{other} and {picture.name} would share the mask {place}; rename one of them.")
        if picture.mask is not None and place.resolve() == picture.mask.resolve():
            raise ValueError(f"--out {out} is the folder of the data set's own masks; choose another.")
    return places
