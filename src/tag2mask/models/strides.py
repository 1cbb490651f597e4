"""Strides of a convolutional network: drop the last ones, freeze the layers before the first ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 128
"""Side of the picture that finds strides: a multiple of every usual one."""


def drop_strides(body: Any, stride: int) -> None:
    """Set every stride behind `stride` to 1, in place and without dilation.

    Args:
        body: timm model with `forward_features`.
        stride: pixels per cell that stay.

    Raises:
        ValueError: a stride that cannot be set to 1 without changing what the layer does.
    """
    shrinking: list[tuple[str, nn.Module]] = []

    def look(name: str, leaf: nn.Module, inputs: Any, output: Any) -> None:
        maps = [t.shape[2] for t in (*inputs[:1], output) if isinstance(t, Tensor) and t.ndim == 4]
        if len(maps) == 2 and maps[0] > maps[1] > 1 and SIDE // maps[0] >= stride:
            shrinking.append((name, leaf))

    _visit_leaves(body, body.forward_features, look)
    for name, module in shrinking:
        size = getattr(module, "kernel_size", 0)
        kernel = (size, size) if isinstance(size, int) else (size[0], size[1])
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


def freeze_early(backbone: nn.Module, stride: int) -> None:
    """Stop training every layer before the first one whose map has more than `stride` pixels per cell.

    Backward passes then end there, and the early layers are the expensive ones (docs/results.md has a measurement).
    A backbone that starts beyond `stride` (a plain ViT) stays as it is. A `stride` of 0 freezes nothing.
    """
    if stride <= 0:
        return
    early: list[nn.Module] = []
    passed = False

    def look(name: str, leaf: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal passed
        if isinstance(output, Tensor):
            is_map = output.ndim == 4 and min(output.shape[2:]) > 1
            passed = passed or not is_map or SIDE / min(output.shape[2:]) > stride
        if not passed:
            early.append(leaf)

    _visit_leaves(backbone, backbone, look)
    for module in early:
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def _visit_leaves(
    body: nn.Module, run: Callable[[Tensor], object], look: Callable[[str, nn.Module, Any, Any], None]
) -> None:
    """Send an empty picture through `run`, and show `look` each module without children: name, module, input, output.

    The network runs in evaluation mode, so that nothing in it changes.
    """
    hooks = []
    for name, module in body.named_modules():
        if next(module.children(), None) is None:
            hooks.append(module.register_forward_hook(partial(look, name)))
    was_training = body.training
    try:
        with torch.no_grad():
            body.eval()
            run(torch.zeros(1, 3, SIDE, SIDE))
    finally:
        body.train(was_training)
        for each in hooks:
            each.remove()
