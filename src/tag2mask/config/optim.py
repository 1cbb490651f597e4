"""Optimizer and schedule. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tag2mask.config.codes import MAX_BATCH
from tag2mask.config.fields import Settings, setting, unread_by_tags


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Settings):
    """Optimizer and schedule. The joint phase starts its own poly decay at --optim.joint-lr."""

    PREFIX: ClassVar[str] = "--optim."

    name: Literal["sgd", "adamw"] = "sgd"
    """`sgd` with the published groups (x1, x2 old biases, x10 new weights, x20 new biases), or `adamw`."""
    lr: float = setting(0.01, within="(0, inf)")
    """Learning rate at the start of the tag phase."""
    joint_lr: float = unread_by_tags(0.01, within="(0, inf)")
    """Learning rate at the start of the joint phase."""
    follow_batch: bool = False
    """Lower the learning rate in proportion where a batch is smaller than that of the preset."""
    joint_multipliers: bool = setting(True, option=False, tag_phase=True)
    """Keep the group multipliers in the joint phase (the published from-ImageNet run loses them there)."""
    head_multiplier: float = setting(10.0, within="[0, inf)")
    """Factor on the learning rate of new weights; their biases get twice that [C]."""
    new_parts: Literal["heads", "classifier"] = setting("heads", option=False)
    """What counts as new: all `heads` as published, or the tag `classifier` alone as in the 2022 extension [C]."""
    momentum: float = setting(0.9, within="[0, 1)")
    """SGD momentum (the published code passes its weight decay here, so has none), or AdamW's first beta."""
    weight_decay: float = setting(5e-4, within="[0, inf)")
    """Decay of weights; biases and norms have none."""
    poly_power: float = setting(0.9, within="[0, inf)")
    """lr = lr0 (1 - t/T)^power."""
    warmup: int = setting(0, within="[0, inf)")
    """Steps over which each phase's learning rate rises to its value."""
    clip_norm: float = setting(0.0, within="[0, inf)")
    """Largest gradient norm; 0 switches clipping off."""
    accumulate: int = setting(1, within=f"[1, {MAX_BATCH}]")
    """Batches whose gradients are averaged into one step."""
