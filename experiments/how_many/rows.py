"""What is compared: numbers of pictures, shares of wrong tags, and what may help where there are few pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tag2mask.config import TrainConfig

ALL: Final = "all"
"""The row on all pictures with the tags as they are."""
COUNTS = (50, 150, 500, 1000)
WRONG_PERCENT = (5, 10, 20)
FEW = 150
"""Pictures of the rows that try what may help."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the rows train, all alike, and how often."""

    tag_steps: int = 600
    joint_steps: int = 300
    seeds: int = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    group: str
    title: str
    pictures: int | None = None
    """Pictures to train on; None for all."""
    wrong: float = 0.0
    """Share of the pictures with a wrong tag, in 0..1."""
    against: str = ALL
    """Row that it is compared with."""
    change: Callable[[TrainConfig], TrainConfig] = dataclasses.replace
    """What differs from the preset."""


def _few(name: str, title: str, change: Callable[[TrainConfig], TrainConfig]) -> Row:
    return Row(
        name=f"{FEW}-{name}", group=f"what may help {FEW}", title=title, pictures=FEW, against=str(FEW), change=change
    )


def _augment(**values: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: config.replace(augment=dataclasses.replace(config.augment, **values))


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        *(Row(name=str(n), group="pictures", title=f"{n} pictures", pictures=n) for n in COUNTS),
        Row(name=ALL, group="pictures", title="all pictures"),
        *(
            Row(
                name=f"wrong-{percent}",
                group="wrong tags",
                title=f"{percent} % of all pictures with a wrong tag",
                wrong=percent / 100,
            )
            for percent in WRONG_PERCENT
        ),
        _few(
            "augment",
            "stronger changes: scale 0.5 to 1.5, jitter 0.6",
            _augment(scale=(0.5, 1.5), jitter=(0.6, 0.6, 0.6, 0.1)),
        ),
        _few("freeze", "fewer trained layers: `--freeze-stride 8`", lambda config: config.replace(freeze_stride=8)),
        _few("freeze-16", "still fewer: `--freeze-stride 16`", lambda config: config.replace(freeze_stride=16)),
        _few("long", "twice the tag steps", lambda config: config.replace(tag_steps=2 * config.tag_steps)),
    )
}


def row_config(row: Row, plan: Plan, *, data: str, split: str | None, seed: int) -> TrainConfig:
    """The run of a row on what is written for it."""
    config = TrainConfig.preset("small", data=data, train_split=split, seed=seed, sample_every=0)
    return row.change(config.replace(tag_steps=plan.tag_steps, joint_steps=plan.joint_steps))
