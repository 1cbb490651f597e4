"""Optimizer, parameter groups and the poly schedule (method 5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tag2mask.config import OptimConfig, RunConfig
from tag2mask.models.base import GroupName, SegmentationNetwork


def group_multipliers(config: OptimConfig) -> dict[str, float]:
    """Factor on the learning rate per parameter group: 1, 2, 10, 20 as published."""
    head = config.head_multiplier
    return {"old_weights": 1.0, "old_biases": 2.0, "new_weights": head, "new_biases": 2 * head}


def build_optimizer(model: SegmentationNetwork, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the four published groups; biases and norms are not decayed.

    The published code hands its weight decay to SGD as momentum, so it trains without momentum; here momentum is
    momentum (the `voc-*` presets set it to their weight decay, which is the published behavior).

    Raises:
        ValueError: `new_parts` is the classifier, and the model has none.
    """
    factors = group_multipliers(config)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "name": name,
            "lr": config.lr * factors[name],
            "weight_decay": 0.0 if name.endswith("biases") else config.weight_decay,
        }
        for name, parameters in parameter_groups(model, config).items()
        if parameters
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def parameter_groups(model: SegmentationNetwork, config: OptimConfig) -> dict[GroupName, list[nn.Parameter]]:
    """The model's groups; heads that `new_parts` does not count as new stand behind the old parameters."""
    groups = model.parameter_groups()
    if config.new_parts == "heads":
        return groups
    classifier = {id(parameter) for name, parameter in model.named_parameters() if name.startswith("classifier.")}
    if not classifier:
        raise ValueError(
            f"optim.new_parts 'classifier' needs a network with a tag classifier, got {type(model).__name__}"
        )
    pairs: tuple[tuple[GroupName, GroupName], ...] = (("old_weights", "new_weights"), ("old_biases", "new_biases"))
    for old, new in pairs:
        groups[old] += [parameter for parameter in groups[new] if id(parameter) not in classifier]
        groups[new] = [parameter for parameter in groups[new] if id(parameter) in classifier]
    return groups


def learning_rates(config: RunConfig, step: int) -> dict[str, float]:
    """Learning rate of each group at `step`: lr0 (1 - t/T)^power, anew in each phase, t and T counted within it."""
    optim = config.optim
    phase, t = config.phase_at(step)
    base = phase.lr * (1 - t / phase.steps) ** optim.poly_power
    if t < optim.warmup:
        base *= (t + 1) / (optim.warmup + 1)
    factors = group_multipliers(optim)
    return {name: base * (factor if phase.multipliers else 1.0) for name, factor in factors.items()}


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: dict[str, float]) -> None:
    """Write `rates` into the optimizer's groups."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]
