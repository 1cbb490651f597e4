"""`tag2mask.check`: is this data set fit to train on? Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.options import public
from tag2mask.config import AugmentConfig
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import Picture, PictureSet, label_codes
from tag2mask.data.findings import SEVERITIES, Finding
from tag2mask.data.masks.labels import expected_mask
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.checking.class_findings import class_findings, held_out_findings
from tag2mask.jobs.checking.copies import Indices, copy_findings
from tag2mask.jobs.checking.looking import Look, Progress, look_at_pictures
from tag2mask.jobs.checking.opening import UNLISTED, Opened, open_splits
from tag2mask.jobs.checking.page import check_page_path, write_page
from tag2mask.jobs.checking.picture_findings import mask_findings, picture_findings, side_histogram, size_summary
from tag2mask.jobs.checking.results import CheckReport, SplitSummary, report_lines
from tag2mask.jobs.checking.wrong_tags import LIST, SuspiciousTag, SuspiciousTags, suspicious_tags, write_list

__all__ = ["CheckReport", "Finding", "SplitSummary", "SuspiciousTag", "SuspiciousTags", "check", "report_lines"]

_NOTHING_HELD_OUT = Finding(
    severity="note",
    code="nothing_held_out",
    message="No split is held out (val, test), so nothing can be scored on pictures that training has not seen.",
    cure="Make a split named val; see docs/data.md for the format's way.",
)


@public
def check(
    data: str | Path,
    *,
    train_split: str | Path | None = None,
    min_images: int = 10,
    crop_size: int = AugmentConfig().crop_size,
    jobs: int = 0,
    run: str | Path | Segmenter | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
    data_options: DataOptions | None = None,
    **fields: Any,
) -> CheckReport:
    """Open every split of a data set, read every picture and mask, and say what would hurt training.

    Nothing of the data set is changed. Beside the lists of pictures about 300 bytes per picture are kept, and each
    file is read once, whatever the number of splits it is in.

    Args:
        data: Folder of the data set.
        train_split: Name of the split to train on, or a file with one picture per line; default the usual one.
        min_images: A class on fewer pictures of the split to train on is rare.
        crop_size: Height and width of a training crop in pixels, against which pictures count as tiny.
        jobs: Threads that read pictures; 0 for one per processor, 8 at most.
        run: Run folder, model file, "hf://owner/name" or `Segmenter` that knows these classes: it judges the tags, see
            `CheckReport.suspicious`; None judges none. It changes neither findings nor verdict.
        device: Where that network runs.
        out: File to write the report to as one self-contained HTML page, with suspicious_tags.csv beside it where there
            is a `run`; None writes nothing.
        progress: Called with (pictures done, pictures in all, name of the last).
        data_options: How the data set is read where looking is not enough.
        fields: Fields of `data_options` by name, as `data_format`.

    Returns:
        Counts per split and findings; `fit` is False where training would be pointless, `reason` says why.

    Raises:
        DataError: (a ValueError) there is no such folder, or it holds no data set that is recognised. Whatever is wrong
            inside of one is a finding.
        ValueError: `min_images`, `crop_size` or `jobs` is out of range, `out` is no name of a page, or the run knows
            none of the classes.
    """
    for name, value, least in (("min_images", min_images, 1), ("crop_size", crop_size, 2), ("jobs", jobs, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if out is not None:
        check_page_path(Path(out))
    reading = DataOptions.merged(data_options, fields)
    opened = open_splits(Path(data).expanduser(), train_split=train_split, options=reading)
    suspicious = None if run is None else _judged(opened, run, device, progress)
    pictures, members = _each_once(opened.splits)
    codes = next((each.mask_codes for each in opened.splits.values()), label_codes(0, others="ignore"))
    looks = look_at_pictures(pictures, codes, jobs=jobs, progress=progress)
    looks_of = {name: [looks[i] for i in members[name]] for name in opened.splits}
    tags = {name: _tag_matrix(opened.splits[name], looks_of[name]) for name in opened.splits if name in opened.tagged}
    findings = list(opened.findings)
    findings += dict.fromkeys(each for split in opened.splits.values() for each in split.findings)
    findings += _split_findings(opened, looks_of, tags, min_images)
    findings += picture_findings(pictures, looks, crop_size)
    none = np.empty(0, dtype=np.intp)
    trained = members.get(opened.train, members.get(UNLISTED, none))
    tagged = np.unique(np.concatenate([none, *(members[name] for name in opened.tagged)]))
    held_out = {name: members[name] for name in opened.held_out}
    findings += copy_findings(pictures, looks, trained, held_out, tagged, by_hash=opened.by_hash)
    report = CheckReport(
        data=str(data),
        data_format=opened.data_format,
        train_split=opened.train,
        by_hash=opened.by_hash,
        classes=opened.classes,
        splits={name: _summary(each, looks_of[name], tags.get(name)) for name, each in opened.splits.items()},
        findings=tuple(sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity))),
        side_histogram=side_histogram(looks),
        suspicious=suspicious,
    )
    return report if out is None else _written(report, Path(out))


def _judged(opened: Opened, run: str | Path | Segmenter, device: str, progress: Progress | None) -> SuspiciousTags:
    """What a model says of the tags of all splits that have some."""
    sets = {name: each for name, each in opened.splits.items() if name in opened.tagged}
    name = "the model" if isinstance(run, Segmenter) else str(run)
    return suspicious_tags(Segmenter.load(run, device=device), sets, run=name, progress=progress)


def _written(report: CheckReport, out: Path) -> CheckReport:
    report = replace(report, out=out)
    if report.suspicious is not None:
        write_list(out.with_name(LIST), report.suspicious)
    write_page(report, out)
    return report


def _each_once(splits: dict[str, PictureSet]) -> tuple[list[Picture], dict[str, Indices]]:
    """Every file of the splits once, and for each split the indices of its pictures."""
    index: dict[Path, int] = {}
    pictures: list[Picture] = []
    members = {}
    for name, each in splits.items():
        for picture in each.pictures:
            if index.setdefault(picture.path, len(pictures)) == len(pictures):
                pictures.append(picture)
        members[name] = np.array([index[picture.path] for picture in each.pictures], dtype=np.intp)
    return pictures, members


def _split_findings(
    opened: Opened, looks: dict[str, list[Look]], tags: dict[str, NDArray[np.bool_]], min_images: int
) -> list[Finding]:
    """Findings on tags and masks of the split to train on and the held-out ones."""
    findings: list[Finding] = []
    trained = tags.get(opened.train)
    for name, pictures in opened.splits.items():
        held_out = name in opened.held_out
        if name in tags and name == opened.train:
            findings += class_findings(tags[name], pictures.classes, name, min_images)
        elif name in tags and held_out and trained is not None:
            counts = _class_counts(pictures.classes, tags[name])
            findings += held_out_findings(counts, _class_counts(opened.splits[opened.train].classes, trained), name)
        if name == opened.train or held_out:
            findings += mask_findings(pictures, looks[name])
        if held_out and not pictures.has_masks:
            cures = ["Draw masks of a few of its pictures, 50 say; training needs none.", expected_mask(pictures)]
            findings.append(
                Finding(
                    severity="note",
                    code="no_masks",
                    message=f"The split {name!r} has no masks: `tag2mask evaluate` cannot give an mIoU on it.",
                    cure=" ".join(filter(None, cures)),
                )
            )
    if not opened.held_out:
        findings.append(_NOTHING_HELD_OUT)
    return findings


def _tag_matrix(pictures: PictureSet, looks: list[Look]) -> NDArray[np.bool_]:
    """Tags as bool [N, C], of the pictures that can be read."""
    rows = [picture.tags for picture, look in zip(pictures.pictures, looks, strict=True) if look.error is None]
    tags = np.zeros((len(rows), pictures.num_classes), dtype=bool)
    for row, each in zip(tags, rows, strict=True):
        row[list(each)] = True
    return tags


def _class_counts(classes: Sequence[str], tags: NDArray[np.bool_]) -> dict[str, int]:
    return dict(zip(classes, map(int, tags.sum(axis=0)), strict=True))


def _summary(pictures: PictureSet, looks: list[Look], tags: NDArray[np.bool_] | None) -> SplitSummary:
    good = [look for look in looks if look.error is None]
    return SplitSummary(
        num_images=len(looks),
        num_broken=len(looks) - len(good),
        num_negatives=None if tags is None else int((~tags.any(axis=1)).sum()),
        num_masks=sum(picture.mask is not None for picture in pictures.pictures),
        class_counts=None if tags is None else _class_counts(pictures.classes, tags),
        heights=size_summary([look.height for look in good]),
        widths=size_summary([look.width for look in good]),
    )
