"""Which few of many pictures are shown: some of each class, and few without any. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

_NEGATIVES = 4
"""At most one picture in so many shows no class."""


def some_of_each(classes: Sequence[Collection[Hashable]], most: int) -> list[int]:
    """Indices of at most `most` pictures, class by class in turn; the first of a class goes first.

    Pictures without a class are at most a quarter, so there may be fewer pictures than asked for; where no picture has
    a class it is a single one.

    Args:
        classes: Of each picture, in the order in which they are preferred.
        most: 1 or more.
    """
    kinds = dict.fromkeys(kind for each in classes for kind in each)
    waiting = {kind: [i for i, each in enumerate(classes) if kind in each] for kind in kinds}
    chosen: dict[int, None] = {}
    while len(chosen) < most and any(waiting.values()):
        for left in waiting.values():
            left[:] = [i for i in left if i not in chosen]
            if left and len(chosen) < most:
                chosen[left.pop(0)] = None
    negatives = [i for i, each in enumerate(classes) if not each]
    if not chosen:
        return negatives[:1]
    few = min(most // _NEGATIVES, (len(chosen) + 1) // _NEGATIVES)
    if few and negatives and len(chosen) == most and len(kinds) < most:  # a second picture of a class makes room
        chosen.popitem()
    return [*chosen, *negatives[: min(few, most - len(chosen))]]
