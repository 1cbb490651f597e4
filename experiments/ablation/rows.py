"""What the ablation compares: rows of one change each, and the numbers of steps of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from tag2mask.config import (
    CRFParams,
    EnergyConfig,
    Profile,
    ReliableConfig,
    RetrainConfig,
    TrainConfig,
    tag_phase_settings,
)

BASE: Final = "clean"
"""The row that others are compared with, if they do not say otherwise."""
PARTS_BASE: Final = "no-teacher"
"""The row that the parts of the paper are compared with."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long the rows train; all see equal numbers of steps."""

    tag_steps: int = 600
    joint_steps: int = 300
    supervised_steps: int = 900
    second_seed_within: float | None = 0.02
    """Rows whose mIoU lies this close to the base row get a second seed; None for one seed only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    group: str
    title: str
    kind: Literal["one step", "two steps", "true masks"] = "one step"
    profile: Profile = "clean"
    change: Callable[[TrainConfig], TrainConfig] = dataclasses.replace
    """The one difference from the profile's rules."""
    against: str = BASE
    """Row that it is compared with."""
    warm: bool = False
    """Whether a second step starts from the backbone of the first, not from ImageNet weights."""


def _method(**values: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: config.replace(method=dataclasses.replace(config.method, **values))


_NO_CRF = CRFParams(iterations=0)
_KEPT_PERCENT = (20, 30, 50, 60)


def _part(**values: Any) -> dict[str, Any]:
    """A row that is compared without the teacher, whose labels would hide what the part is worth."""
    return {"against": PARTS_BASE, "change": _method(teacher=0.0, **values)}


def _reliable_part(**values: Any) -> dict[str, Any]:
    return _part(reliable=dataclasses.replace(ReliableConfig.clean(), **values))


ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        Row(name="official", group="rules", title="`official`: the published code", profile="official"),
        Row(name="paper", group="rules", title="`paper`: the equations", profile="paper"),
        Row(name=BASE, group="rules", title="`clean`: ours"),
        Row(name=PARTS_BASE, group="rules", title="`clean` without the teacher", change=_method(teacher=0.0)),
        Row(
            name="no-energy",
            group="loss terms",
            title="without the dense energy",
            **_part(energy=EnergyConfig(weight=0.0)),
        ),
        Row(
            name="plain-energy",
            group="loss terms",
            title="plain dense-CRF loss (gate S = 1) for the dense energy",
            **_part(energy=EnergyConfig(gate=False)),
        ),
        Row(
            name="no-crf",
            group="loss terms",
            title="labels from the CAM alone, no CRF",
            **_reliable_part(crf=_NO_CRF, min_crf=0.0),
        ),
        Row(
            name="no-mask",
            group="loss terms",
            title="every pixel's CRF label, no reliability mask",
            **_reliable_part(votes="one", keep=1.0, min_cam=0.0, min_background=0.0, min_crf=0.0, agreement="union"),
        ),
        Row(name="one-scale", group="CAM", title="CAM at one scale", **_part(cam_scales=(1.0,))),
        *(
            Row(
                name=f"keep-{percent}",
                group="share kept",
                title=f"{percent} % kept",
                **_reliable_part(keep=percent / 100),
            )
            for percent in _KEPT_PERCENT
        ),
        Row(
            name="seedless-background",
            group="rules",
            title="a tagged picture without a seed is background, as published",
            change=_method(reliable=dataclasses.replace(ReliableConfig.clean(), unseeded="background")),
        ),
        Row(name="union", group="tried", title="CAM and CRF need not agree", **_reliable_part(agreement="union")),
        Row(name="two-step", group="second step", title="second step on the masks of `clean`", kind="two steps"),
        Row(
            name="two-step-warm",
            group="second step",
            title="the same, started from the backbone of `clean`",
            kind="two steps",
            warm=True,
        ),
        Row(name="ceiling", group="second step", title="the second step's network on true masks", kind="true masks"),
    )
}


def one_step_config(row: Row, plan: Plan, *, data: str, seed: int) -> TrainConfig:
    """The whole run of a row of one step."""
    config = TrainConfig.preset("small", profile=row.profile, data=data, seed=seed)
    return row.change(config).replace(
        tag_steps=plan.tag_steps,
        joint_steps=plan.joint_steps,
        sample_every=0,
        validate_pictures=1,  # scored afterwards, all rows alike
    )


def tag_phase_config(config: TrainConfig) -> TrainConfig:
    """The tag phase alone of `config`; rows that differ in the joint phase only share it."""
    return tag_phase_settings(config).replace(workers=config.workers, sample_every=0, validate_pictures=1)


def second_step_config(row: Row, plan: Plan, *, data: str, split: str | None, masks: str, seed: int) -> RetrainConfig:
    """The second step of a row: on `masks`, or on the data set's own."""
    own = row.kind == "true masks"
    return RetrainConfig.preset(
        "small",
        data=data,
        train_split=split,
        seed=seed,
        masks="" if own else masks,
        own_masks=own,
        supervised_steps=plan.supervised_steps,
        sample_every=0,
        val_split="none",
    )
