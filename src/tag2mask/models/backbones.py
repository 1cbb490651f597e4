"""Backbones: normalized images in, one map of features out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import timm
import timm.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.models.base import RGB
from tag2mask.models.strides import SIDE, drop_strides
from tag2mask.models.wide_resnet38 import WideResNet38

_GROUPS = 8
LITE0 = "tf_efficientnet_lite0"
# The packaged weights were trained on (x - 127) / 128, which is not timm's (x / 255 - 0.5) / 0.5.
OWN_NORMALIZATION: dict[str, tuple[RGB, RGB]] = {LITE0: ((127.0,) * 3, (128.0,) * 3)}


def build_backbone(name: str, *, output_stride: int, dilate: bool, decoder_stride: int = 0) -> Backbone:
    """The backbone `name` with random weights: `wide_resnet38` or any model of timm.

    Args:
        name: the model.
        output_stride: pixels per cell, as in `RunConfig`.
        dilate: keep the receptive field behind a dropped stride with dilated convolutions.
        decoder_stride: pixels per cell of the map that a decoder draws; 0 for the backbone's own last map.

    Raises:
        ValueError: no such backbone, or it cannot give that stride.
    """
    if name == "wide_resnet38":
        if decoder_stride:
            raise ValueError(f"wide_resnet38 has no decoder, got --decoder-stride {decoder_stride}; use a timm model")
        if output_stride != WideResNet38.stride:
            raise ValueError(f"wide_resnet38 has stride 8, got --output-stride {output_stride}; use --output-stride 8")
        return WideResNet38()
    return TimmBackbone(name, output_stride=output_stride, dilate=dilate, decoder_stride=decoder_stride)


class TimmBackbone(nn.Module):
    """Any timm model as a map of features, with the normalization that its weights expect.

    Images are stretched to the next multiple of the stride, so that the cells tile the picture exactly at every
    size; otherwise a map of ceil(H / stride) rows would cover more than the picture and be shifted against it.
    """

    def __init__(self, name: str, *, output_stride: int, dilate: bool, decoder_stride: int = 0) -> None:
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
        self.channels, self.cell = int(self.body.num_features), self.stride
        self.decoder, self._levels = None, list[int]()
        if decoder_stride:
            self._levels, channels = self._fine_maps(name, decoder_stride)
            self.channels, self.cell = decoder_width(decoder_stride), decoder_stride
            self.decoder = Decoder(channels, self.channels)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images [B, 3, H, W] to features [B, D, h, w], h and w those of whole cells of `stride`."""
        rows, columns = (-(-n // self.stride) for n in images.shape[-2:])
        size = (rows * self.stride, columns * self.stride)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        if self.decoder is not None:
            maps = self.body.forward_intermediates(images, indices=self._levels, intermediates_only=True)
            decoded: Tensor = self.decoder(maps)
            return decoded
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

    def _fine_maps(self, name: str, finest: int) -> tuple[list[int], list[int]]:
        """Numbers and channels of the last map of each stride from `finest` on, in timm's list of intermediate maps."""
        side = -(-SIDE // self.stride) * self.stride
        was_training, found = self.body.training, dict[int, tuple[int, int]]()
        self.body.eval()
        try:
            with torch.no_grad():
                maps = self.body.forward_intermediates(torch.zeros(1, 3, side, side), intermediates_only=True)
        except (AttributeError, RuntimeError, AssertionError):
            maps = []
        finally:
            self.body.train(was_training)
        for level, each in enumerate(maps):
            if each.ndim == 4 and side // each.shape[2] >= finest:
                found[side // each.shape[2]] = (level, each.shape[1])
        if finest not in found or len(found) < 2:
            raise ValueError(
                f"Backbone {name} has no map of stride {finest} beside coarser ones, got --decoder-stride {finest}; "
                "choose a convolutional --backbone, or --decoder-stride 0"
            )
        levels, channels = zip(*(found[stride] for stride in sorted(found)), strict=True)
        return list(levels), list(channels)

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


def decoder_width(stride: int) -> int:
    """Channels of the map that a decoder draws: 128, and 64 at stride 4 or less, where the cells are many."""
    return 128 if stride > 4 else 64


class Decoder(nn.Module):
    """Maps of several strides to one of the finest: feature pyramid (Lin et al., arXiv 1612.03144), one level of it.

    Each map becomes `width` channels; from coarse to fine they are resized and added up, and a 3x3 convolution
    mixes the sum. Group norms, as batches are small.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        """`channels` of the maps, the finest first."""
        super().__init__()
        self.lateral = nn.ModuleList(_normed(nn.Conv2d(each, width, 1)) for each in channels)
        self.mix = _normed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [B, D_i, h_i, w_i], the finest first, to features [B, width, h_0, w_0], 0 or more."""
        coarse: Tensor | None = None
        for lateral, each in reversed(list(zip(self.lateral, maps, strict=True))):
            own = lateral(each)
            if coarse is not None:
                own = own + F.interpolate(coarse, own.shape[-2:], mode="bilinear", align_corners=False)
            coarse = own
        assert coarse is not None
        return F.relu(self.mix(F.relu(coarse)))


def _normed(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.GroupNorm(_GROUPS, conv.out_channels))


Backbone: TypeAlias = TimmBackbone | WideResNet38
"""Normalized images [B, 3, H, W] to features [B, `channels`, ceil(H / `cell`), ceil(W / `cell`)].

Sides are multiples of `stride`, or stretched to the next one; without a decoder `cell` is the same.
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
