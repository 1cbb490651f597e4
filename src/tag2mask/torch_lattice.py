"""The permutohedral lattice in torch: any device and dtype, all pictures of a batch in one lattice.

Built for a GPU and the same code on the CPU: every step is an operation on whole tensors, whatever the number of
pictures. The build waits for the device three times (bounds, number of simplices, number of vertices), filtering never.
Vertices are numbered by sorting packed 64-bit keys with the picture on top, and every sum is a gather over a fixed list
of rows (`embedding_bag`), so there are no atomics and equal inputs give equal bits on the same device. Triton is not
used, and the GPU path has been tested on CPU tensors only: its speed on a GPU is not measured.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
"""Longest serial sum of the splat. A vertex in a flat area holds many thousands of pixels, which on a GPU one thread
would add alone, so the list of a vertex is cut into chunks."""

MAX_CELL = {torch.float32: 2.0e6, torch.float64: 2.0**50}
"""Largest coordinate, in cells, at which a dtype still tells the cells apart."""

WORD, PART = 2**62, 2**30
"""The number of a lattice point is below `WORD`; where one word does not hold it, each of several is below `PART`."""

TOO_FINE = "features span too many lattice cells to be numbered; divide them by a larger sigma"


class TorchLattice:
    """Lattices of one or many pictures, built once and applied to any number of channels.

    Args:
        features: float [D, N], coordinates over their standard deviations, of the pixels of all pictures.
        picture: int [N], ascending, the picture of a pixel; None where there is one.
        pictures: number of pictures; pixels of different pictures never meet.
        wide: take features too that span more cells than 64 bits number or than float32 tells apart, at some cost.

    Raises:
        ValueError: values that are not finite, or too many cells.
    """

    def __init__(
        self, features: Tensor, picture: Tensor | None = None, pictures: int = 1, *, wide: bool = False
    ) -> None:
        device = work_device(features.device)
        features = features.detach().to(device, torch.promote_types(features.dtype, torch.float32))
        picture = None if picture is None else picture.to(device)
        dims, pixels = features.shape
        self.dims, self.pixels = dims, pixels
        cell, rank, weights, low, span = _locate(features, wide)
        places = _places([dims + 1, *span, pictures], wide)
        # Neighboring pixels mostly share a simplex: corners are found once for each of these.
        simplex, pixel_order, begins = _distinct(_simplex_keys(cell, rank, low, span, picture, pictures))
        some_pixel = pixel_order.index_select(0, begins)
        some_picture = None if picture is None else picture.index_select(0, some_pixel)
        corners = _Points(_corner_words(cell, rank, low, places, some_picture, some_pixel))
        vertex, corner_order, vertex_begins = _distinct(corners.keys)
        self.vertices = len(vertex_begins)
        kind = _kind((dims + 1) * self.pixels)
        # Row 0 stands for every missing vertex and holds 0.
        self.slice_rows = (vertex + 1).to(kind).reshape(-1, dims + 1).index_select(0, simplex)
        self.slice_weights = weights / (2.0 ** (dims + 1) + 2)  # 1 / (1 + 2^-D), and a half for each blur
        self.blur_rows = _neighbors(corners, corner_order[vertex_begins], places[: dims + 1])

        # The list of a vertex: for each (simplex, corner) at it, the pixels of this simplex.
        members = _lengths(begins, self.pixels)
        at, corner = corner_order // (dims + 1), corner_order % (dims + 1)
        length = members.index_select(0, at)
        start = length.cumsum(0) - length
        entries = (dims + 1) * self.pixels
        owner = torch.repeat_interleave(length, output_size=entries)
        place = torch.arange(entries, device=owner.device) + (begins.index_select(0, at) - start).index_select(0, owner)
        pixel = pixel_order.index_select(0, place)
        self.splat_pixels = pixel.to(kind)
        self.splat_weights = weights.flatten().index_select(0, pixel * (dims + 1) + corner.index_select(0, owner))
        self.chunk_starts, self.vertex_starts = _chunks(start.index_select(0, vertex_begins), entries, kind)

    def rows(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """Unnormalized filter of the channels of [N, C], pixels first; the adjoint with `transpose`."""
        home, dtype = values.device, values.dtype
        wide = torch.promote_types(dtype, torch.float32)
        values = values.to(self.splat_pixels.device, wide).contiguous()
        chunks = _sums(self.splat_pixels, values, self.splat_weights.to(wide), self.chunk_starts)
        every_chunk = torch.arange(len(chunks), device=chunks.device, dtype=self.vertex_starts.dtype)
        vertices = _sums(every_chunk, chunks, None, self.vertex_starts)
        for axis in reversed(range(self.dims + 1)) if transpose else range(self.dims + 1):
            vertices = _sums(self.blur_rows[axis], vertices)
        return _sums(self.slice_rows, vertices, self.slice_weights.to(wide)).to(home, dtype)

    def filter(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """`rows` of [n, N], channels first."""
        return self.rows(values.T, transpose=transpose).T

    @functools.cached_property
    def norm(self) -> Tensor:
        """`1 / sqrt(K 1 + 1e-20)` of every pixel, [N]."""
        return (self.rows(self.slice_weights.new_ones(self.pixels, 1))[:, 0] + 1e-20).rsqrt()

    def normalized(self, weight: float) -> Self:
        """The lattice of `weight n K n` with n the norm, which costs no more than `K`. Not to be transposed."""
        out = copy.copy(self)
        out.splat_weights = self.splat_weights * self.norm.index_select(0, self.splat_pixels)
        out.slice_weights = self.slice_weights * (weight * self.norm)[:, None]
        return out

    def repeated(self, count: int) -> Self:
        """The lattice of `count` pictures with these same features, as if built at once."""
        if count == 1:
            return self
        out = copy.copy(self)
        out.pixels, out.vertices = count * self.pixels, count * self.vertices
        entries, chunks = len(self.splat_pixels), len(self.chunk_starts)
        kind = _kind(count * entries)
        number = torch.arange(count, device=self.chunk_starts.device)[:, None]
        out.splat_pixels = (self.splat_pixels + number * self.pixels).flatten().to(kind)
        out.chunk_starts = (self.chunk_starts + number * entries).flatten().to(kind)
        # Row 0 is shared, and stays 0.
        starts = (self.vertex_starts[1:] + number * chunks).flatten()
        out.vertex_starts = torch.cat([starts[:1], starts]).to(kind)
        blur = self.blur_rows[:, None, 1:]
        moved = torch.where(blur > 0, blur + number[..., None] * self.vertices, 0).flatten(1, 2)
        out.blur_rows = torch.cat([self.blur_rows[:, :1], moved], 1).to(kind)
        out.slice_rows = (self.slice_rows + number[..., None] * self.vertices).flatten(0, 1).to(kind)
        out.splat_weights, out.slice_weights = self.splat_weights.repeat(count), self.slice_weights.repeat(count, 1)
        out.norm = self.norm.repeat(count)
        return out


def work_device(device: torch.device) -> torch.device:
    """Where lattices live: CPU and CUDA. Other devices lack operations, and their pictures are filtered on the CPU."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def _sums(rows: Tensor, table: Tensor, weights: Tensor | None = None, starts: Tensor | None = None) -> Tensor:
    """Weighted sums of rows of `table`: one for each row of `rows` [n, k], or for each list that begins at `starts`."""
    return F.embedding_bag(rows, table, starts, mode="sum", per_sample_weights=weights)


def _locate(features: Tensor, wide: bool) -> tuple[Tensor, Tensor, Tensor, list[int], list[int]]:
    """Where each pixel lies; if `wide`, in float64 where float32 does not tell the cells apart.

    Returns:
        cell int64 [D, N] and rank int64 [D, N] of the pixel's simplex, barycentric weights [N, D + 1] of its corners,
        and for each coordinate a bound below all cells with room for neighbors, and the number of values above it.
    """
    dims, pixels = features.shape
    # Rounded in two steps like the reference, or a pixel on the border of two cells would fall into the other one.
    spread = torch.tensor(math.sqrt(2 / 3) * (dims + 1)).double()
    number = torch.arange(1, dims + 1, dtype=torch.float64)
    scaled = features * (spread / (number * (number + 1)).sqrt()).to(features)[:, None]
    elevated = features.new_zeros(dims + 1, pixels)
    for j in range(dims, 0, -1):
        elevated[j] = elevated[0] - j * scaled[j - 1]
        elevated[0] += scaled[j - 1]
    cell = (elevated / (dims + 1)).round()
    bounds = _bounds(cell, wide)
    if bounds is None:
        return _locate(features.double(), wide)
    part = elevated.sub_(cell, alpha=dims + 1)
    rank = torch.arange(dims + 1, dtype=torch.int8, device=features.device)[:, None].repeat(1, pixels)
    for i in range(dims):
        for j in range(i + 1, dims + 1):
            less = (part[i] < part[j]).view(torch.int8)
            rank[i] += less
            rank[j] -= less
    # The rounded point may lie beside the plane of coordinates with sum 0: walk back along the ranks.
    rank += cell.sum(0).to(torch.int8)
    move = (rank < 0).to(torch.int8) - (rank > dims).to(torch.int8)
    rank += move * (dims + 1)
    part = part / (dims + 1) - move
    whole_rank = rank.long()
    by_rank = torch.empty_like(part).scatter_(0, whole_rank, part)
    weights = by_rank.flip(0)
    weights[1:] -= by_rank.flip(0)[:-1]
    weights[0] -= by_rank[0] - 1
    return (cell[:dims] + move[:dims]).long(), whole_rank[:dims], weights.T.contiguous(), *bounds


def _bounds(cell: Tensor, wide: bool) -> tuple[list[int], list[int]] | None:
    """Lower bound and number of values of each coordinate; four more than its range, for corners and neighbors.

    None where float32 does not tell the cells apart but float64 may be taken.
    """
    low, high = torch.stack([cell[:-1].amin(1), cell[:-1].amax(1)]).tolist()
    if not all(map(math.isfinite, low + high)):
        raise ValueError("features hold NaN or infinite values; the lattice needs finite ones")
    if max(map(abs, low + high)) > MAX_CELL[cell.dtype]:
        if wide and cell.dtype is torch.float32:
            return None
        raise ValueError(TOO_FINE)
    return [int(a) - 4 for a in low], [int(b) - int(a) + 9 for a, b in zip(low, high, strict=True)]


def _places(sizes: list[int], wide: bool) -> list[tuple[int, int]]:
    """Where the coordinates of a vertex go that have so many values each: into which word, times which stride.

    A vertex has coordinates k + (D + 1) q_i with one remainder k: it is numbered by k, q and its picture. One word
    holds them, or if `wide` as many as it takes.
    """
    most = WORD
    if math.prod(sizes) > WORD:
        most = PART
        if not wide or max(sizes) > PART:
            raise ValueError(TOO_FINE + (", or give fewer pictures at a time" if sizes[-1] > 1 else ""))
    places, word, stride = [], 0, 1
    for size in sizes:
        if stride * size > most:
            word, stride = word + 1, 1
        places.append((word, stride))
        stride *= size
    return places


def _simplex_keys(
    cell: Tensor, rank: Tensor, low: list[int], span: list[int], picture: Tensor | None, pictures: int
) -> Tensor:
    """One number per simplex, [N]; where one word does not hold them every pixel stands for itself."""
    dims = len(cell)
    orders = (dims + 1) ** dims
    if math.prod(span) * pictures * orders >= WORD:
        return torch.arange(cell.shape[1], device=cell.device)
    key, stride = torch.zeros_like(cell[0]), 1
    for q, bound, size in zip(cell, low, span, strict=True):
        key = torch.add(key, q - bound, alpha=stride)
        stride *= size
    if picture is not None:
        key = torch.add(key, picture, alpha=stride)
    key = key * orders
    for i in range(dims):
        key = torch.add(key, rank[i], alpha=(dims + 1) ** i)
    return key


def _corner_words(
    cell: Tensor, rank: Tensor, low: list[int], places: list[tuple[int, int]], picture: Tensor | None, pixels: Tensor
) -> list[Tensor]:
    """Words of the D + 1 vertices of the simplices of some pixels, each [n (D + 1)]."""
    dims = len(cell)
    remainder = torch.arange(dims + 1, device=cell.device)
    words = [remainder.repeat(len(pixels), 1)]
    words += [torch.zeros_like(words[0])] * places[-1][0]
    for i, (word, stride) in enumerate(places[1 : dims + 1]):
        q, below = cell[i].index_select(0, pixels) - low[i], rank[i].index_select(0, pixels)[:, None] > dims - remainder
        words[word] = torch.add(words[word], q[:, None] - below.long(), alpha=stride)
    if picture is not None:
        word, stride = places[-1]
        words[word] = words[word] + (picture * stride)[:, None]
    return [word.flatten() for word in words]


class _Points:
    """One number for each lattice point of a list: its word, or the number of what precedes and the last word."""

    def __init__(self, words: list[Tensor]) -> None:
        self.words, self.keys = words, words[0]
        self._known: list[Tensor] = []
        for word in words[1:]:
            ascending = self.keys.sort().values
            self._known.append(ascending[torch.diff(ascending, prepend=ascending[:1] - 1) > 0])
            self.keys = torch.searchsorted(self._known[-1], self.keys) * PART + word

    def find(self, words: list[Tensor]) -> Tensor:
        """The numbers of other points; of those that are not in the list any that no point has."""
        key = words[0]
        for known, word in zip(self._known, words[1:], strict=True):
            at = torch.searchsorted(known, key).clamp(max=len(known) - 1)
            key = torch.where(known[at] == key, at * PART + word, -1)
        return key


def _distinct(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number the distinct keys in ascending order.

    Returns:
        The number of the key at each place [n]; the places ordered by key [n]; where each key begins in that order.
    """
    ascending, order = keys.sort(stable=True)
    fresh = torch.ones_like(ascending, dtype=torch.bool)
    torch.ne(ascending[1:], ascending[:-1], out=fresh[1:])
    number = torch.empty_like(order).scatter_(0, order, fresh.cumsum(0) - 1)
    return number, order, fresh.nonzero()[:, 0]


def _lengths(starts: Tensor, end: int) -> Tensor:
    """Lengths of the lists that begin at `starts`, the last of which reaches to `end`."""
    return torch.diff(starts, append=starts.new_full((1,), end))


def _chunks(vertex_begins: Tensor, entries: int, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cut the list of each vertex into chunks: where each chunk begins, and the first chunk of each row.

    There are at most `entries / CHUNK + vertices` of them; those too many are empty and lie behind the last vertex.
    """
    vertices = len(vertex_begins)
    count = (_lengths(vertex_begins, entries) + CHUNK - 1) // CHUNK
    ends = count.cumsum(0)
    chunk = torch.arange(entries // CHUNK + vertices, device=ends.device)
    vertex = torch.searchsorted(ends, chunk, right=True).clamp(max=vertices - 1)
    begins = vertex_begins.index_select(0, vertex) + (chunk - (ends - count).index_select(0, vertex)) * CHUNK
    begins = torch.where(chunk < ends[-1], begins, entries)
    return begins.to(kind), torch.cat([ends.new_zeros(1), ends - count]).to(kind)


def _kind(count: int) -> torch.dtype:
    """The smaller integer type that counts so far; half the memory to move."""
    return torch.int32 if count < 2**31 else torch.int64


def _neighbors(corners: _Points, vertices: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """Rows to be added up by the blur along each axis, [D + 1, V + 1, 4].

    Each vertex twice and its two neighbors, row 0 where there is none: twice the blur, which the slice makes good.
    """
    dims, keys = len(places) - 1, corners.keys[vertices]
    own = torch.arange(1, len(keys) + 1, device=keys.device)
    lowest = corners.words[0][vertices] % (dims + 1) == 0
    back = []  # one step down every coordinate
    for number, word in enumerate(corners.words):
        here, units = word[vertices], [stride if at == number else 0 for at, stride in places]
        back.append(torch.where(lowest, here + (dims * units[0] - sum(units[1:])), here - units[0]))
    rows = torch.zeros(dims + 1, len(keys) + 1, 4, dtype=_kind(4 * len(keys)), device=keys.device)
    rows[:, 1:, 0] = rows[:, 1:, 1] = own
    for axis, each in enumerate(rows):  # the last one goes down every coordinate alone
        at, stride = places[axis + 1] if axis < dims else (0, 0)
        wanted = corners.find([word + stride if number == at else word for number, word in enumerate(back)])
        found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        first = torch.where(keys[found] == wanted, found + 1, 0)
        # Whom a vertex has as first neighbor has it as second. Row 0 takes what has none, and is emptied again.
        second = torch.zeros(len(keys) + 1, dtype=torch.int64, device=keys.device).scatter_(0, first, own)
        each[1:, 2], each[1:, 3] = first, second[1:]
    return rows


@functools.lru_cache(maxsize=16)
def spatial_twin(height: int, width: int, sigma_xy: float, device: torch.device, dtype: torch.dtype) -> TorchLattice:
    """The torch lattice of a grid, cached per size and width."""
    return TorchLattice(picture_features((height, width), sigma_xy, device=device, dtype=dtype))


def picture_features(
    size: tuple[int, int],
    sigma_xy: float,
    valid: Tensor | None = None,
    rgb: Tensor | None = None,
    sigma_rgb: float = 1.0,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Features of every pixel of a picture or of a batch, picture after picture.

    Args:
        size: height and width.
        sigma_xy: spatial width in pixels.
        valid: bool [B, H, W] or None; coordinates count from the corner of the bounding box of a picture's True pixels,
            so that padding changes no feature.
        rgb: uint8 [B, 3, H, W], or None for position alone.
        sigma_rgb: color width in levels.
        device: of the result.
        dtype: of the result.

    Returns:
        `x, y` over `sigma_xy`, [2, B H W], and with `rgb` also `r, g, b` over `sigma_rgb`, [5, B H W].
    """
    y, x = (torch.arange(n, device=device, dtype=dtype) for n in size)
    batch = len(rgb) if rgb is not None else len(valid) if valid is not None else 1
    grid = torch.stack([x.expand(size), y[:, None].expand(size)]).expand(batch, 2, *size)
    if valid is not None:
        corner = [valid.any(axis).byte().argmax(1) for axis in (1, 2)]
        grid = grid - torch.stack(corner, 1).to(grid)[:, :, None, None]
    grid = grid / sigma_xy
    features = grid if rgb is None else torch.cat([grid, rgb.to(grid) / sigma_rgb], 1)
    return features.transpose(0, 1).flatten(1)
