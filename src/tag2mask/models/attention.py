"""The global head of the 2022 journal extension: every cell looks at all others (method 9)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tag2mask.models.base import full_precision

WIDTH = 256
"""Channels of queries, keys, values and of the fused map, as published."""


class AttentionHead(nn.Module):
    """Segmentation scores from features that attention has spread over the whole picture.

    Follows the published code of the extension, which differs from the paper's abstract: it has no re-weighting of the
    attention. Convolutions have no bias and start as PyTorch starts them.
    """

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, WIDTH, 1, bias=False)
        self.key = nn.Conv2d(channels, WIDTH, 1, bias=False)
        self.value = nn.Conv2d(channels, WIDTH, 1, bias=False)
        self.fuse = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1, bias=False)
        self.score = nn.Conv2d(WIDTH, labels, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D, h, w] to scores [B, K, h, w] and the map they come from, [B, 512, h, w].

        The map is the attended values followed by the values themselves.
        """
        value = self.value(features)
        query, key, values = (x.flatten(2) for x in (self.query(features), self.key(features), value))
        spread = attend(query, key, values).reshape(value.shape).to(value.dtype)
        mixed = torch.cat([spread, value], dim=1)
        return self.score(F.relu(self.fuse(mixed))), mixed


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Values weighed by A = softmax over the query index of query^T key, not scaled: value A (method 9).

    Column j of A sums to 1 over the N query cells, so cell j gets a weighted mean of all values. A is N x N: 11 MB per
    picture at a crop of 321 (N = 41 x 41), 39 MB at 448, 1.1 GB at 1024 x 1024, and training would hold it several
    times. PyTorch's fused kernels, where there is one (CPU, CUDA), compute it in blocks and never hold it.
    The scores are not scaled, hence large, so this runs in float32 even under autocast.

    Args:
        query: float [B, D, N].
        key: float [B, D, N].
        value: float [B, V, N].

    Returns:
        [B, V, N], float32 (float64 for float64 inputs).
    """
    rows = (x.mT.unsqueeze(1) for x in (query, key, value))  # [B, 1, N, D]
    # contiguous, as the CPU's fused kernel takes nothing else
    q, k, v = ((x if x.dtype is torch.float64 else x.float()).contiguous() for x in rows)
    with full_precision(query):
        # The published roles are the usual ones swapped: the softmax runs over the queries of each key.
        spread: Tensor = F.scaled_dot_product_attention(k, q, v, scale=1.0)
    return spread.squeeze(1).mT
