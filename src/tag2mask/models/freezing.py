"""Freeze the early layers of a backbone: the most expensive ones to train, and the ones that change least."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def freeze_early(backbone: nn.Module, stride: int) -> None:
    """Stop training every layer before the first one whose map has more than `stride` pixels per cell.

    Backward passes then end there, and the early layers are the expensive ones (docs/results.md has a measurement).
    A backbone that starts beyond `stride` (a plain ViT) stays as it is.

    Args:
        backbone: Normalized images [B, 3, H, W] to features.
        stride: Pixels per cell; 0 freezes nothing.
    """
    if stride <= 0:
        return
    side = 128
    early: list[nn.Module] = []
    passed = False
    hooks = []

    def look(leaf: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal passed
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            passed = passed or side / min(output.shape[2:]) > stride
        elif isinstance(output, Tensor):
            passed = True
        if not passed:
            early.append(leaf)

    for module in backbone.modules():
        if next(module.children(), None) is None:
            hooks.append(module.register_forward_hook(look))
    was_training = backbone.training
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, side, side))
    finally:
        backbone.train(was_training)
        for hook in hooks:
            hook.remove()
    for module in early:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
