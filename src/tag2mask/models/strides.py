"""Strides of a convolutional network: drop the last ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def drop_strides(body: Any, stride: int, side: int) -> None:
    """Set every stride behind `stride` to 1, in place and without dilation.

    Args:
        body: timm model with `forward_features`.
        stride: pixels per cell that stay.
        side: side of the picture that is sent through to find the strides.

    Raises:
        ValueError: a stride that cannot be set to 1 without changing what the layer does.
    """
    for name, module in _shrinking(body, side, first=stride):
        kernel = _pair(getattr(module, "kernel_size", 0))
        if isinstance(module, nn.AvgPool2d | nn.MaxPool2d) and kernel == (2, 2):
            body.set_submodule(name, nn.Identity())
        elif isinstance(module, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d) and kernel[0] % 2 and kernel[1] % 2:
            module.stride = (1, 1)
        else:
            raise ValueError(
                f"{type(body).__name__} halves its map in {name} ({type(module).__name__}, kernel {kernel[0]}x"
                f"{kernel[1]}), whose stride cannot be dropped to reach --output-stride {stride}; "
                "use --dilate or --output-stride 32"
            )


def _shrinking(body: Any, side: int, first: int) -> list[tuple[str, nn.Module]]:
    """Leaf modules that make the map smaller and stand at stride `first` or behind."""
    found: list[tuple[str, nn.Module]] = []
    hooks = []
    for name, module in body.named_modules():
        if next(module.children(), None) is None:

            def look(leaf: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                maps = [t.shape[2] for t in (*inputs[:1], output) if isinstance(t, Tensor) and t.ndim == 4]
                if len(maps) == 2 and maps[0] > maps[1] > 1 and side // maps[0] >= first:
                    found.append((name, leaf))

            hooks.append(module.register_forward_hook(look))
    was_training = body.training
    try:
        with torch.no_grad():
            body.eval().forward_features(torch.zeros(1, 3, side, side))
    finally:
        body.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
