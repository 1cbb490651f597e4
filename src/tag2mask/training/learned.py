"""Whether a run has learned its tags at all: a model that has not gives masks that mean nothing. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.files import model_metadata
from tag2mask.config import RetrainConfig
from tag2mask.data import PictureError, PictureSet, read_picture
from tag2mask.data.findings import Finding
from tag2mask.inference.tiles import tile_side

if TYPE_CHECKING:
    from tag2mask.inference.torch_backend import Segmenter

SUMMARY = "summary.json"
"""File of a finished run whose key `learned` holds `Learned.as_dict`."""
FINDINGS = "findings"
"""Key of a model file's metadata: the findings of `Learned` as JSON, so that they go wherever the file goes."""
_MOST = 64
"""Pictures that are looked at."""
NEARLY_ALL = 0.95
"""Share of pictures from which on nothing is left."""
_TOO_FEW = 0.2
"""Where chance alone moves the tag score further than this from a half, there are too few pictures to judge it."""


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a network makes of training pictures, their tags given."""

    num_images: int
    """Pictures that were looked at."""
    tag_auc: float | None
    """How often a picture with a class scores higher in it than one without, mean over classes; 0.5 is chance. None
    where every picture has the same tags."""
    chance: float
    """How far from 0.5 chance alone may move `tag_auc` (two standard deviations)."""
    empty_cams: float | None
    """Share of the tags whose class activation map is empty; None for a network of the second step."""
    background_only: float | None
    """Share of the tagged pictures whose mask is all background; None where no step has taught masks."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why nothing was learned; empty where something was."""
        told = []
        if self.tag_auc is not None and self.chance <= _TOO_FEW and self.tag_auc <= 0.5 + self.chance:
            told.append(
                f"the tag scores do not tell pictures with a class from pictures without (AUC {self.tag_auc:.2f})"
            )
        if self.empty_cams is not None and self.empty_cams >= NEARLY_ALL:
            told.append("the class activation maps are empty")
        if self.background_only is not None and self.background_only >= NEARLY_ALL:
            told.append("the masks of tagged pictures are all background")
        return tuple(told)

    def findings(self, *, second_step: bool = False) -> tuple[Finding, ...]:
        """What to say of a run that has learned nothing; empty where it has learned something."""
        if not self.reasons:
            return ()
        cure = (
            "Look at the masks that it learned from, and train longer (--supervised-steps) or with another --optim.lr."
            if second_step
            else "Train longer on tags (--tag-steps), with another --optim.lr, or on more pictures; `tag2mask check` "
            "says whether the data is fit."
        )
        nothing = Finding(
            severity="warning",
            code="nothing_learned",
            message=f"This model has learned nothing that masks could be made of: {' and '.join(self.reasons)}, on "
            f"{self.num_images} training pictures.",
            cure=cure,
        )
        return (nothing,)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


def look_at(segmenter: Segmenter, pictures: PictureSet, *, masks: bool = True) -> Learned:
    """Judge a network by a sample of its training pictures; the tags are all that is needed.

    Args:
        segmenter: The network.
        pictures: What it learned from; those that cannot be read are passed over.
        masks: Whether a step has taught its masks yet.
    """
    first_step = not isinstance(segmenter.config, RetrainConfig)
    scores, tags, empty, background = [], [], [], []
    # drawn, as every n-th picture may be of one class
    count = len(pictures.pictures)
    for i in sorted(random.Random(0).sample(range(count), min(_MOST, count))):
        picture = pictures.pictures[i]
        try:
            rgb = read_picture(picture.path)
        except (PictureError, OSError):
            continue
        names = [pictures.classes[i] for i in picture.tags]
        maps, score = segmenter.score_maps([rgb], allowed=[segmenter.allowed_labels(names)])[0]
        scores.append(score.numpy())
        tags.append([name in names for name in segmenter.classes])
        if names and masks:
            background.append(not maps.shows_objects())
        if names and first_step and tile_side((rgb.shape[0], rgb.shape[1]), None, segmenter.config.image_size) is None:
            empty += _empty_cams(segmenter, rgb, names)
    auc, chance = tag_auc(np.array(scores), np.array(tags)) if scores else (None, math.inf)
    return Learned(
        num_images=len(scores),
        tag_auc=auc,
        chance=chance,
        empty_cams=float(np.mean(empty)) if empty else None,
        background_only=float(np.mean(background)) if background else None,
    )


def _empty_cams(segmenter: Segmenter, rgb: NDArray[np.uint8], names: Sequence[str]) -> list[bool]:
    from tag2mask.scoring.label_quality import picture_cams, tag_vector

    cams, _ = picture_cams(segmenter, rgb, tag_vector(segmenter, names), (1.0,))
    # a map is divided by its maximum: its peak is 1 or, where it is empty, 0 or NaN
    return [not float(cams[0, segmenter.classes.index(name)].max()) >= 0.5 for name in names]


def tag_auc(scores: NDArray[Any], tags: NDArray[Any]) -> tuple[float | None, float]:
    """How well scores rank the pictures of a class before the others, and how far chance alone may move that.

    Args:
        scores: float [N, C].
        tags: bool [N, C].

    Returns:
        The mean over classes of the area under the ROC curve, equal scores counting half, and two standard deviations
        of that mean if scores were drawn at random; 0.5 and 0 where all pictures have the same scores. None and
        infinity where no class has pictures of both kinds.
    """
    areas, variances = [], []
    for score, tag in zip(scores.T, tags.T, strict=True):
        present, absent = score[tag][:, None], score[~tag][None]
        if present.size and absent.size:
            areas.append(float(np.mean((present > absent) + 0.5 * (present == absent))))
            variances.append((present.size + absent.size + 1) / (12 * present.size * absent.size))
    if not areas:
        return None, math.inf
    if (scores == scores[:1]).all():  # no chance about it
        return 0.5, 0.0
    return float(np.mean(areas)), 2 * math.sqrt(sum(variances)) / len(areas)


def nothing_learned(run: object) -> tuple[Finding, ...]:
    """The finding of a run folder, or of a model file, that has learned nothing; none where nobody has judged."""
    if not isinstance(run, str | Path):
        return ()
    return kept_findings(model_metadata(Path(run)))


def kept_findings(metadata: Mapping[str, str]) -> tuple[Finding, ...]:
    """The findings in the metadata of a model file; none in one of an older version."""
    found = json.loads(metadata.get(FINDINGS, "[]"))
    return tuple(Finding(**values | {"names": tuple(values["names"])}) for values in found)
