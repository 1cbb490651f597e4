"""What single pictures and masks say: broken, tiny, elongated, blank, unusual modes, masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tag2mask.data.dataset import Picture, PictureSet
from tag2mask.data.findings import Finding, are, named, some
from tag2mask.data.masks.survey import MaskTally
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


def picture_findings(pictures: Sequence[Picture], looks: Sequence[Look], crop_size: int) -> list[Finding]:
    """Findings on the files of all splits, each picture once.

    Args:
        pictures: The files.
        looks: A look at each.
        crop_size: Height and width of a training crop in pixels.
    """
    good = [(picture, look) for picture, look in zip(pictures, looks, strict=True) if look.error is None]
    findings = _broken(pictures, looks, none_good=not good)
    tiny = [(p, f"{p.name} ({x.height} x {x.width})") for p, x in good if 2 * max(x.height, x.width) < crop_size]
    if tiny:
        findings.append(
            Finding(
                severity="warning",
                code="tiny",
                message=f"{some(len(tiny), 'picture')} with a longer side below half a training crop "
                f"({crop_size} pixels): enlarged, it is all blur.",
                cure="Use the pictures at their original size, or a smaller --image-size and --augment.crop-size.",
                **named([name for _, name in tiny], [(p.path,) for p, _ in tiny]),
            )
        )
    long = [
        (p, f"{p.name} ({x.height} x {x.width})")
        for p, x in good
        if max(x.height, x.width) >= ELONGATED * min(x.height, x.width)
    ]
    if long:
        findings.append(
            Finding(
                severity="warning",
                code="elongated",
                message=f"{some(len(long), 'picture')} at least {ELONGATED:g} times as long as wide: most of such a "
                "crop is padding, and small things vanish.",
                cure="Cut them into pieces, with the tags of what each piece shows.",
                **named([name for _, name in long], [(p.path,) for p, _ in long]),
            )
        )
    blank = [p for p, x in good if x.flat]
    if blank:
        findings.append(
            Finding(
                severity="warning",
                code="blank",
                message=f"{some(len(blank), 'picture')} of (nearly) one grey value that show next to nothing.",
                cure="Remove them, or leave them as negatives if such pictures will be seen later.",
                **named([p.name for p in blank], [(p.path,) for p in blank]),
            )
        )
    for kind, (what, cure) in _KINDS.items():
        names = [p.name for p, x in good if kind in x.kinds]
        if names:
            message = f"{are(len(names), 'picture')} {what}."
            findings.append(Finding(severity="note", code=kind, message=message, cure=cure, **named(names)))
    return findings


def _broken(pictures: Sequence[Picture], looks: Sequence[Look], *, none_good: bool) -> list[Finding]:
    bad = [(picture, look.error) for picture, look in zip(pictures, looks, strict=True) if look.error is not None]
    if not bad:
        return []
    return [
        Finding(
            severity="error" if none_good else "warning",
            code="broken",
            message=f"{'All' if none_good else len(bad)} of {some(len(pictures), 'picture')} cannot be read. Training "
            "passes over broken pictures.",
            cure="Replace or remove them.",
            **named([f"{p.name}: {error}" for p, error in bad], [(p.path,) for p, _ in bad]),
        )
    ]


def mask_findings(pictures: PictureSet, looks: Sequence[Look]) -> list[Finding]:
    """Findings on the masks of one split: broken ones, foreign ids, and counts of (dis)agreement with tags.

    Args:
        pictures: The split.
        looks: A look at each of its pictures.
    """
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
