"""Pictures that are there more than once, and those that are both trained and scored on. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tag2mask.data.dataset import Picture
from tag2mask.data.findings import Finding, about, are, some
from tag2mask.data.storage.fingerprint import NEAR, joined, near_pairs
from tag2mask.jobs.checking.looking import Look

_SHOWN = 4
"""So many names of one group are written out."""
_GROUP = (
    "Keep pictures of one thing on one side: --group-by look goes by their looks, --group-by REGEX by what their names "
    "share, in every command that splits these data (docs/data.md); or write splits/."
)
Indices = NDArray[np.intp]


def copy_findings(
    pictures: Sequence[Picture],
    looks: Sequence[Look],
    trained: Indices,
    held_out: Mapping[str, Indices],
    tagged: Indices,
    *,
    by_hash: bool,
) -> list[Finding]:
    """Leaks from training into held-out splits, equal files, equal files with unlike tags, near-duplicates.

    Of the pictures, the files of all splits, each once, `trained`, `held_out` (by the name of the split) and `tagged`
    (those whose tags are known) hold the indices. `by_hash`: the held-out ones are chosen by the hash of their names.
    """
    equal = equal_files(looks)
    group, twin = similar_pictures(looks, trained)
    copied = _groups(equal, range(len(pictures)))
    alike = _groups(group, [i for i in range(len(pictures)) if equal[i] == i])
    unlike = [each for each in _groups(equal, tagged.tolist()) if len({frozenset(pictures[i].tags) for i in each}) > 1]
    return [
        *chain(
            *(_leak(pictures, looks, equal, twin, trained, split, held, by_hash) for split, held in held_out.items())
        ),
        *_about_groups(
            pictures,
            unlike,
            code="contradictions",
            message=f"{some(len(unlike), 'group')} of equal files whose tags differ: the network is told two things.",
            cure="Keep one file of each group, with all tags that are true.",
        ),
        *_about_groups(
            pictures,
            copied,
            code="duplicates",
            message=f"{are(sum(map(len, copied)) - len(copied), 'file')} the same, byte for byte, as another one "
            f"({some(len(copied), 'group')}).",
            cure="Keep one of each group: copies weigh twice in training and in scores.",
        ),
        *_about_groups(
            pictures,
            alike,
            code="near_duplicates",
            message=f"{some(len(alike), 'group')} of pictures that look (almost) the same, {sum(map(len, alike))} in "
            f"all: at most {NEAR} of 64 bits of their fingerprints differ.",
            cure="Keep one of each group, or at least keep a group in one split.",
        ),
    ]


def equal_files(looks: Sequence[Look]) -> Indices:
    """For each picture the index of the first whose file has the same bytes; its own where it is alone or broken."""
    first: dict[bytes, int] = {}
    return np.array(
        [first.setdefault(look.digest, i) if look.error is None else i for i, look in enumerate(looks)], dtype=np.intp
    )


def similar_pictures(looks: Sequence[Look], trained: Indices) -> tuple[Indices, Indices]:
    """(group, twin), int [N] each, by fingerprints at most `NEAR` bits apart; broken and flat pictures are alone.

    group: index of the first picture of the group, where a group is all that is joined by a chain of near pairs.
    twin: index of a picture of `trained` that is near the picture itself (for one of `trained` it may be itself); -1
    where there is none.
    """
    n = len(looks)
    good = np.array([i for i, look in enumerate(looks) if look.error is None and not look.flat], dtype=np.intp)
    bits = np.array([looks[i].fingerprint for i in good], dtype=np.uint64)
    distinct, code = np.unique(bits, return_inverse=True)
    # n stands for "none": the smallest index wins, whatever the order of the pairs
    of_training = np.full(len(distinct), n)
    is_trained = np.zeros(n, dtype=bool)
    is_trained[trained] = True
    np.minimum.at(of_training, code[is_trained[good]], good[is_trained[good]])
    nearest = of_training.copy()
    label = np.arange(len(distinct))
    for one, two in near_pairs(distinct):
        np.minimum.at(nearest, one, of_training[two])
        np.minimum.at(nearest, two, of_training[one])
        label = joined(label, one, two)
    first = np.full(len(distinct), n)
    np.minimum.at(first, label[code], good)
    group, twin = np.arange(n), np.full(n, -1)
    group[good] = first[label[code]]
    twin[good] = np.where(nearest < n, nearest, -1)[code]
    return group, twin


def _groups(key: Indices, members: Iterable[int]) -> list[list[int]]:
    """Members that share a key, for every key that several share."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for i in members:
        found[int(key[i])].append(i)
    return [each for each in found.values() if len(each) > 1]


def _about_groups(
    pictures: Sequence[Picture], groups: Sequence[Sequence[int]], *, code: str, message: str, cure: str
) -> tuple[Finding, ...]:
    """A finding that names groups of pictures and shows some files of each."""
    names = []
    for group in groups:
        more = [f"{len(group) - _SHOWN} more"] if len(group) > _SHOWN else []
        names.append(" = ".join([*(pictures[i].name for i in group[:_SHOWN]), *more]))
    files = [tuple(pictures[i].path for i in group[:_SHOWN]) for group in groups]
    return about(names, files, code=code, message=message, cure=cure)


def _leak(
    pictures: Sequence[Picture],
    looks: Sequence[Look],
    equal: Indices,
    twin: Indices,
    trained: Indices,
    split: str,
    held: Indices,
    by_hash: bool,
) -> tuple[Finding, ...]:
    """Pictures of a held-out split that train as well, as the same file, as an equal one, or nearly."""
    in_training = set(trained.tolist())
    copy_in_training = {int(equal[i]): int(i) for i in reversed(trained) if looks[i].error is None}
    same, copied, near = [], [], []
    for i in map(int, held):
        if i in in_training:
            same.append((i,))
        elif int(equal[i]) in copy_in_training:
            copied.append((i, copy_in_training[int(equal[i])]))
        elif twin[i] >= 0:
            near.append((i, int(twin[i])))
    leaks = [*same, *copied, *near]
    kinds = ((same, "listed in both"), (copied, "copied"), (near, "nearly the same"))
    how = ", ".join(f"{len(each)} {what}" for each, what in kinds if each)
    names = [
        f"{pictures[pair[0]].name}: {f'looks like {pictures[pair[1]].name}' if len(pair) > 1 else 'in both lists'}"
        for pair in leaks
    ]
    return about(
        names,
        [tuple(pictures[i].path for i in pair) for pair in leaks],
        code="leak",
        message=f"{len(leaks)} of {some(len(held), 'picture')} of the split {split!r} "
        f"({len(leaks) / max(1, len(held)):.1%}) also train ({how}): scores on it are too good.",
        cure=_GROUP if by_hash else "Take them out of one of the two. Pictures of one scene belong into one split.",
    )
