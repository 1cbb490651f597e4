"""Which tags are probably wrong: those that a trained model contradicts. Imports no torch.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal
of Artificial Intelligence Research 70, 2021), a yes or no per class: the threshold of each answer is the mean score of
the pictures that are tagged so, and what is off the diagonal of the confident joint is suspicious.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.files import whole_file
from tag2mask.data.dataset import Picture, PictureSet
from tag2mask.data.storage.pictures import PictureError, read_picture
from tag2mask.inference.segmenter import Segmenter
from tag2mask.jobs.checking.looking import Progress

LIST = "suspicious_tags.csv"
"""The whole list, beside the page."""
_ERRORS = 3.0
"""Standard errors by which the mean scores with and without a class differ at least where a model knows it."""
_COLUMNS = ("file_name", "class", "given", "score", "usual", "doubt", "split")


@dataclass(frozen=True, kw_only=True)
class SuspiciousTag:
    """A picture and a class: given though the model says no, or not given though it says yes."""

    file_name: str
    class_name: str
    given: bool
    """Whether the picture is tagged with the class."""
    score: float
    """Probability of the tag classifier, in 0..1."""
    usual: float
    """Mean score of the class on the pictures that are tagged alike."""
    doubt: float
    """How far the score lies from the usual one, in 0..1."""
    split: str
    path: Path = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without the path."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


@dataclass(frozen=True, kw_only=True)
class SuspiciousTags:
    """What a model says of the tags of a data set."""

    run: str
    num_images: int
    """Pictures whose tags were judged."""
    tags: tuple[SuspiciousTag, ...]
    """The most doubtful first."""
    not_judged: dict[str, str]
    """Why a class could not be judged, by its name."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return vars(self) | {"tags": [each.as_dict() for each in self.tags]}


def suspicious_tags(
    segmenter: Segmenter, sets: Mapping[str, PictureSet], *, run: str = "", progress: Progress | None = None
) -> SuspiciousTags:
    """Compare the tags of some splits with the tag scores of a model.

    Args:
        segmenter: The model, trained on these pictures or on others.
        sets: Splits with tags, by name; a picture in several counts once, pictures that cannot be read do not.
        run: What to call the model.
        progress: Called with (pictures done, pictures in all, name of the last).

    Raises:
        ValueError: the model knows none of the classes.
    """
    classes = tuple(dict.fromkeys(name for each in sets.values() for name in each.classes))
    known = [name for name in classes if name in segmenter.classes]
    if classes and not known:
        raise ValueError(
            f"{run or 'The model'} knows none of the classes of the data ({', '.join(classes)}); its classes are "
            f"{', '.join(segmenter.classes)}. Give a run that was trained on these classes."
        )
    found, scores, tags = scored_tags(segmenter, sets, known, progress)
    judged, suspicious, usual = contradictions(scores, tags)
    doubts = np.abs(scores - usual)
    listed = [
        SuspiciousTag(
            file_name=found[i][1].name,
            class_name=known[j],
            given=bool(tags[i, j]),
            score=float(scores[i, j]),
            usual=float(usual[i, j]),
            doubt=float(doubts[i, j]),
            split=found[i][0],
            path=found[i][1].path,
        )
        for i, j in zip(*np.nonzero(suspicious), strict=True)
    ]
    reasons = {name: "the model does not know it" for name in classes if name not in known}
    for name, fine in zip(known, judged, strict=True):
        if not fine:
            reasons[name] = "the model's scores do not tell pictures with it from pictures without"
    order = sorted(listed, key=lambda each: (-each.doubt, each.file_name, each.class_name))
    return SuspiciousTags(run=run, num_images=len(found), tags=tuple(order), not_judged=reasons)


def contradictions(
    scores: NDArray[np.float64], tags: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Tags that scores contradict.

    A given tag is contradicted where its score is no higher than the mean of the pictures without the class, one that
    is not given where its score is no lower than the mean of the pictures with it. Where the means do not differ by
    more than chance the model does not know the class, and nothing is said of it.

    Args:
        scores: float [N, C] in 0..1.
        tags: bool [N, C].

    Returns:
        bool [C] of the classes that can be judged, bool [N, C] of the contradictions, and float [N, C], the mean score
        of the class on the pictures that are tagged alike.
    """
    with_it, error_with = _mean_and_error(scores, tags)
    without, error_without = _mean_and_error(scores, ~tags)
    judged = with_it - without > _ERRORS * np.hypot(error_with, error_without)
    contradicted = np.where(tags, scores <= without, scores >= with_it) & judged
    return judged, contradicted, np.where(tags, with_it, without)


def _mean_and_error(
    scores: NDArray[np.float64], among: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean score per class over the pictures `among`, bool [N, C], and its standard error; infinite of less than 2."""
    counts = among.sum(0)
    mean = np.where(among, scores, 0).sum(0) / np.maximum(counts, 1)
    squares = np.where(among, (scores - mean) ** 2, 0).sum(0)
    error = np.sqrt(squares / np.maximum(counts - 1, 1) / np.maximum(counts, 1))
    return mean, np.where(counts > 1, error, np.inf)


def scored_tags(
    segmenter: Segmenter, sets: Mapping[str, PictureSet], classes: Sequence[str], progress: Progress | None = None
) -> tuple[list[tuple[str, Picture]], NDArray[np.float64], NDArray[np.bool_]]:
    """(split, picture) of each that can be read, its tag scores float [N, C] and its tags bool [N, C].

    The C `classes` are some that the model knows; for the rest see `suspicious_tags`.
    """
    every: dict[Path, tuple[str, Picture]] = {}
    names: dict[Path, set[str]] = {}
    for split, each in sets.items():
        for picture in each.pictures:
            every.setdefault(picture.path, (split, picture))
            names.setdefault(picture.path, {each.classes[i] for i in picture.tags})
    columns = [segmenter.classes.index(name) for name in classes]
    found, scores = [], []
    for done, (split, picture) in enumerate(every.values(), start=1):
        with contextlib.suppress(PictureError, OSError):  # `check` names it
            scores.append(segmenter.score_maps([read_picture(picture.path)])[0][1][columns])
            found.append((split, picture))
        if progress is not None:
            progress(done, len(every), picture.name)
    shape = (len(found), len(classes))
    tags = [[name in names[picture.path] for name in classes] for _, picture in found]
    return found, np.array(scores, dtype=np.float64).reshape(shape), np.array(tags, dtype=bool).reshape(shape)


def write_list(path: Path, suspicious: SuspiciousTags) -> Path:
    """Write suspicious_tags.csv: a line per tag, the most doubtful first."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for each in suspicious.tags:
            numbers = (f"{value:.4f}" for value in (each.score, each.usual, each.doubt))
            writer.writerow([each.file_name, each.class_name, "yes" if each.given else "no", *numbers, each.split])
    return path
