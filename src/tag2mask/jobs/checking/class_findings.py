"""What the tags alone say about a data set: rare, absent and inseparable classes, negatives. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tag2mask.data.findings import Finding, about, are, listed, some

ALMOST = 0.95
"""Share from which on a thing happens "(almost) always"."""
MIN_EVIDENCE = 5
"""A class on fewer pictures says nothing about what it always occurs with."""
MANY_NEGATIVES = 0.9
_SEPARATE = "Tags cannot tell apart what always occurs together: add pictures that show one without the other"


def class_findings(tags: NDArray[np.bool_], classes: tuple[str, ...], split: str, min_images: int) -> list[Finding]:
    """Findings on the split to train on, from the tags bool [N, C] of its readable pictures.

    A class on fewer than `min_images` pictures is rare.
    """
    n, counts = len(tags), tags.sum(axis=0)
    if not counts.any():
        return [
            Finding(
                severity="error",
                code="nothing_to_learn",
                message=f"None of the {some(n, 'picture')} of the split {split!r} that can be read has a tag.",
                cure="Tag the pictures, or repair those that cannot be read.",
            )
        ]
    return [
        *_by_count(dict(zip(classes, map(int, counts), strict=True)), n, split, min_images),
        *_together(tags, counts, classes, split),
        *_negatives(tags, split),
    ]


def held_out_findings(counts: Mapping[str, int], trained: Mapping[str, int], split: str) -> tuple[Finding, ...]:
    """Classes that are trained but do not occur in a held-out split, by the pictures per class of both."""
    names = [name for name, count in trained.items() if count and not counts.get(name)]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return about(
        names,
        severity="note",
        code="absent_class",
        message=f"No picture of the split {split!r} shows {listed(names[:5])}{more}: scores on it say "
        "nothing about these classes.",
        cure=f"Move some pictures of them to {split!r}.",
    )


def _nothing_to_learn(counts: Mapping[str, int], n: int, split: str) -> tuple[Finding, ...]:
    """Where each class is on all pictures or on none, "always yes" is right and no pixel is told from another."""
    names = [name for name, count in counts.items() if count]
    if any(0 < count < n for count in counts.values()):
        return ()
    them = "it" if len(names) == 1 else "them"
    return about(
        names,
        severity="error",
        code="nothing_to_learn",
        message=f"Every one of the {some(n, 'picture')} of the split {split!r} is tagged {listed(names)}, so a "
        f"network that always answers yes is right and never has to find {them}.",
        cure=f"Add pictures without {them}, from the same places: negatives (an empty tag cell), about as many as "
        "there are pictures now.",
    )


def _by_count(counts: Mapping[str, int], n: int, split: str, min_images: int) -> tuple[Finding, ...]:
    """Classes on no picture, on few, and on (almost) every one."""
    nothing = _nothing_to_learn(counts, n, split)
    absent = [name for name, count in counts.items() if count == 0]
    rare = sorted((count, name) for name, count in counts.items() if 0 < count < min_images)
    usual = [f"{name} ({count} of {n})" for name, count in counts.items() if count >= max(MIN_EVIDENCE, ALMOST * n)]
    return (
        *nothing,
        *about(
            absent,
            code="absent_class",
            message=f"{are(len(absent), 'class')} on no picture of the split {split!r} and cannot be learnt.",
            cure="Add pictures with each, or shorten the class list.",
        ),
        *about(
            [f"{name} ({count})" for count, name in rare],
            code="rare_class",
            message=f"{are(len(rare), 'class')} on fewer than {min_images} pictures "
            f"of the split {split!r}: expect poor masks of them.",
            cure="Add pictures; a few dozen per class is a start.",
        ),
        *about(
            [] if nothing else usual,
            code="everywhere",
            message=f"{are(len(usual), 'class')} on (almost) every picture of the split {split!r}: what is on every "
            "picture cannot be told from the background by tags.",
            cure="Add pictures without, from the same places.",
        ),
    )


def _together(
    tags: NDArray[np.bool_], counts: NDArray[np.int64], classes: tuple[str, ...], split: str
) -> tuple[Finding, ...]:
    """Pairs that share (almost) all their pictures, and classes that (almost) never occur without another."""
    both = _shared(tags)
    pairs, one_sided = [], []
    everywhere = counts >= max(MIN_EVIDENCE, ALMOST * len(tags))
    for a, b in zip(*np.nonzero(np.triu(both, 1)), strict=True):
        shared, of_a, of_b = int(both[a, b]), int(counts[a]), int(counts[b])
        either = of_a + of_b - shared
        if min(of_a, of_b) < MIN_EVIDENCE:
            continue
        if shared >= ALMOST * either:
            pairs.append(f"{classes[a]} and {classes[b]} ({shared} of {either} pictures)")
        elif shared >= ALMOST * min(of_a, of_b):
            inner, outer, total = (a, b, of_a) if of_a < of_b else (b, a, of_b)
            if not everywhere[outer]:
                one_sided.append(f"{classes[inner]}: {shared} of {total} pictures also show {classes[outer]}")
    return about(
        pairs,
        code="always_together",
        message=f"{some(len(pairs), 'pair')} of classes with (almost) all their pictures in common in the "
        f"split {split!r}: weakly supervised segmentation cannot separate them, each will cover both.",
        cure=f"{_SEPARATE}; or make one class of the two.",
    ) + about(
        one_sided,
        code="never_without",
        message=f"{some(len(one_sided), 'class')} of the split {split!r} with (almost) no picture without "
        "another one: masks may spill over it.",
        cure=f"{_SEPARATE}.",
    )


def _shared(tags: NDArray[np.bool_], chunk: int = 4096) -> NDArray[np.int64]:
    """int64 [C, C]: pictures that show both classes."""
    both = np.zeros((tags.shape[1],) * 2)
    for start in range(0, len(tags), chunk):
        part = tags[start : start + chunk].astype(np.float32)
        both += part.T @ part
    return both.astype(np.int64)


def _negatives(tags: NDArray[np.bool_], split: str) -> tuple[Finding]:
    n, count = len(tags), int((~tags.any(axis=1)).sum())
    many = count > MANY_NEGATIVES * n
    if count == 0:
        message = f"The split {split!r} has no negatives, pictures that show none of the classes."
        cure = "Some from the same places (an empty tag cell) teach what is background; one in ten is plenty."
    else:
        message = (
            f"{count} of {some(n, 'picture')} of the split {split!r} ({count / n:.1%}) are negatives: none of the "
            "classes."
        )
        cure = "Leave most of them out: steps on them teach little." if many else "None needed."
    return (Finding(severity="warning" if many else "note", code="negatives", message=message, cure=cure),)
