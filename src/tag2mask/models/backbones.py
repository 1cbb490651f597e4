"""Backbones: normalized images in, one map of features out."""

from __future__ import annotations

import difflib
from typing import Any, TypeAlias, cast

import timm
import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.models.base import RGB
from tag2mask.models.strides import SIDE, drop_strides
from tag2mask.models.wide_resnet38 import WideResNet38

LITE0 = "tf_efficientnet_lite0"
# The packaged weights were trained on (x - 127) / 128, which is not timm's (x / 255 - 0.5) / 0.5.
OWN_NORMALIZATION: dict[str, tuple[RGB, RGB]] = {LITE0: ((127.0,) * 3, (128.0,) * 3)}


def build_backbone(name: str, *, output_stride: int, dilate: bool) -> Backbone:
    """The backbone `name` with random weights: `wide_resnet38` or any model of timm.

    Args:
        name: the model.
        output_stride: pixels per cell, as in `RunConfig`.
        dilate: keep the receptive field behind a dropped stride with dilated convolutions.

    Raises:
        ValueError: no such backbone, or it cannot give that stride.
    """
    if name == "wide_resnet38":
        if output_stride != WideResNet38.stride:
            raise ValueError(f"wide_resnet38 has stride 8, got --output-stride {output_stride}; use --output-stride 8")
        return WideResNet38()
    return TimmBackbone(name, output_stride=output_stride, dilate=dilate)


class TimmBackbone(nn.Module):
    """Any timm model as a map of features, with the normalization that its weights expect.

    Images are stretched to the next multiple of the stride, so that the cells tile the picture exactly at every
    size; otherwise a map of ceil(H / stride) rows would cover more than the picture and be shifted against it.
    """

    def __init__(self, name: str, *, output_stride: int, dilate: bool) -> None:
        super().__init__()
        self.body = _create(name, output_stride if dilate else 32)
        self._nhwc = str(getattr(self.body, "output_fmt", "NCHW")) == "NHWC"
        self.mean, self.std = OWN_NORMALIZATION.get(name) or _timm_normalization(self.body)
        self.stride = 32
        tokens, self.stride = self._probe(name)
        if not tokens:
            if self.stride > output_stride:
                drop_strides(self.body, output_stride)
                self.stride = self._probe(name)[1]
            if self.stride != output_stride:
                raise ValueError(
                    f"Backbone {name} gives stride {self.stride}, not --output-stride {output_stride}; "
                    f"use --output-stride {self.stride}" + ("" if dilate else " or --dilate")
                )
        self.channels = int(self.body.num_features)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [B, 3, H, W] to features [B, D, ceil(H / stride), ceil(W / stride)]."""
        rows, columns = (-(-n // self.stride) for n in images.shape[-2:])
        size = (rows * self.stride, columns * self.stride)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        return self._map(self.body.forward_features(images), rows, columns)

    def finish(self) -> None:
        """Replace the modules that only a classifier uses, so that every trainable parameter gets a gradient."""
        self.eval()  # a picture sent through in training mode would move the pretrained batch statistics
        with torch.enable_grad():
            train_only_used(self, self(torch.zeros(1, 3, 2 * self.stride, 2 * self.stride)))
        for name, child in self.body.named_children():
            own = list(child.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                setattr(self.body, name, nn.Identity())

    def _map(self, features: Tensor, rows: int, columns: int) -> Tensor:
        if features.ndim == 3:
            prefix = int(getattr(self.body, "num_prefix_tokens", 0) or 0)
            return features[:, prefix:].transpose(1, 2).reshape(features.shape[0], -1, rows, columns)
        return features.permute(0, 3, 1, 2) if self._nhwc else features

    def _probe(self, name: str) -> tuple[bool, int]:
        """(does it give tokens, stride); the model stays in the mode that it is in."""
        was_training = self.body.training
        self.body.eval()
        info = getattr(self.body, "feature_info", None)
        stages = getattr(info, "info", info)
        reduction = int(stages[-1].get("reduction", 32)) if stages else 32  # pixels per cell that timm declares
        side = -(-SIDE // reduction) * reduction
        try:
            with torch.no_grad():
                features = self.body.forward_features(torch.zeros(1, 3, side, side))
        except (RuntimeError, AssertionError) as error:
            size = "x".join(str(n) for n in self.body.pretrained_cfg["input_size"][1:])
            raise ValueError(
                f"Backbone {name} takes only pictures of {size} pixels ({error}); choose one for every size"
            ) from error
        finally:
            self.body.train(was_training)
        if features.ndim == 3:
            return True, reduction
        return False, side // features.shape[1 if self._nhwc else 2]


Backbone: TypeAlias = TimmBackbone | WideResNet38
"""Normalized images [B, 3, H, W] to features [B, `channels`, ceil(H / `stride`), ceil(W / `stride`)].

`mean` and `std` of the input are levels of 0-255; `finish`, called once after the weights are loaded, drops what the
features do not need.
"""


def _create(name: str, output_stride: int) -> Any:
    """The timm model without classifier, at `output_stride` and for pictures of any size where it can."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, [*timm.list_models(), "wide_resnet38"], n=4, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
        raise ValueError(f"There is no backbone {name!r}{hint}")
    dilated: list[dict[str, Any]] = [{"output_stride": output_stride}] if output_stride < 32 else []
    for options in (*dilated, {"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **options)
        except (TypeError, AssertionError, NotImplementedError):
            continue  # the model does not know the option; what it gives is checked afterwards
    raise ValueError(f"timm cannot build {name} without its classifier; choose another --backbone")


def _timm_normalization(body: nn.Module) -> tuple[RGB, RGB]:
    config = timm.data.resolve_model_data_config(body)
    return cast(RGB, tuple(255.0 * m for m in config["mean"])), cast(RGB, tuple(255.0 * s for s in config["std"]))


def train_only_used(module: nn.Module, output: Tensor) -> None:
    """Stop training the parameters of a module that one of its outputs does not depend on."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
