"""A network with everything around it, as one module that `torch.export` takes: pictures in, masks out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.models.base import SegmentationNetwork

OUTPUTS = ("mask", "probs", "tag_scores", "logits")
"""What `Deployed` gives, in this order."""


class Deployed(nn.Module):
    """Resizing, normalization, network and upsampling in tensor operations that every runtime has.

    The same arithmetic as `Segmenter.predict` with one scale and no flip. The size of the network's input depends on
    values, not on shapes, so that one program serves pictures of any size.
    """

    def __init__(self, network: SegmentationNetwork, image_size: int | None) -> None:
        """Wrap a network, in evaluation mode.

        Args:
            network: The trained network.
            image_size: Longer side at which pictures enter it; None keeps the picture's own.
        """
        super().__init__()
        self.network = network
        self.image_size = image_size
        self.eval()

    def forward(self, rgb: Tensor, scale: Tensor | None = None, size: Tensor | None = None) -> dict[str, Tensor]:
        """Masks of pictures of one size.

        Args:
            rgb: uint8 [B, H, W, 3], 0-255, in the order red, green, blue.
            scale: float64 [], factor on the network's picture size; None is 1.
            size: int64 [2], (H, W) of `mask` and `probs`; None or a side of 0 is the picture's.

        Returns:
            `mask` uint8 [B, H, W] in {0..C}; `probs` float32 [B, K, H, W], background first, sums to 1 over K;
            `tag_scores` float32 [B, C] in 0..1; `logits` float32 [B, K, h, w], the network's map before upsampling.
        """
        height, width = rgb.shape[1], rgb.shape[2]
        h, w = self._network_size(height, width, scale)
        pictures = resize_picture(rgb.permute(0, 3, 1, 2), h, w)
        outputs = self.network(self.network.normalize(pictures))
        logits = outputs.seg_logits.float()
        if size is not None:
            height, width = _chosen(size, height, width)
        probs = _softmax(F.interpolate(logits, (height, width), mode="bilinear", align_corners=False))
        tag_scores = outputs.tag_logits.float().sigmoid()
        return {"mask": probs.argmax(1).to(torch.uint8), "probs": probs, "tag_scores": tag_scores, "logits": logits}

    def _network_size(self, height: int, width: int, scale: Tensor | None) -> tuple[int, int]:
        """`inference.tiles.network_size` as tensor operations, in the same float64 arithmetic."""
        sides = torch.stack([torch.scalar_tensor(side, dtype=torch.float64) for side in (height, width)])
        longest = sides.amax(0)
        longer = longest if self.image_size is None else torch.scalar_tensor(self.image_size, dtype=torch.float64)
        factor = (longer if scale is None else scale * longer) / longest
        rows, columns = (sides * factor / self.network.stride).round().clamp(min=1).long().tolist()
        for cells in (rows, columns):
            torch._check(cells >= 1)
        return rows * self.network.stride, columns * self.network.stride


def _chosen(size: Tensor, height: int, width: int) -> tuple[int, int]:
    """`size` as numbers, with `height` and `width` where it is 0."""
    given = torch.stack([torch.scalar_tensor(side, dtype=torch.int64) for side in (height, width)])
    rows, columns = torch.where(size > 0, size, given).tolist()
    for side in (rows, columns):
        torch._check(side >= 1)
    return rows, columns


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the labels [B, K, H, W]; onnxruntime's own takes many times as long over any but the last axis."""
    exponents = (logits - logits.amax(1, keepdim=True)).exp()
    return exponents / exponents.sum(1, keepdim=True)


def resize_picture(rgb: Tensor, h: int, w: int) -> Tensor:
    """Pictures uint8 [B, 3, H, W] at the size (h, w): float32 with whole values in 0-255.

    Bit for bit torchvision's antialiased bilinear resize of uint8 where torch has its AVX2 kernel, which is that of
    Pillow: the width first, then the height, with weights in fixed point, rounded to whole levels after each. Float32
    holds these sums exactly unless a side shrinks more than eightfold, where one value in 100,000 may differ by 1.
    """
    wide = (rgb.float() @ resize_weights(rgb.shape[3], w).T + 0.5).floor()
    return (resize_weights(rgb.shape[2], h) @ wide + 0.5).floor()


def resize_weights(size: int, new_size: int) -> Tensor:
    """Weights of the antialiased bilinear resize of one side: float32 [new_size, size], multiples of a power of two.

    A triangle around each new pixel's center, as wide as the new pixel or, when enlarging, as the old one; rows sum to
    1, then round to the finest fixed-point unit at which the largest weight fits into 16 bits [Pillow, PyTorch].
    """
    step = torch.scalar_tensor(size, dtype=torch.float64) / new_size
    centers = (torch.arange(new_size, dtype=torch.float64) + 0.5) * step
    pixels = torch.arange(size, dtype=torch.float64) + 0.5
    weights = (1 - (pixels - centers[:, None]).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    powers = 2.0 ** torch.arange(1, 23, dtype=torch.float64)
    unit = torch.where(weights.amax((0, 1)) * powers < 2**15 - 0.5, powers, 1).amax(0)
    return ((weights * unit + 0.5).floor() / unit).float()
