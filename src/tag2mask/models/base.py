"""What every network of this package has: normalization, frozen batch norms, groups of parameters."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal, Self, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tag2mask.batch import Outputs

GroupName = Literal["old_weights", "old_biases", "new_weights", "new_biases"]
RGB = tuple[float, float, float]
IMAGENET: tuple[RGB, RGB] = ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
"""Mean and standard deviation of ImageNet's pictures, in levels of 0-255."""


class SegmentationNetwork(nn.Module):
    """A network that training, prediction and evaluation can use; subclasses define `forward`.

    Attributes:
        classes: class names, background not among them.
        stride: pixels per cell of the features; a picture whose sides are multiples of it is covered exactly.
        mean_rgb: mean color of the input, 0-255, for padding.
        pretrained_prefix: what the names of the parameters with pretrained weights begin with; the others are new, and
            so is a decoder within.
    """

    pretrained_prefix: ClassVar[str] = "backbone."
    mean: Tensor
    std: Tensor

    def __init__(self, classes: tuple[str, ...], *, stride: int, mean: RGB, std: RGB) -> None:
        """Store the constants; `mean` and `std` are levels of 0-255."""
        super().__init__()
        self.classes = classes
        self.stride = stride
        red, green, blue = (round(m) for m in mean)
        self.mean_rgb = (red, green, blue)
        # Constants of the backbone, not of the run: they are rebuilt from its name, not stored.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def num_classes(self) -> int:
        """C, the number of classes without background."""
        return len(self.classes)

    def normalize(self, rgb: Tensor, valid: Tensor | None = None) -> Tensor:
        """The network's input for pictures, the one place where anything is normalized.

        Args:
            rgb: uint8 [B, 3, H, W], 0-255.
            valid: bool [B, H, W]; padding becomes 0, the mean color.

        Returns:
            float32 [B, 3, H, W].
        """
        images = (rgb.float() - self.mean) / self.std
        return images if valid is None else images * valid.unsqueeze(1)

    def forward(self, images: Tensor, valid: Tensor | None = None, *, segment: bool = True) -> Outputs:
        """Features, tag scores and segmentation scores of normalized images [B, 3, H, W].

        Args:
            images: as `normalize` gives them.
            valid: bool [B, H, W]; only these pixels count for the tag scores. None counts all.
            segment: False leaves `seg_logits` out.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Training mode with frozen pretrained batch norms: statistics and affine parameters stay as they are."""
        super().train(mode)
        for name, module in self.named_modules():
            if isinstance(module, _BatchNorm) and name.startswith(self.pretrained_prefix):
                module.eval()
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
        return self

    def smallest_batch(self, side: int) -> int:
        """The fewest pictures [side, side] that can train together: 2 where a norm sees one value per picture, else 1.

        Such are the norms of decoders that pool the whole picture, and of maps of a single cell. Nothing is changed.
        """
        trial = copy.deepcopy(self).train()
        picture = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=self.mean.device)
        try:
            with torch.no_grad(), torch.random.fork_rng():
                trial(trial.normalize(picture))
        except ValueError as error:  # torch has no kind of its own for it
            if "more than 1 value per channel" not in str(error):
                raise
            return 2
        return 1

    def parameter_groups(self) -> dict[GroupName, list[nn.Parameter]]:
        """Every parameter that trains, once: old (pretrained part) or new (heads), weights or biases.

        Norms and other vectors count as biases.
        """
        groups: dict[GroupName, list[nn.Parameter]] = {name: [] for name in get_args(GroupName)}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                inner = name.removeprefix(self.pretrained_prefix)
                age = "new" if inner == name or inner.startswith("decoder.") else "old"
                groups[cast(GroupName, f"{age}_{'weights' if parameter.ndim >= 2 else 'biases'}")].append(parameter)
        return groups


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """No autocast on the device of `like`: for what is cheap and needs all its digits."""
    device = like.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


class SupervisedNetwork(SegmentationNetwork):
    """A network that learns from masks and has no tag classifier; subclasses define `maps`.

    Its tag logits come from its map (`tag_logits_of_map`), so that their sigmoid is the largest probability of the
    class, in 0..1. Leaving `seg_logits` out therefore saves nothing.
    """

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D, h, w] and segmentation scores [B, K, h', w'] of normalized images [B, 3, H, W]."""
        raise NotImplementedError

    def forward(self, images: Tensor, valid: Tensor | None = None, *, segment: bool = True) -> Outputs:
        """As `SegmentationNetwork.forward`."""
        features, scores = self.maps(images)
        scores = scores.float()
        return Outputs(features, tag_logits_of_map(scores, valid), scores if segment else None)


def tag_logits_of_map(seg_logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Tag logits [B, C] of a segmentation: log p - log(1 - p) of each class's largest probability p over the map.

    The sigmoid of a logit is p again, a score in 0..1. Logits end at 16.1, where float32 cannot tell p from 1.

    Args:
        seg_logits: float [B, K, h, w], background first.
        valid: bool [B, H, W]; cells without a valid pixel do not count, and a picture without any scores 0.
    """
    log_probs = seg_logits.log_softmax(dim=1)[:, 1:]
    if valid is not None:
        share = F.interpolate(valid.unsqueeze(1).float(), seg_logits.shape[-2:], mode="area")
        log_probs = log_probs.masked_fill(share == 0, -torch.inf)
    largest = log_probs.amax((2, 3)).clamp(-1e4, -1e-7)
    return largest - torch.log(-torch.expm1(largest))
