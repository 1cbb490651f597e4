"""Which picture a draw of training takes: every picture once per epoch, or classes and negatives in balance.

An order is a function of the seed and the number of the draw alone, so that a run that goes on, and processes that
share a batch, see the draws of one that never stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tag2mask.config.run import Sampling
from tag2mask.data.dataset import PictureSet
from tag2mask.data.storage.shards import shard_of

SHARDS_MIXED = 8
"""Shards whose pictures are shuffled together."""
MOST_NEGATIVES = 1 / 3
"""Largest share of pictures without tags among balanced draws."""
UNEQUAL = 5
"""How many times as many pictures one class has as another where draws are balanced by themselves."""
_SLOTS = 2
"""Draws of each class in a round of balanced draws."""


class Order(Protocol):
    """Which pictures a draw may take."""

    def candidates(self, n: int) -> Iterator[int]:
        """Indices of pictures for draw `n`, each once: the one to take, then those to take where it cannot be read."""
        ...


class UniformOrder:
    """Every picture once per epoch, in an order of its own."""

    def __init__(self, pictures: PictureSet, seed: int) -> None:
        self.count, self.seed = len(pictures.pictures), seed
        self.shards = _by_shard(pictures)
        self._epoch: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def candidates(self, n: int) -> Iterator[int]:
        """As `Order.candidates`."""
        epoch, start = divmod(n, self.count)
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch, 0))
            order = rng.permutation(self.count) if self.shards is None else shard_order(self.shards, rng)
            self._epoch = (epoch, order)
        yield from np.roll(self._epoch[1], -start) if start else self._epoch[1]


class BalancedOrder:
    """Every class equally often, and pictures without tags in at most `MOST_NEGATIVES` of the draws.

    Draws come in rounds that hold each class `_SLOTS` times; the pictures of a class follow each other in epochs of
    their own. A picture of several classes is drawn with each of them.
    """

    def __init__(self, pictures: PictureSet, seed: int) -> None:
        self.count, self.seed = len(pictures.pictures), seed
        tags = [picture.tags for picture in pictures.pictures]
        classes = [[i for i, own in enumerate(tags) if c in own] for c in range(pictures.num_classes)]
        negatives = [i for i, own in enumerate(tags) if not own]
        groups = [each for each in classes if each]
        slots = np.repeat(np.arange(len(groups)), _SLOTS if groups else 0)
        if negatives:
            share = min(len(negatives) / self.count, MOST_NEGATIVES if groups else 1)
            more = max(1, round(len(slots) * share / (1 - share))) if groups else 1
            slots = np.concatenate([slots, np.full(more, len(groups))])
            groups = [*groups, negatives]
        self.groups = [np.array(each, dtype=np.int64) for each in groups]
        self.slots = slots
        self._epochs: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def candidates(self, n: int) -> Iterator[int]:
        """As `Order.candidates`; those to take instead are of the same group first."""
        turn, place = divmod(n, len(self.slots))
        slots = self.slots[np.random.default_rng((self.seed, turn, 3)).permutation(len(self.slots))]
        group = int(slots[place])
        before = turn * int((self.slots == group).sum()) + int((slots[:place] == group).sum())
        own = self.groups[group]
        epoch, start = divmod(before, len(own))
        if self._epochs.get(group, (-1,))[0] != epoch:
            self._epochs[group] = (epoch, np.random.default_rng((self.seed, epoch, 4 + group)).permutation(own))
        yield from np.roll(self._epochs[group][1], -start) if start else self._epochs[group][1]
        yield from np.setdiff1d(np.arange(self.count), own, assume_unique=True)


def draw_order(pictures: PictureSet, sampling: Sampling, seed: int) -> Order:
    """The order of draws of a kind."""
    return BalancedOrder(pictures, seed) if sampling == "balanced" else UniformOrder(pictures, seed)


def fitting_sampling(pictures: PictureSet) -> tuple[Sampling, str]:
    """`balanced` where classes differ more than `UNEQUAL` times or more than half of the pictures have no tag, and why.

    Classes without any picture do not count.
    """
    counts = np.zeros(pictures.num_classes, dtype=np.int64)
    for picture in pictures.pictures:
        counts[list(picture.tags)] += 1
    negatives, present = sum(not picture.tags for picture in pictures.pictures), counts[counts > 0]
    if negatives > len(pictures.pictures) / 2:
        return "balanced", f"{negatives / len(pictures.pictures):.0%} of the pictures have no tag"
    if len(present) and present.max() > UNEQUAL * present.min():
        rarest = np.where(counts > 0, counts, counts.max()).argmin()
        most, least = (f"{pictures.classes[int(i)]} has {counts[i]}" for i in (counts.argmax(), rarest))
        return "balanced", f"{most} pictures, {least}"
    return "uniform", f"no class has more than {UNEQUAL} times as many pictures as another"


def tag_frequencies(pictures: PictureSet, sampling: Sampling) -> NDArray[np.float64]:
    """The share of draws that show each class, float64 [C]."""
    tags = np.zeros((len(pictures.pictures), pictures.num_classes))
    for row, picture in zip(tags, pictures.pictures, strict=True):
        row[list(picture.tags)] = 1
    if sampling == "uniform":
        return np.asarray(tags.mean(0))
    order = BalancedOrder(pictures, 0)
    means = np.stack([tags[group].mean(0) for group in order.groups])
    return np.asarray(means[order.slots].mean(0))


def shard_order(shards: Sequence[NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of pictures that keeps those of a shard near each other: shards are shuffled, and the pictures of each
    `SHARDS_MIXED` shards among themselves.

    Args:
        shards: Indices of the pictures of each shard.
        rng: Draws the order.

    Returns:
        int64 [N], each index once.
    """
    shuffled = [shards[i] for i in rng.permutation(len(shards))]
    groups = [np.concatenate(shuffled[i : i + SHARDS_MIXED]) for i in range(0, len(shuffled), SHARDS_MIXED)]
    return np.concatenate([rng.permutation(group) for group in groups])


def _by_shard(pictures: PictureSet) -> list[NDArray[np.int64]] | None:
    """Indices of the pictures by shard, where they lie in shards."""
    found: dict[Path, list[int]] = {}
    for index, picture in enumerate(pictures.pictures):
        shard = shard_of(picture.path)
        if shard is None:
            return None
        found.setdefault(shard, []).append(index)
    return [np.array(indices, dtype=np.int64) for _, indices in sorted(found.items())]
