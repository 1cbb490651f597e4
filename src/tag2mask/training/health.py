"""Pictures whose tags say whether a network learns, and the look at them (`runs.health`)."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tag2mask.base.team import ALONE, Team
from tag2mask.config import RunConfig, TrainConfig
from tag2mask.data import Picture, PictureError, PictureSet, read_picture
from tag2mask.data.readers.splits import HELD_OUT, name_number
from tag2mask.inference.first_step import one_look
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.tiles import tile_side
from tag2mask.runs.health import LEAST, Health
from tag2mask.scoring.report import Progress, readable
from tag2mask.scoring.tags import judge_tags

log = logging.getLogger("tag2mask")

MOST = 200
"""Pictures that are looked at, if the classes are not so many that they need more."""
_FEWEST = 20
"""Of fewer training pictures none is set aside."""
_AT_MOST = 5
"""One picture in so many of a class is set aside at most."""


@dataclass(frozen=True)
class KnownTags:
    """Pictures by whose tags a run is judged."""

    pictures: PictureSet
    source: str
    """What they are, in words."""


class Limits(NamedTuple):
    """How many pictures of a class are wanted, and may be taken."""

    wanted: int
    allowed: int


def has_tags(pictures: PictureSet | None) -> bool:
    """Whether any picture of a split has a tag."""
    return pictures is not None and any(picture.tags for picture in pictures.pictures)


def set_aside(
    config: RunConfig, pictures: PictureSet, held_out: PictureSet | None, known: Collection[str] | None = None
) -> tuple[PictureSet, PictureSet | None]:
    """The training pictures, and those set aside so that their tags can be held out; None where none are.

    None are where the validation split has tags, of a second step, and where there are too few: fewer than twenty
    pictures, or no class of which three pictures could be spared. Pictures whose true masks teach are never taken, and
    of a class at most a fifth.

    Args:
        config: Of the run.
        pictures: What it would learn from.
        held_out: Its validation split.
        known: Names that a run that goes on has set aside before; None chooses them.
    """
    by_mask = isinstance(config, TrainConfig) and bool(config.masks_for_some)
    free = [picture for picture in pictures.pictures if not (by_mask and picture.mask is not None)]
    if known is None:
        needs = isinstance(config, TrainConfig) and not has_tags(held_out) and len(pictures.pictures) >= _FEWEST
        known = {picture.name for picture in (_spared(free) if needs else ())}
    aside = tuple(picture for picture in free if picture.name in known)
    if not aside:
        return pictures, None
    taken = {picture.name for picture in aside}
    rest = tuple(picture for picture in pictures.pictures if picture.name not in taken)
    return dataclasses.replace(pictures, pictures=rest), dataclasses.replace(pictures, pictures=aside)


def known_tags(pictures: PictureSet, held_out: PictureSet | None, aside: PictureSet | None) -> KnownTags:
    """What a run is judged by: its validation split, else what was set aside, else pictures that it learns from."""
    if held_out is not None and has_tags(held_out):
        source, words = held_out, f"pictures of split {held_out.split}"
    elif aside is not None:
        source, words = aside, "training pictures that were set aside"
    else:
        source, words = pictures, "training pictures"
    chosen = stratified(source.pictures, most=_most(source.pictures))
    return KnownTags(dataclasses.replace(source, pictures=tuple(chosen)), words)


def _spared(pictures: Sequence[Picture]) -> list[Picture]:
    """A tenth of the pictures, of a class at least three, where that is at most a fifth of it."""
    found = Counter(kind for picture in pictures for kind in _kinds(picture))
    limits = {
        kind: Limits(count // HELD_OUT, count // HELD_OUT)
        if kind is None
        else Limits(max(LEAST, round(count / HELD_OUT)), count // _AT_MOST)
        for kind, count in found.items()
    }
    few = Limits(0, 0)
    limits = {kind: each if kind is None or each.allowed >= LEAST else few for kind, each in limits.items()}
    chosen = stratified(pictures, most=_most(pictures), limits=limits)
    counts = Counter(tag for picture in chosen for tag in picture.tags)
    return chosen if max(counts.values(), default=0) >= LEAST else []


def _most(pictures: Sequence[Picture]) -> int:
    return max(MOST, 2 * LEAST * len({tag for picture in pictures for tag in picture.tags}))


def _kinds(picture: Picture) -> tuple[int | None, ...]:
    """Its classes; None stands for that of the pictures without any."""
    return picture.tags or (None,)


def stratified(
    pictures: Sequence[Picture], *, most: int, limits: dict[int | None, Limits] | None = None
) -> list[Picture]:
    """At most `most` pictures in their order, of rare classes as many as there are; the hash of the name decides.

    Args:
        pictures: To choose from.
        most: How many.
        limits: Of each class; none are all its pictures, and then `most` pictures are taken if there are so many.
    """
    order = sorted(range(len(pictures)), key=lambda i: name_number(pictures[i].name))
    groups: dict[int | None, list[int]] = {}
    for i in order:
        for kind in _kinds(pictures[i]):
            groups.setdefault(kind, []).append(i)
    fills, chosen = limits is None, set[int]()
    limits = limits or {kind: Limits(len(group), len(group)) for kind, group in groups.items()}
    counts: Counter[int | None] = Counter()
    by_size = sorted(groups, key=lambda kind: len(groups[kind]))  # the rarest first
    for done, kind in enumerate(by_size):
        share = counts[kind] + (most - len(chosen)) // (len(groups) - done)
        for i in groups[kind]:
            if counts[kind] >= min(share, limits[kind].wanted):
                break
            kinds = _kinds(pictures[i])
            if i not in chosen and all(counts[each] < limits[each].allowed for each in kinds):
                chosen.add(i)
                counts.update(kinds)
    if fills:
        chosen.update([i for i in order if i not in chosen][: most - len(chosen)])
    return [pictures[i] for i in sorted(chosen)]


class _Look(NamedTuple):
    """What is seen of one picture."""

    scores: list[float]
    tags: list[bool]
    empty: list[bool]
    """Of each tag, whether its class activation map is."""
    background: bool | None
    """Whether the mask of a tagged picture is all background."""


def measure(
    segmenter: Segmenter,
    known: KnownTags,
    *,
    masks: bool = True,
    broken: dict[str, str] | None = None,
    progress: Progress | None = None,
    team: Team = ALONE,
) -> Health:
    """Judge a network by pictures whose tags are known, each of which passes it once.

    Args:
        segmenter: The network.
        known: The pictures.
        masks: Whether a step has taught its masks yet.
        broken: Gets the message per picture that cannot be read; such a picture is passed over.
        progress: Called with (done, all).
        team: Processes that share the pictures; all get the same.
    """
    broken = {} if broken is None else broken
    pictures = known.pictures
    read = readable(pictures.pictures, _read, broken=broken, progress=progress, team=team)
    looks = [_look(segmenter, rgb, [pictures.classes[i] for i in picture.tags], masks=masks) for picture, rgb in read]
    looks = [look for part in team.gather(looks) for look in part]
    size = (len(looks), len(segmenter.classes))
    scores = torch.tensor([look.scores for look in looks]).reshape(size)
    tags = torch.tensor([look.tags for look in looks], dtype=torch.bool).reshape(size)
    classes, by_chance = judge_tags(segmenter.classes, scores, tags)
    empty = [each for look in looks for each in look.empty]
    background = [look.background for look in looks if look.background is not None]
    return Health(
        source=known.source,
        num_images=len(looks),
        classes=classes,
        by_chance=by_chance,
        empty_cams=float(np.mean(empty)) if empty else None,
        num_tags=len(empty),
        background_only=float(np.mean(background)) if background else None,
    )


def _read(picture: Picture) -> NDArray[np.uint8]:
    try:
        return read_picture(picture.path)
    except OSError as error:
        raise PictureError(str(error)) from error


def _look(segmenter: Segmenter, rgb: NDArray[np.uint8], tags: Sequence[str], *, masks: bool) -> _Look:
    names = [name for name in segmenter.classes if name in tags]
    size, empty = (rgb.shape[0], rgb.shape[1]), []
    if isinstance(segmenter.config, TrainConfig) and tile_side(size, None, segmenter.config.image_size) is None:
        maps, scores, peaks = one_look(segmenter, rgb, names)
        # a map is divided by its maximum: its peak is 1 or, where it is empty, 0 or NaN
        empty = [not peak >= 0.5 for peak in peaks]
    else:
        maps, scores = segmenter.score_maps([rgb], allowed=[segmenter.allowed_labels(names)])[0]
    background = not maps.shows_objects() if names and masks else None
    values = [float(score) if math.isfinite(score) else 0.0 for score in scores]
    return _Look(values, [name in names for name in segmenter.classes], empty, background)
