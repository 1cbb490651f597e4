"""Shapes that people draw, as pixels: polygons, ellipses, run lengths, pictures in text. Imports no torch.

Points are (x, y) in pixels; the pixel in column x and row y covers x to x + 1 and y to y + 1.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tag2mask.base.arrays import Size
from tag2mask.data.dataset import DataError
from tag2mask.data.storage.pictures import opened
from tag2mask.data.storage.tables import shown

Points: TypeAlias = NDArray[np.float64]
"""[n, 2], (x, y)."""
MOST = 1e7
"""Largest coordinate; what lies outside of the picture is cut off."""
_PART = 1 << 22
"""Crossings of edges and rows that are found at a time."""
_HALF = 128
"""A brush covers the pixels of at least this alpha; its edge is smooth."""


class Piece(NamedTuple):
    """Pixels in a box."""

    corner: tuple[int, int]
    """(x, y) of the box."""
    mask: NDArray[np.bool_]
    """[h, w]."""


def read_points(value: Any, where: str) -> Points:
    """A list of points, or of their numbers in turn, as [n, 2].

    Raises:
        DataError: something else, or numbers that no picture has.
    """
    try:
        flat = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        flat = np.full(1, np.nan)
    if flat.size % 2 or not (np.abs(flat) <= MOST).all():
        raise DataError(f"{where}: points must be pairs of numbers, got {shown(value)}. Export it again.")
    return flat.reshape(-1, 2)


def filled(points: Points, size: Size) -> Piece:
    """The pixels whose centers lie in a polygon, by the even-odd rule.

    Args:
        points: Of the closed polygon; the first is not repeated.
        size: (height, width) of the picture, which cuts off what lies outside.
    """
    left, top, right, bottom = _box(points, size)
    (x, y), (to_x, to_y) = points.T, np.roll(points, -1, axis=0).T
    first, last = (np.clip(np.ceil(each - 0.5), top, bottom).astype(np.int64) for each in np.sort([y, to_y], axis=0))
    width = right - left + 1
    crossings = np.zeros((bottom - top) * width, dtype=np.int64)
    for edges in np.array_split(np.arange(len(x)), 1 + int((last - first).sum()) // _PART):
        counts = (last - first)[edges]
        edge = np.repeat(edges, counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        at = x[edge] + (row + 0.5 - y[edge]) * (to_x[edge] - x[edge]) / (to_y[edge] - y[edge])
        column = np.clip(np.ceil(at - 0.5), left, right).astype(np.int64) - left
        crossings += np.bincount((row - top) * width + column, minlength=len(crossings))
    inside = np.cumsum(crossings.reshape(bottom - top, width), axis=1)[:, :-1] % 2 == 1
    return Piece((left, top), inside)


def outlined(points: Points, size: Size) -> Piece:
    """A polygon as Ultralytics and LabelMe paint it: points cut down to whole pixels, the outline a part of it."""
    left, top, right, bottom = _box(points, size, outline=1)
    image = Image.new("L", (right - left, bottom - top))
    if len(points) > 1 and min(image.size) > 0:
        ImageDraw.Draw(image).polygon([(x - left, y - top) for x, y in points.tolist()], fill=1, outline=1)
    return Piece((left, top), np.asarray(image, dtype=bool))


def _box(points: Points, size: Size, outline: int = 0) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the pixels that points may touch, within the picture."""
    low = np.floor(points.min(axis=0, initial=MOST)).astype(int)
    high = np.ceil(points.max(axis=0, initial=-MOST)).astype(int) + outline
    left, right = np.clip((low[0], high[0]), 0, size[1]).tolist()
    top, bottom = np.clip((low[1], high[1]), 0, size[0]).tolist()
    return left, top, max(left, right), max(top, bottom)


def rectangle(x: float, y: float, width: float, height: float, angle: float = 0.0) -> Points:
    """Corners of a box with its upper left corner at (x, y), turned around it by `angle` degrees, clockwise."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=np.float64)
    return corners @ _turn(angle) + (x, y)


def ellipse(x: float, y: float, width: float, height: float, angle: float = 0.0) -> Points:
    """Points of an ellipse around (x, y) with these radii, turned by `angle` degrees, clockwise."""
    turns = np.linspace(0, 2 * math.pi, 360, endpoint=False)
    return np.stack([width * np.cos(turns), height * np.sin(turns)], axis=1) @ _turn(angle) + (x, y)


def _turn(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([(c, s), (-s, c)])


def coco_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers; `tag2mask.outputs.rle.coco_string` says how they are packed.

    Raises:
        ValueError: other characters, or a number without an end.
    """
    lengths: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        group = code - 48
        if not 0 <= group < 64 or shift > 60:
            raise ValueError("no run lengths of COCO")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the run lengths end within a number")
    return lengths


def coco_mask(counts: Any, size: Size) -> NDArray[np.bool_]:
    """COCO's run lengths, compressed (text) or not (a list), as bool [H, W].

    Raises:
        ValueError: they are none, or those of another size.
    """
    lengths = coco_lengths(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(isinstance(each, int) and each >= 0 for each in lengths):
        raise ValueError("run lengths must be text or whole numbers")
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(lengths)} pixels do not fill {size[0]} x {size[1]} (height x width)")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size[1], size[0]).T


def brush_mask(data: Sequence[Any], size: Size) -> NDArray[np.bool_]:
    """Label Studio's brush as bool [H, W]; `tag2mask.outputs.rle.brush_rle` says how it is packed.

    Raises:
        ValueError: it is none, or that of another size.
    """
    try:
        packed = bytes(data)
    except (TypeError, ValueError) as error:
        raise ValueError("a brush must be a list of bytes 0 to 255") from error
    place = 0

    def read(bits: int) -> int:
        nonlocal place
        begin, place = place, place + bits
        end = (place + 7) // 8
        if end > len(packed):
            raise ValueError("a brush that ends too early")
        return int.from_bytes(packed[begin // 8 : end], "big") >> (8 * end - place) & ((1 << bits) - 1)

    total, word = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1] or word != 8:
        raise ValueError(f"a brush of {total} values of {word} bits is not that of {size[0]} x {size[1]} pixels")
    out = np.empty(total, dtype=np.uint8)
    done = 0
    while done < total:
        same, length = read(1), read(widths[read(2)]) + 1
        if done + length > total:
            raise ValueError("a brush with more values than it says")
        out[done : done + length] = (
            read(8) if same else np.frombuffer(read(8 * length).to_bytes(length, "big"), dtype=np.uint8)
        )
        done += length
    return np.asarray(out[3::4].reshape(size) >= _HALF)


def text_mask(text: Any) -> NDArray[np.bool_]:
    """A picture in base64 as bool [H, W], True where it is not 0.

    Raises:
        ValueError: it is none, or too large.
    """
    if not isinstance(text, str):
        raise ValueError("a mask must be a picture as text")
    try:
        with opened(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            values = np.asarray(image)
    except (binascii.Error, OSError, SyntaxError) as error:
        raise ValueError(f"a mask that is no picture ({error})") from error
    return np.asarray(values.reshape(*values.shape[:2], -1).any(axis=2))
