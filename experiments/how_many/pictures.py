"""What a row learns from: a part of the pictures, or all with some tags made wrong. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.files import make_folder_atomically, write_lines, write_text
from tag2mask.data import Picture, PictureSet
from tag2mask.jobs.converting.folders import tag_table

LEAST = 5
"""A part has so many pictures of every class, where that many exist and fit."""


def part(pictures: PictureSet, count: int, seed: int) -> list[Picture]:
    """A part of the pictures in which every class has its share, in their order; the smaller lies in the larger."""
    tags = tag_matrix(pictures.pictures, pictures.num_classes)
    return [pictures.pictures[i] for i in sorted(stratified_order(tags, seed)[:count])]


def tag_matrix(pictures: Sequence[Picture], num_classes: int) -> NDArray[np.bool_]:
    """Tags as bool [N, C]."""
    tags = np.zeros((len(pictures), num_classes), dtype=bool)
    for row, picture in zip(tags, pictures, strict=True):
        row[list(picture.tags)] = True
    return tags


def stratified_order(tags: NDArray[np.bool_], seed: int) -> list[int]:
    """All pictures in a random order whose beginnings have each class's share; negatives count as a class.

    The next picture is one of the class with the fewest so far, and once all have `LEAST` of the one with the smallest
    share of its pictures.

    Args:
        tags: bool [N, C].
        seed: Of the order.
    """
    groups = np.concatenate([tags, ~tags.any(1, keepdims=True)], axis=1)
    groups = groups[:, groups.any(0)]
    total, taken = groups.sum(0), np.zeros(groups.shape[1], dtype=np.int64)
    random = np.random.default_rng(seed).permutation(len(tags))
    waiting = [[int(i) for i in random[::-1] if groups[i, j]] for j in range(groups.shape[1])]
    used = np.zeros(len(tags), dtype=bool)
    order: list[int] = []
    while len(order) < len(tags):
        for queue in waiting:
            while queue and used[queue[-1]]:
                queue.pop()
        open_groups = [j for j, queue in enumerate(waiting) if queue]
        j = min(open_groups, key=lambda j: (min(taken[j], LEAST), taken[j] / total[j]))
        i = waiting[j].pop()
        used[i] = True
        taken += groups[i]
        order.append(i)
    return order


def planted(pictures: Sequence[Picture], num_classes: int, share: float, seed: int) -> dict[str, int]:
    """The class whose tag is made wrong in `share` of the pictures, by the picture's name.

    One that is tagged will be missing in about half of them, one that is not will be one too many in the others; the
    mistakes of a smaller share are among those of a larger.
    """
    random = np.random.default_rng([seed, 1])
    found = {}
    for i in random.permutation(len(pictures)):
        tags = pictures[i].tags
        others = sorted(set(range(num_classes)) - set(tags))
        missing = bool(tags) and (not others or random.random() < 0.5)
        found[pictures[i].name] = int(random.choice(tags if missing else others))
    return dict(list(found.items())[: round(share * len(pictures))])


def changed(pictures: Sequence[Picture], wrong: Mapping[str, int]) -> list[Picture]:
    """The pictures with their wrong tags."""
    return [
        dataclasses.replace(each, tags=tuple(sorted(set(each.tags) ^ {wrong[each.name]})))
        if each.name in wrong
        else each
        for each in pictures
    ]


def write_folder(out: Path, train: Sequence[Picture], val: PictureSet) -> Path:
    """Write tags as a plain folder, in which `images` is a link to the folder where all pictures are; or leave it.

    Raises:
        ValueError: the pictures do not lie in one folder.
    """
    if out.is_dir():
        return out
    pictures = [*train, *val.pictures]
    homes = {each.path.parents[each.name.count("/")] for each in pictures}
    if len(homes) != 1 or any(not each.path.match(each.name) for each in pictures):
        raise ValueError(
            f"The pictures of {val.root} do not lie in one folder under their names, as wrong tags need it. Make a "
            "plain folder of it: tag2mask convert PATH --to folder --out DIR"
        )

    def fill(folder: Path) -> None:
        (folder / "images").symlink_to(homes.pop().resolve(), target_is_directory=True)
        write_text(folder / "tags.csv", tag_table(pictures, val.classes))
        write_lines(folder / "classes.txt", val.classes)
        for name, members in (("train", train), ("val", val.pictures)):
            write_lines(folder / "splits" / f"{name}.txt", [each.name for each in members])

    make_folder_atomically(out, fill)
    return out
