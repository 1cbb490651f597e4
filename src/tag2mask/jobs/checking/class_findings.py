"""What the tags alone say about a data set: rare, absent and inseparable classes, negatives. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tag2mask.data.findings import Finding, are, listed, named, some
from tag2mask.data.readers.class_names import name_findings

ALMOST = 0.95
"""Share from which on a thing happens "(almost) always"."""
MIN_EVIDENCE = 5
"""A class on fewer pictures says nothing about what it always occurs with."""
MANY_NEGATIVES = 0.9
_SEPARATE = "Tags cannot tell apart what always occurs together: add pictures that show one without the other"


def class_findings(tags: NDArray[np.bool_], classes: tuple[str, ...], split: str, min_images: int) -> list[Finding]:
    """Findings on the split to train on.

    Args:
        tags: bool [N, C], tags of its readable pictures.
        classes: C names.
        split: Its name.
        min_images: A class on fewer pictures is rare.
    """
    n = len(tags)
    counts = tags.sum(axis=0)
    if not counts.any():
        return [_no_tag(split, n)]
    findings = _nothing_to_learn(counts, n, classes, split)
    findings += _absent(counts, classes, split)
    findings += _rare(counts, classes, split, min_images)
    if not findings or findings[0].code != "nothing_to_learn":
        findings += _everywhere(counts, n, classes, split)
    findings += _together(tags, counts, classes, split)
    return [*findings, *_negatives(tags, split), *name_findings(classes)]


def held_out_findings(counts: Mapping[str, int], trained: Mapping[str, int], split: str) -> list[Finding]:
    """Classes that are trained but do not occur in a held-out split.

    Args:
        counts: Pictures per class of the held-out split.
        trained: Pictures per class of the split to train on.
        split: Name of the held-out split.
    """
    names = [name for name, count in trained.items() if count and not counts.get(name)]
    if not names:
        return []
    return [
        Finding(
            severity="note",
            code="absent_class",
            message=f"No picture of the split {split!r} shows {listed(names[:5])}{_more(names, 5)}: scores on it say "
            "nothing about these classes.",
            cure=f"Move some pictures of them to {split!r}.",
            **named(names),
        )
    ]


def _no_tag(split: str, n: int) -> Finding:
    return Finding(
        severity="error",
        code="nothing_to_learn",
        message=f"None of the {some(n, 'picture')} of the split {split!r} that can be read has a tag.",
        cure="Tag the pictures, or repair those that cannot be read.",
    )


def _nothing_to_learn(counts: NDArray[np.int64], n: int, classes: tuple[str, ...], split: str) -> list[Finding]:
    """Where each class is on all pictures or on none, "always yes" is right and no pixel is told from another."""
    if np.any((counts > 0) & (counts < n)):
        return []
    names = [name for name, count in zip(classes, counts, strict=True) if count]
    them = "it" if len(names) == 1 else "them"
    return [
        Finding(
            severity="error",
            code="nothing_to_learn",
            message=f"Every one of the {some(n, 'picture')} of the split {split!r} is tagged {listed(names)}, so a "
            f"network that always answers yes is right and never has to find {them}.",
            cure=f"Add pictures without {them}, from the same places: negatives (an empty tag cell), about as many as "
            "there are pictures now.",
            **named(names),
        )
    ]


def _absent(counts: NDArray[np.int64], classes: tuple[str, ...], split: str) -> list[Finding]:
    names = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if not names:
        return []
    return [
        Finding(
            severity="warning",
            code="absent_class",
            message=f"{are(len(names), 'class')} on no picture of the split {split!r} and cannot be learnt.",
            cure="Add pictures with each, or shorten the class list.",
            **named(names),
        )
    ]


def _rare(counts: NDArray[np.int64], classes: tuple[str, ...], split: str, min_images: int) -> list[Finding]:
    rare = sorted((int(count), name) for name, count in zip(classes, counts, strict=True) if 0 < count < min_images)
    if not rare:
        return []
    return [
        Finding(
            severity="warning",
            code="rare_class",
            message=f"{are(len(rare), 'class')} on fewer than {min_images} pictures "
            f"of the split {split!r}: expect poor masks of them.",
            cure="Add pictures; a few dozen per class is a start.",
            **named([f"{name} ({count})" for count, name in rare]),
        )
    ]


def _everywhere(counts: NDArray[np.int64], n: int, classes: tuple[str, ...], split: str) -> list[Finding]:
    names = [
        f"{name} ({count} of {n})"
        for name, count in zip(classes, counts, strict=True)
        if count >= max(MIN_EVIDENCE, ALMOST * n)
    ]
    if not names:
        return []
    return [
        Finding(
            severity="warning",
            code="everywhere",
            message=f"{are(len(names), 'class')} on (almost) every picture of the split {split!r}: what is on every "
            "picture cannot be told from the background by tags.",
            cure="Add pictures without, from the same places.",
            **named(names),
        )
    ]


def _together(
    tags: NDArray[np.bool_], counts: NDArray[np.int64], classes: tuple[str, ...], split: str
) -> list[Finding]:
    """Pairs that share (almost) all their pictures, and classes that (almost) never occur without another."""
    n = len(tags)
    both = _shared(tags)
    pairs, one_sided = [], []
    everywhere = counts >= max(MIN_EVIDENCE, ALMOST * n)
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
    findings = []
    if pairs:
        findings.append(
            Finding(
                severity="warning",
                code="always_together",
                message=f"{some(len(pairs), 'pair')} of classes with (almost) all their pictures in common in the "
                f"split {split!r}: weakly supervised segmentation cannot separate them, each will cover both.",
                cure=f"{_SEPARATE}; or make one class of the two.",
                **named(pairs),
            )
        )
    if one_sided:
        findings.append(
            Finding(
                severity="warning",
                code="never_without",
                message=f"{some(len(one_sided), 'class')} of the split {split!r} with (almost) no picture without "
                "another one: masks may spill over it.",
                cure=f"{_SEPARATE}.",
                **named(one_sided),
            )
        )
    return findings


def _shared(tags: NDArray[np.bool_], chunk: int = 4096) -> NDArray[np.int64]:
    """int64 [C, C]: pictures that show both classes."""
    both = np.zeros((tags.shape[1],) * 2)
    for start in range(0, len(tags), chunk):
        part = tags[start : start + chunk].astype(np.float32)
        both += part.T @ part
    return both.astype(np.int64)


def _negatives(tags: NDArray[np.bool_], split: str) -> list[Finding]:
    n = len(tags)
    count = int((~tags.any(axis=1)).sum())
    if count == 0:
        return [
            Finding(
                severity="note",
                code="negatives",
                message=f"The split {split!r} has no negatives, pictures that show none of the classes.",
                cure="Some from the same places (an empty tag cell) teach what is background; one in ten is plenty.",
            )
        ]
    many = count > MANY_NEGATIVES * n
    return [
        Finding(
            severity="warning" if many else "note",
            code="negatives",
            message=f"{count} of {some(n, 'picture')} of the split {split!r} ({count / n:.1%}) are negatives: none of "
            "the classes.",
            cure="Leave most of them out: steps on them teach little." if many else "None needed.",
        )
    ]


def _more(names: list[str], shown: int) -> str:
    return f" and {len(names) - shown} more" if len(names) > shown else ""
