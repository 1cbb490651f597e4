"""What a run is, apart from its config: all that `last/state.pt` keeps, random states included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from tag2mask.base.errors import first_line
from tag2mask.base.team import Team
from tag2mask.models.base import SegmentationNetwork

_COUNTERS = ("step", "skipped", "nonfinite_in_a_row", "best_miou", "seconds", "unvalidated")


@dataclass
class TrainingState:
    """Network, optimizer, running average and counters; `to_dict` and `load_dict` must be called by all processes."""

    model: SegmentationNetwork
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    scaler: Any = None
    """The accelerator's loss scaler, in fp16 only."""
    step: int = 0
    skipped: int = 0
    nonfinite_in_a_row: int = 0
    broken: set[str] = field(default_factory=set)
    best_miou: float = -1.0
    seconds: float = 0.0
    """Wall time of the steps so far, over all attempts."""
    unvalidated: dict[str, Any] | None = None
    """The last step's row of metrics, where its validation was due and an interrupt came before it."""

    def to_dict(self, team: Team) -> dict[str, Any]:
        """All of it as tensors and plain values, with the random states of all processes."""
        random = team.gather(_random_state())
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "classes": list(self.model.classes),
            **{name: getattr(self, name) for name in _COUNTERS},
            "broken": sorted(self.broken),
            **random[0],
            "rng_of_others": random[1:],
        }

    def load_dict(self, saved: dict[str, Any], team: Team) -> None:
        """Take over what `to_dict` gave.

        Raises:
            ValueError: it is the state of another network, or damaged.
        """
        try:
            self._load(saved, team)
        except (RuntimeError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(
                "The saved state last/state.pt does not fit the run's config.json, or is damaged "
                f"({type(error).__name__}: {first_line(error)}). Take both from one run, or train the run anew"
            ) from error

    def _load(self, saved: dict[str, Any], team: Team) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        for name in _COUNTERS:
            setattr(self, name, saved.get(name, getattr(self, name)))  # older states lack some
        if not isinstance(self.step, int) or self.step < 0:
            raise ValueError(f"step is {self.step!r}")
        self.broken = set(saved["broken"])
        _set_random_state([saved, *saved.get("rng_of_others", [])], self.step, team)

    @property
    def keeper(self) -> SegmentationNetwork:
        """The network that validates and is saved: the running average where there is one."""
        return self.model if self.average is None else cast(SegmentationNetwork, self.average.module)


def _random_state() -> dict[str, Any]:
    return {"rng": torch.get_rng_state(), "cuda_rng": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []}


def _set_random_state(saved: list[dict[str, Any]], step: int, team: Team) -> None:
    """Go on with this process's random state; one that was not there at the save starts its own."""
    if team.index >= len(saved):
        own_random_state(team, step)
        return
    own = saved[team.index]
    torch.set_rng_state(own["rng"])
    if own["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda_rng"][0])


def own_random_state(team: Team, step: int) -> None:
    """Other dropout in each process; all else is drawn by picture. The main process stays as it is."""
    if not team.is_main:
        torch.manual_seed(hash((torch.initial_seed(), team.index, step)) % 2**63)
