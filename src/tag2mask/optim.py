"""Optimizer, parameter groups and the poly schedule (method 5)."""

from __future__ import annotations

from typing import Any

import torch

from tag2mask.config import OptimConfig, TrainConfig
from tag2mask.models.network import Network

MULTIPLIERS = ("old_weights", "old_biases", "new_weights", "new_biases")


def group_multipliers(config: OptimConfig) -> dict[str, float]:
    """Factor on the learning rate per parameter group: 1, 2, 10, 20 as published."""
    head = config.head_multiplier
    return {"old_weights": 1.0, "old_biases": 2.0, "new_weights": head, "new_biases": 2 * head}


def build_optimizer(model: Network, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the four published groups; biases and norms are not decayed.

    The published code hands its weight decay to SGD as momentum, so it trains without momentum; here momentum is
    momentum (`--optim.momentum 0` is the published behavior).
    """
    factors = group_multipliers(config)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "name": name,
            "lr": config.lr * factors[name],
            "weight_decay": 0.0 if name.endswith("biases") else config.weight_decay,
        }
        for name, parameters in model.parameter_groups().items()
        if parameters
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rates(config: TrainConfig, step: int) -> dict[str, float]:
    """Learning rate of each group at `step`: lr0 (1 - t/T)^power, anew in each phase.

    t and T count within the phase: [0, tag_steps) from `optim.lr`, then `joint_steps` from `optim.joint_lr`.
    """
    optim = config.optim
    joint = step >= config.tag_steps
    t, total = (step - config.tag_steps, config.joint_steps) if joint else (step, config.tag_steps)
    base = (optim.joint_lr if joint else optim.lr) * max(0.0, 1 - t / total) ** optim.poly_power
    if t < optim.warmup:
        base *= (t + 1) / (optim.warmup + 1)
    factors = group_multipliers(optim)
    flat = joint and not optim.joint_multipliers
    return {name: base * (1.0 if flat else factor) for name, factor in factors.items()}


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    """Write `rates` into the optimizer's groups."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]
