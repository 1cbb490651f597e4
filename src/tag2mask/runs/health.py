"""Whether a run has learned its tags: a model that has not gives masks that mean nothing. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tag2mask.base.files import model_metadata
from tag2mask.base.tables import text_table
from tag2mask.config import RunConfig, TrainConfig
from tag2mask.config.run import MAX_STEPS
from tag2mask.data.findings import Finding

SUMMARY = "summary.json"
"""File of a finished run whose key `health` holds `Health.as_dict`."""
FINDINGS = "findings"
"""Key of a model file's metadata: the findings of `Health` as JSON, so that they go wherever the file goes."""
_NOTHING = "nothing_learned"
NEARLY_ALL = 0.95
"""Share of pictures from which on nothing is left."""
LEVEL = 0.05
"""Scores that so many of the random orders of the pictures reach are no better than chance."""
SEEN = 0.1
"""So much of the way from chance to 1 is a sign that something is learned, even of too few pictures to be certain."""
LEAST = 3
"""Held-out pictures that a class needs to be judged."""
_LEAST_TAGS = 5
"""Tags whose CAM is looked at, from which on empty ones stop a run."""
_LEAST_STEPS = 50
"""A shorter tag phase has had no chance to learn: it is warned of, not stopped."""


@dataclass(frozen=True, kw_only=True)
class ClassHealth:
    """How well the tag of one class is known."""

    name: str
    num_images: int
    """Pictures that have it."""
    ap: float | None = None
    """Average precision in 0..1; None where no picture has the class."""
    chance: float | None = None
    """What a random order gives: the share of pictures that have it."""
    by_chance: float | None = None
    """Share of the random orders of the pictures with an average precision as high; None where there are too few to
    judge it."""

    @property
    def at_chance(self) -> bool:
        """Whether the scores of this class are no better than chance."""
        return self.by_chance is not None and self.by_chance > LEVEL

    @property
    def verdict(self) -> str:
        """What is to be said of it; empty where it is known."""
        if not self.num_images:
            return "no picture"
        if self.by_chance is None:
            return "too few pictures to judge"
        return "no better than chance" if self.at_chance else ""


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a network makes of pictures whose tags are known, the held-out ones where there are some."""

    source: str
    """Which pictures these are."""
    num_images: int
    classes: tuple[ClassHealth, ...]
    by_chance: float | None
    """As of a class, for the mean over classes; None where no class can be judged."""
    empty_cams: float | None
    """Share of the tags whose class activation map is empty; None for a network of the second step."""
    num_tags: int
    """Tags whose class activation map was looked at."""
    background_only: float | None
    """Share of the tagged pictures whose mask, the tags given, is all background; None where no step has taught any."""

    @property
    def tag_map(self) -> float | None:
        """Mean average precision over the classes that occur."""
        return _mean([each.ap for each in self.classes if each.ap is not None])

    @property
    def tag_map_chance(self) -> float | None:
        """What a random order gives."""
        return _mean([each.chance for each in self.classes if each.chance is not None])

    @property
    def weak(self) -> tuple[ClassHealth, ...]:
        """The classes that are no better than chance."""
        return tuple(each for each in self.classes if each.at_chance)

    @property
    def row(self) -> dict[str, float]:
        """Its columns of metrics.csv."""
        values = {"tag_map": self.tag_map, "tag_map_chance": self.tag_map_chance, "empty_cams": self.empty_cams}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def _no_tags(self) -> tuple[str, ...]:
        if self.by_chance is None or self.by_chance <= LEVEL or self.tag_map is None or self.tag_map_chance is None:
            return ()
        if self.tag_map - self.tag_map_chance >= SEEN * (1 - self.tag_map_chance):
            return ()
        numbers = f"mAP {self.tag_map:.2f}, by chance {self.tag_map_chance:.2f}"
        return (f"the tag scores are no better than chance ({numbers})",)

    @property
    def _no_cams(self) -> tuple[str, ...]:
        if self.empty_cams is None or self.empty_cams < NEARLY_ALL:
            return ()
        return (f"the class activation maps of {self.empty_cams:.0%} of the tags are empty",)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why nothing was learned; empty where something was."""
        told = [*self._no_tags, *self._no_cams]
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
            code=_NOTHING,
            message=f"This model has learned nothing that masks could be made of: {' and '.join(self.reasons)}, on "
            f"{self.num_images} {self.source}.",
            cure=cure,
        )
        return (finding,)

    def stop(self, run: Path, config: TrainConfig) -> str | None:
        """Why no masks can follow the tag phase, with the command that goes on; None where they may, or must be tried.

        They must where there is too little to judge by, or where the tag phase was too short to learn anything.
        """
        reasons = [*self._no_tags, *(self._no_cams if self.num_tags >= _LEAST_TAGS else ())]
        if not reasons or config.tag_steps < _LEAST_STEPS:
            return None
        steps = longer_tag_phase(config)
        stopped = (
            "Stopped and saved before the joint phase, as there is nothing to learn masks from"
            if config.joint_steps
            else "The run is saved, but there is nothing to learn masks from"
        )
        return (
            f"{stopped}: {' and '.join(reasons)}, on {self.num_images} {self.source}, "
            f"after {config.tag_steps} steps on tags. Go on with more of them: "
            f"`tag2mask train --resume {shlex.quote(str(run))} --tag-steps {steps}`, there "
            "also with another --optim.lr, or begin anew with more pictures; `tag2mask check` says whether the data is "
            "fit."
        )

    def lines(self) -> list[str]:
        """A table for people: each class with its pictures, average precision, and what chance gives."""
        head = [f"tags of {self.num_images} {self.source}:"]
        if self.tag_map is not None:
            head += [f"mean average precision {self.tag_map:.3f}, by chance {self.tag_map_chance:.3f};"]
        if self.empty_cams is not None:
            head += [f"empty CAMs {self.empty_cams:.0%};"]
        rows = [["class", "pictures", "AP", "chance", ""]]
        for each in self.classes:
            numbers = ["-" if value is None else f"{value:.3f}" for value in (each.ap, each.chance)]
            rows.append([each.name, str(each.num_images), *numbers, each.verdict])
        *columns, verdicts = zip(*rows, strict=True)
        table = text_table(list(zip(*columns, strict=True)), least=6)
        return [" ".join(head).rstrip(";:"), *(f"  {a}  {b}".rstrip() for a, b in zip(table, verdicts, strict=True))]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        classes = [dataclasses.asdict(each) | {"verdict": each.verdict} for each in self.classes]
        means = {"tag_map": self.tag_map, "tag_map_chance": self.tag_map_chance}
        return dataclasses.asdict(self) | means | {"classes": classes}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def longer_tag_phase(config: TrainConfig) -> int:
    """Tag steps to try where those of a run have taught nothing: twice as many."""
    return min(2 * config.tag_steps, MAX_STEPS)


def nothing_learned(run: object) -> tuple[Finding, ...]:
    """The finding of a run folder, or of a model file, that has learned nothing; none where nobody has judged."""
    if not isinstance(run, str | Path):
        return ()
    return tuple(each for each in _kept(model_metadata(Path(run))) if each.code == _NOTHING)


def model_findings(metadata: Mapping[str, str], config: RunConfig) -> tuple[Finding, ...]:
    """What is to be said of a model wherever it is used: what its file keeps, and what its settings tell."""
    told = untrained_segmentation(config)
    return (*(each for each in _kept(metadata) if each not in told), *told)


def untrained_segmentation(config: RunConfig) -> tuple[Finding, ...]:
    """The finding of a run that has learned tags only, so that the masks of its segmentation branch mean nothing."""
    if not isinstance(config, TrainConfig) or config.joint_steps:
        return ()
    finding = Finding(
        severity="warning",
        code="untrained_segmentation",
        message="This model has learned tags only; the masks of its segmentation branch mean nothing.",
        cure="Draw masks of tagged pictures with `tag2mask pseudo-label --source evidence`, and train a second network "
        "on them with `tag2mask retrain`; or train with --joint-steps.",
    )
    return (finding,)


def _kept(metadata: Mapping[str, str]) -> tuple[Finding, ...]:
    """The findings in the metadata of a model file; none in one of an older version."""
    found = json.loads(metadata.get(FINDINGS, "[]"))
    return tuple(Finding(**values | {"names": tuple(values["names"])}) for values in found)
