"""Masks of the training pictures for the second step (method 7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.files import check_folder, write_lines, write_text
from tag2mask.base.options import public
from tag2mask.config import IGNORE, MaskSource, TrainConfig
from tag2mask.config.formats import DataOptions
from tag2mask.config.inference import Inference
from tag2mask.data import Picture, PictureError, PictureSet, open_data, read_picture
from tag2mask.data.findings import Finding, about, log_findings, some
from tag2mask.data.masks.labels import PSEUDO_LABELS
from tag2mask.data.storage.result_names import name_key, result_names
from tag2mask.inference.score_maps import probability_parts
from tag2mask.inference.segmenter import Segmenter, need_network
from tag2mask.jobs.evidence_masks import EvidenceMasks, TaggedPicture
from tag2mask.outputs import render
from tag2mask.runs.health import NEARLY_ALL, untrained_segmentation
from tag2mask.scoring.report import Progress, tracked

log = logging.getLogger("tag2mask")
_EMPTY = "masks_without_objects"


@dataclass(frozen=True, kw_only=True)
class PseudoLabelSummary:
    """What `pseudo_label` wrote."""

    out: Path
    backbone: str
    """Of the network that drew the masks: a second network on the same one can start from it."""
    source: MaskSource
    """What they were drawn from."""
    num_images: int
    ignored_share: float
    """Share of all pixels that are 255 for lack of confidence or evidence, in 0..1."""
    errors: dict[str, str]
    """Message per picture that failed."""
    background_only: int = 0
    """Masks of tagged pictures that show no object."""
    findings: tuple[Finding, ...] = ()
    """What was left out of the data set, or may not be what it was taken for; what is wrong with the masks."""

    @property
    def shows_nothing(self) -> bool:
        """Whether no more is in the masks than a network could learn nothing from."""
        return any(each.code == _EMPTY and each.severity == "warning" for each in self.findings)


@public
def pseudo_label(
    run: str | Path | Segmenter,
    *,
    data: str | Path,
    out: str | Path,
    split: str | None = None,
    source: MaskSource | None = None,
    min_confidence: float = 0.0,
    inference: Inference | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    data_options: DataOptions | None = None,
    **options: Any,
) -> PseudoLabelSummary:
    """Write OUT/NAME.png for every picture: labels 0..C of the data's class list, only those of the picture's tags.

    Args:
        run: Run folder, .safetensors file or `Segmenter`.
        data: Data set with tags.
        out: Folder of the masks; classes.txt in it names the labels, `pseudo_labels.json` says how they were made.
        split: Name of a split or a file with one picture per line; None is the split to train on.
        source: `segmentation`, what the segmentation branch draws where only the tags and background may be;
            `evidence`, the smallest regions without which the network no longer sees the tags (`tag2mask.evidence`),
            for objects of very different sizes; None is what the run was trained for.
        min_confidence: Pixels to whose label the network gives a lower probability become 255; 0 keeps all. With a CRF
            this is still the probability before it: those after it lie near 1 almost everywhere, right or wrong.
        inference: How the network predicts, but for the tags, which are the picture's.
        device: Where the network runs.
        progress: Called with (done, all).
        data_options: How `data` is read where looking is not enough; said in `pseudo_labels.json`.
        options: Fields of `inference` and of `data_options` by name, as `crf` and `data_format`.

    Raises:
        ValueError: tags that the run does not know, two pictures whose names some systems take for one, or masks of the
            data set in the way.
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"--min-confidence must lie in [0, 1], got {min_confidence}.")
    need_network(run, "pseudo-label", "tag2mask predict MODEL PICTURES --tags FILE --out DIR knows the tags as well")
    out = Path(out)
    check_folder(out)
    inference, others = Inference.split(inference, options, without=("tags",))
    reading = DataOptions.merged(data_options, others)
    pictures = open_data(data, split=split, options=reading)
    log_findings(pictures.findings, log)
    places = _places(pictures, out)
    segmenter = Segmenter.load(run, device=device)
    config = segmenter.config
    source = source or (config.masks_from if isinstance(config, TrainConfig) else "segmentation")
    findings = (*pictures.findings, *segmenter.findings)
    if unknown := [name for name in pictures.classes if name not in segmenter.classes]:
        raise ValueError(f"The run does not know {', '.join(unknown)}; its classes are {', '.join(segmenter.classes)}.")
    errors: dict[str, str] = {}
    masks = _masks(segmenter, source, inference, min_confidence)
    to_data = np.full(256, IGNORE, dtype=np.uint8)
    to_data[0] = 0
    for label, name in enumerate(pictures.classes, start=1):
        to_data[segmenter.classes.index(name) + 1] = label
    ignored, total, empty, tagged = 0, 0, [], 0
    place_of = {picture.name: place for picture, place in zip(pictures.pictures, places, strict=True)}
    for picture, mask in masks.of(_read(pictures, inference.max_pixels, errors, progress)):
        labels = to_data[mask]
        render.save_mask(place_of[picture.name], labels)
        tagged += bool(picture.tags)
        if picture.tags and not ((labels > 0) & (labels != IGNORE)).any():
            empty.append(picture.name)
        ignored, total = ignored + int((labels == IGNORE).sum()), total + labels.size
    told = (*_without_objects(empty, tagged), *masks.findings)
    findings = (*findings, *told)
    log_findings(told, log)
    summary = PseudoLabelSummary(
        out=out,
        backbone=segmenter.config.backbone,
        source=source,
        num_images=len(places) - len(errors),
        ignored_share=ignored / max(total, 1),
        errors=errors,
        background_only=len(empty),
        findings=findings,
    )
    _write_settings(summary, run, pictures, reading, masks.settings, segmenter.selection)
    return summary


def _masks(
    segmenter: Segmenter, source: MaskSource, inference: Inference, min_confidence: float
) -> EvidenceMasks | _SegmentedMasks:
    """What draws the masks, in labels of the run.

    Raises:
        ValueError: the run cannot draw from `source`, or `source` takes no such options.
    """
    if source == "segmentation":
        if told := untrained_segmentation(segmenter.config):
            raise ValueError(f"{told[0].message} {told[0].cure}")
        return _SegmentedMasks(segmenter, inference, min_confidence)
    if inference != Inference(max_pixels=inference.max_pixels) or min_confidence > 0:
        raise ValueError(
            "--source evidence draws with the scales and the CRF of the run's training and leaves out what has no "
            "evidence; leave out --crf, --scales, --flip and --min-confidence, or give --source segmentation"
        )
    return EvidenceMasks(segmenter)


def _read(
    pictures: PictureSet, max_pixels: int, errors: dict[str, str], progress: Progress | None
) -> Iterator[TaggedPicture]:
    """The pictures that can be read, with the names of their tags; of the others the message goes into `errors`."""
    for picture in tracked(pictures.pictures, progress):
        try:
            yield picture, read_picture(picture.path, max_pixels), [pictures.classes[i] for i in picture.tags]
        except (PictureError, OSError) as error:
            errors[str(picture.path)] = str(error)


@dataclass(frozen=True)
class _SegmentedMasks:
    """What the segmentation branch draws where only background and the tags may be."""

    segmenter: Segmenter
    inference: Inference
    min_confidence: float
    findings: tuple[Finding, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """How the masks are made, for a file."""
        own = self.inference
        made = {"crf": asdict(own)["crf"], "scales": list(own.scales), "flip": own.flip}
        return made | {"min_confidence": self.min_confidence}

    def of(self, pictures: Iterable[TaggedPicture]) -> Iterator[tuple[Picture, NDArray[np.uint8]]]:
        """The mask of each picture, in labels of the run."""
        for picture, rgb, tags in pictures:
            yield picture, self._labels(rgb, tags)

    def _labels(self, rgb: NDArray[np.uint8], tags: Sequence[str]) -> NDArray[np.uint8]:
        allowed = [self.segmenter.allowed_labels(tags)]
        maps, _ = self.segmenter.score_maps([rgb], self.inference, allowed=allowed)[0]
        if self.inference.crf is None and self.min_confidence == 0:
            return maps.labels()
        labels = np.empty(maps.size, dtype=np.uint8)
        for rows, columns, probs in probability_parts(rgb, maps, self.inference.crf):
            best = probs.argmax(0)
            part = best.astype(np.uint8)
            if self.min_confidence > 0:
                own = probs if self.inference.crf is None else maps.probs(rows, columns)
                part[np.take_along_axis(own, best[None], 0)[0] < self.min_confidence] = IGNORE
            labels[rows, columns] = part
        return labels


def _write_settings(
    summary: PseudoLabelSummary,
    run: str | Path | Segmenter,
    pictures: PictureSet,
    reading: DataOptions,
    made: Mapping[str, Any],
    selection: str,
) -> None:
    """Write classes.txt, and how the masks were made."""
    place = None
    if not isinstance(run, Segmenter):
        place = str(Path(run).resolve() if Path(run).exists() else run)
    settings = {
        "run": place,
        "data": str(pictures.root),
        "split": pictures.split,
        "classes": list(pictures.classes),
        "label_prior": "tags of the picture",
        "tags_from": reading.tags_from,
        "reading": reading.asked(),
        "source": summary.source,
        **made,
        "num_images": summary.num_images,
        "ignored_share": summary.ignored_share,
        "background_only": summary.background_only,
        "model_selection": selection,
    }
    write_text(summary.out / PSEUDO_LABELS, json.dumps(settings, indent=2) + "\n")
    write_lines(summary.out / "classes.txt", pictures.classes)


def _without_objects(names: Sequence[str], tagged: int) -> tuple[Finding, ...]:
    """Masks of tagged pictures that show no object: a few are usual, nearly all are of no use."""
    few = len(names) < NEARLY_ALL * tagged
    return about(
        names,
        severity="note" if few else "warning",
        code=_EMPTY,
        message=f"{len(names)} of the {some(tagged, 'mask')} of tagged pictures show no object.",
        cure="Look at them before you train on them." if few else "Do not train on them; train the first step longer.",
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
