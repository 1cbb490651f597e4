"""Whether a run has learned its tags at all: a model that has not gives masks that mean nothing. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.files import model_metadata
from tag2mask.data.findings import Finding

SUMMARY = "summary.json"
"""File of a finished run whose key `learned` holds `Learned.as_dict`."""
FINDINGS = "findings"
"""Key of a model file's metadata: the findings of `Learned` as JSON, so that they go wherever the file goes."""
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
        finding = Finding(
            severity="warning",
            code="nothing_learned",
            message=f"This model has learned nothing that masks could be made of: {' and '.join(self.reasons)}, on "
            f"{self.num_images} training pictures.",
            cure=cure,
        )
        return (finding,)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


def nothing_learned(run: object) -> tuple[Finding, ...]:
    """The finding of a run folder, or of a model file, that has learned nothing; none where nobody has judged."""
    if not isinstance(run, str | Path):
        return ()
    return kept_findings(model_metadata(Path(run)))


def kept_findings(metadata: Mapping[str, str]) -> tuple[Finding, ...]:
    """The findings in the metadata of a model file; none in one of an older version."""
    found = json.loads(metadata.get(FINDINGS, "[]"))
    return tuple(Finding(**values | {"names": tuple(values["names"])}) for values in found)
