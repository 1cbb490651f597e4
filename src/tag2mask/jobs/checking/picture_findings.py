"""What single pictures and masks say: broken, tiny, elongated, blank, unusual modes, masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tag2mask.data.dataset import Picture, PictureSet
from tag2mask.data.findings import Finding, Severity, about, are, some
from tag2mask.data.masks.tally import MaskTally
from tag2mask.jobs.checking.looking import ALPHA, ANIMATED, CMYK, DEEP, GREY, Look

ELONGATED = 4.0
"""Longer side over shorter side from which on a picture is elongated."""
_KINDS = {
    GREY: ("grey", "They are read as RGB with three equal channels. Fine if prediction will see grey pictures too."),
    DEEP: (
        "of more than 8 bits per pixel",
        "16-bit grey is divided by 257, 32-bit and float grey scaled to 0-255. Convert them if the range matters.",
    ),
    CMYK: ("CMYK (made for print)", "They are read as RGB, colour profiles ignored. Convert them if colours matter."),
    ALPHA: ("partly transparent", "They are laid over white. Lay them over what they will be seen on, if not white."),
    ANIMATED: ("of several frames or pages", "Only the first is used. Save the others as pictures of their own."),
}


def picture_findings(pictures: Sequence[Picture], looks: Sequence[Look], crop_size: int) -> tuple[Finding, ...]:
    """Findings on the files of all splits, each picture once; a training crop has `crop_size` pixels on a side."""
    pairs = list(zip(pictures, looks, strict=True))
    bad = [(picture, f"{picture.name}: {look.error}") for picture, look in pairs if look.error is not None]
    good = [(picture, look) for picture, look in pairs if look.error is None]
    sized = [(each, f"{each.name} ({look.height} x {look.width})", look.height, look.width) for each, look in good]
    tiny = [(picture, name) for picture, name, *size in sized if 2 * max(size) < crop_size]
    long = [(picture, name) for picture, name, *size in sized if max(size) >= ELONGATED * min(size)]
    blank = [(picture, picture.name) for picture, look in good if look.flat]
    found = (
        *_shown(
            bad,
            severity="warning" if good else "error",
            code="broken",
            message=f"{len(bad) if good else 'All'} of {some(len(pictures), 'picture')} cannot be read. Training "
            "passes over broken pictures.",
            cure="Replace or remove them.",
        ),
        *_shown(
            tiny,
            code="tiny",
            message=f"{some(len(tiny), 'picture')} with a longer side below half a training crop "
            f"({crop_size} pixels): enlarged, it is all blur.",
            cure="Use the pictures at their original size, or a smaller --image-size and --augment.crop-size.",
        ),
        *_shown(
            long,
            code="elongated",
            message=f"{some(len(long), 'picture')} at least {ELONGATED:g} times as long as wide: most of such a "
            "crop is padding, and small things vanish.",
            cure="Cut them into pieces, with the tags of what each piece shows.",
        ),
        *_shown(
            blank,
            code="blank",
            message=f"{some(len(blank), 'picture')} of (nearly) one grey value that show next to nothing.",
            cure="Remove them, or leave them as negatives if such pictures will be seen later.",
        ),
    )
    for kind, (what, cure) in _KINDS.items():
        names = [picture.name for picture, look in good if kind in look.kinds]
        found += about(names, severity="note", code=kind, message=f"{are(len(names), 'picture')} {what}.", cure=cure)
    return found


def _shown(
    pictures: Sequence[tuple[Picture, str]], *, code: str, message: str, cure: str, severity: Severity = "warning"
) -> tuple[Finding, ...]:
    """A finding on pictures, each with its text, whose files the page shows."""
    names, files = [name for _, name in pictures], [(picture.path,) for picture, _ in pictures]
    return about(names, files, severity=severity, code=code, message=message, cure=cure)


def mask_findings(pictures: PictureSet, looks: Sequence[Look]) -> list[Finding]:
    """Findings on the masks of one split: broken ones, foreign ids, and counts of (dis)agreement with tags."""
    tally = MaskTally(pictures)
    for picture, look in zip(pictures.pictures, looks, strict=True):
        if look.mask is not None:
            tally.add(picture, look.mask.counts if look.mask.error is None else look.mask.error)
    findings, agreement = list(tally.findings()), tally.agreement()
    if agreement is not None and agreement.severity == "note":
        findings.append(agreement)
    return findings


def size_summary(values: Sequence[int]) -> tuple[int, int, int] | None:
    """Smallest, median and largest; None of nothing."""
    if not values:
        return None
    return min(values), int(np.median(values)), max(values)


def side_histogram(looks: Sequence[Look]) -> tuple[tuple[int, int], ...]:
    """Pictures by longer side in bins that grow by sqrt(2), from the first to the last that holds one."""
    sides = np.array([max(look.height, look.width) for look in looks if look.error is None], dtype=np.float64)
    if not len(sides):
        return ()
    bins = np.floor(2 * np.log2(sides) + 1e-9).astype(np.int64)
    counts = np.bincount(bins - bins.min())
    return tuple((round(2 ** ((bins.min() + i) / 2)), int(count)) for i, count in enumerate(counts))
