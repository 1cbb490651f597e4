"""Optimizer and schedule. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tag2mask.config.codes import MAX_BATCH
from tag2mask.config.fields import setting, unread_by_tags
from tag2mask.config.method import require


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer and schedule. The joint phase starts its own poly decay at --optim.joint-lr."""

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with the published groups (x1, x2 old biases, x10 new weights, x20 new biases), or `adamw`."""
    lr: float = 0.01
    """Learning rate at the start of the tag phase."""
    joint_lr: float = unread_by_tags(0.01)
    """Learning rate at the start of the joint phase."""
    joint_multipliers: bool = setting(True, option=False, tag_phase=True)
    """Keep the group multipliers in the joint phase (the published from-ImageNet run loses them there)."""
    head_multiplier: float = 10.0
    """Factor on the learning rate of new weights; their biases get twice that [C]."""
    new_parts: Literal["heads", "classifier"] = setting("heads", option=False)
    """What counts as new: all `heads` as published, or the tag `classifier` alone as in the 2022 extension [C]."""
    momentum: float = 0.9
    """SGD momentum (the published code passes its weight decay here, so has none), or AdamW's first beta."""
    weight_decay: float = 5e-4
    """Decay of weights; biases and norms have none."""
    poly_power: float = 0.9
    """lr = lr0 (1 - t/T)^power."""
    warmup: int = 0
    """Steps over which each phase's learning rate rises to its value."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 switches clipping off."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""

    def __post_init__(self) -> None:
        for name in ("lr", "joint_lr"):
            require(getattr(self, name) > 0, f"--optim.{name.replace('_', '-')} must be greater than 0")
        for name in ("weight_decay", "poly_power", "warmup", "clip_norm", "head_multiplier"):
            value = getattr(self, name)
            require(value >= 0, f"--optim.{name.replace('_', '-')} must be 0 or more, got {value}")
        require(0 <= self.momentum < 1, f"--optim.momentum must lie in [0, 1), got {self.momentum}")
        require(
            1 <= self.accumulate <= MAX_BATCH, f"--optim.accumulate must be 1 to {MAX_BATCH}, got {self.accumulate}"
        )
