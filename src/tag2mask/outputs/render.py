"""Pictures of labels: palette, overlay with legend, heat map, sample sheet. Pillow and numpy only.

Labels are uint8 or int64 [H, W] in {0..C, 255}; pictures are uint8 [H, W, 3]. Pillow's sizes are `(width, height)`,
everything else is `(height, width)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tag2mask.base.arrays import label_counts, row_strips
from tag2mask.base.files import write_atomically
from tag2mask.config import IGNORE
from tag2mask.data.dataset import voc_palette

Rgb = NDArray[np.uint8]
Labels = NDArray[Any]

INK, PAPER, FAINT = (28, 32, 40), (255, 255, 255), (108, 114, 126)
_STRIP = 1 << 20
"""Pixels that are blended at a time, so that a huge picture needs little memory."""
_JPEG_SIDE = 65_500
"""Longest side that a JPEG file holds."""
font = cache(ImageFont.load_default)
"""Pillow's own scalable font, so that captions look the same everywhere; unpacking it takes longer than a legend."""
_HEAT = np.array(
    [[24, 12, 60], [86, 15, 109], [150, 38, 103], [207, 68, 70], [242, 120, 28], [251, 180, 26], [252, 244, 150]],
    dtype=np.float32,
)


def save_mask(path: Path, labels: Labels, *, palette: bool = True) -> Path:
    """Write labels [H, W] in 0..255 as an indexed PNG with the VOC palette, or as 8-bit grey."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8), mode="L")
    if palette:
        image.putpalette(voc_palette().tobytes())  # turns mode L into P and keeps the numbers
    # zlib's usual level: the highest takes ten times as long for files that are a sixth smaller
    return write_atomically(path, lambda p: image.save(p, format="PNG"))


def save_picture(path: Path, image: Image.Image, quality: int = 90) -> Path:
    """Write a picture as JPEG or PNG, by the suffix of `path`; one that JPEG cannot hold becomes smaller."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    if path.suffix.lower() in (".jpg", ".jpeg") and max(image.size) > _JPEG_SIDE:
        image = image.reduce(-(-max(image.size) // _JPEG_SIDE))
    return write_atomically(path, lambda p: image.save(p, quality=quality))


def color_labels(labels: Labels) -> Rgb:
    """Labels as VOC colors, uint8 [H, W, 3]; ignored pixels are a light hatch."""
    return _colors(labels, 0, max(2, max(labels.shape) // 64))


def _colors(labels: Labels, top: int, width: int) -> Rgb:
    """Colors of the rows of a picture from `top` on; the hatch is `width` pixels wide."""
    colors = voc_palette()[labels.astype(np.uint8)]
    h, w = labels.shape
    hatch = ((np.arange(top, top + h)[:, None] + np.arange(w)[None]) // width) % 2
    grey = np.where(hatch, 238, 206).astype(np.uint8)[..., None]
    return np.where((labels == IGNORE)[..., None], grey, colors).astype(np.uint8)


def blend_labels(rgb: Rgb, labels: Labels, alpha: float = 0.55) -> Rgb:
    """The picture under its labels: objects tinted and outlined, background slightly dimmed, ignored pixels hatched."""
    longer = max(labels.shape)
    outline, hatch = max(1, round(longer / 300)), max(2, longer // 64)
    out = np.empty(rgb.shape, dtype=np.uint8)
    for rows in row_strips((labels.shape[0], labels.shape[1]), _STRIP):
        base = rgb[rows].astype(np.float32)
        tinted = (1 - alpha) * base + alpha * _colors(labels[rows], rows.start, hatch)
        strip = np.where((labels[rows] > 0)[..., None], tinted, 0.82 * base)
        strip[_borders(labels[rows.start : rows.stop + outline], outline)[: len(base)]] = 255
        out[rows] = strip.round()
    return out


def _borders(labels: Labels, width: int) -> NDArray[np.bool_]:
    """Pixels at which the label changes within `width` pixels to the right or below."""
    edge = np.zeros(labels.shape, dtype=bool)
    for step in range(1, width + 1):
        edge[:-step] |= labels[:-step] != labels[step:]
        edge[:, :-step] |= labels[:, :-step] != labels[:, step:]
    return edge


def heat_map(rgb: Rgb, cam: NDArray[Any], alpha: float = 0.65) -> Rgb:
    """A class activation map [H, W] in [0, 1] over its picture; dark violet is 0, pale yellow is 1."""
    position = np.clip(cam.astype(np.float32), 0, 1) * (len(_HEAT) - 1)
    low = np.minimum(position.astype(np.int64), len(_HEAT) - 2)
    part = (position - low)[..., None]
    colors = _HEAT[low] * (1 - part) + _HEAT[low + 1] * part
    grey = rgb.astype(np.float32).mean(-1, keepdims=True)
    return np.asarray(((1 - alpha) * grey + alpha * colors).round(), dtype=np.uint8)


def overlay(
    rgb: Rgb, labels: Labels, classes: Sequence[str], tag_scores: dict[str, float] | None = None
) -> Image.Image:
    """The picture with its objects tinted, and below it a legend of the labels that occur with their area."""
    picture = Image.fromarray(blend_labels(rgb, labels))
    if picture.width < 240:  # a legend under a stamp would be unreadable
        factor = 240 / picture.width
        picture = picture.resize((240, max(1, min(4096, round(picture.height * factor)))), Image.Resampling.NEAREST)
    strip = legend(labels, classes, picture.width, tag_scores)
    sheet = Image.new("RGB", (picture.width, picture.height + strip.height), PAPER)
    sheet.paste(picture, (0, 0))
    sheet.paste(strip, (0, picture.height))
    return sheet


def legend(
    labels: Labels, classes: Sequence[str], width: int, tag_scores: dict[str, float] | None = None
) -> Image.Image:
    """A strip `width` pixels wide that names the color of each object label with its share of the pixels."""
    size = max(12, min(28, width // 28))
    shares = label_counts(labels) / labels.size
    entries = [(i, f"{classes[i - 1]} {_percent(shares[i])}") for i in range(1, len(classes) + 1) if shares[i] > 0]
    if tag_scores:
        entries = [(i, f"{text} (tag {tag_scores[classes[i - 1]]:.2f})") for i, text in entries]
    if shares[IGNORE] > 0:
        entries.append((IGNORE, f"ignored {_percent(shares[IGNORE])}"))
    entries.append((0, f"background {_percent(shares[0])}"))
    return _legend_strip(entries, width, size)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "< 1 %"


def _legend_strip(entries: Sequence[tuple[int, str]], width: int, size: int) -> Image.Image:
    face, gap, line = font(size), size // 2, round(size * 1.7)
    places, x, y = [], gap, gap // 2
    for label, text in entries:
        length = size + gap // 2 + round(face.getlength(text))
        if x > gap and x + length > width - gap:
            x, y = gap, y + line
        places.append((x, y, label, text))
        x += length + 2 * gap
    strip = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, label, text in places:
        color = color_labels(np.full((1, 1), label)).reshape(3).tolist()
        draw.rectangle((x, y + size // 5, x + size, y + size // 5 + size), fill=tuple(color), outline=FAINT)
        draw.text((x + size + gap // 2, y + size // 5 + size // 2), text, fill=INK, font=face, anchor="lm")
    return strip


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleRow:
    """One picture of a sample sheet, all maps at the picture's size; what is None leaves an empty cell or column."""

    name: str
    rgb: Rgb
    """uint8 [H, W, 3]."""
    tags: tuple[str, ...]
    """Names of the classes in the picture."""
    cams: NDArray[Any] | None = None
    """float [C, H, W] in [0, 1]."""
    teacher: NDArray[Any] | None = None
    """float [C, H, W] in [0, 1]: what the running average's segmentation gives to the tagged classes."""
    cam_labels: Labels | None = None
    """The CAM's own labels [H, W], cut at a background threshold."""
    foreground_vote: Labels | None = None
    """CRF labels [H, W] at the low exponent: which pixels are objects."""
    background_vote: Labels | None = None
    """CRF labels [H, W] at the high exponent: which pixels are background."""
    reliable: Labels | None = None
    """Labels [H, W] that teach the segmentation; 255 teaches nothing."""
    training_mask: Labels | None = None
    """Labels [H, W] that the second step learns from; 255 teaches nothing."""
    prediction: Labels | None = None
    """Labels [H, W] of the segmentation branch."""
    truth: Labels | None = None
    """Labels [H, W] of the mask; never used for training."""


_COLUMNS = {
    "cams": "CAM (strongest class)",
    "teacher": "teacher (strongest class)",
    "cam_labels": "CAM, best threshold",
    "foreground_vote": "CRF vote: objects",
    "background_vote": "CRF vote: background",
    "reliable": "reliable labels",
    "training_mask": "training mask",
    "prediction": "prediction",
    "truth": "truth",
}
_HEAT_MAPS = ("cams", "teacher")


def sample_sheet(rows: Sequence[SampleRow], classes: Sequence[str], *, title: str = "", cell: int = 200) -> Image.Image:
    """A grid with one picture per row: picture, CAM, teacher, the two CRF votes, reliable labels, prediction, truth.

    Columns that no row fills are left out. `cell` is the width of a cell in pixels.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("A sample sheet needs at least one row.")
    columns = [name for name in _COLUMNS if any(getattr(row, name) is not None for row in rows)]
    pad, size = 8, 13
    strips = [_sheet_row(row, columns, cell, pad, size) for row in rows]
    maps = [getattr(row, name) for row in rows for name in columns if name not in _HEAT_MAPS]
    used = sorted({int(label) for labels in maps if labels is not None for label in np.unique(labels)})
    entries = [(i, "background" if i == 0 else classes[i - 1]) for i in used if i <= len(classes)]
    if IGNORE in used:
        entries.append((IGNORE, "ignored: teaches nothing"))
    width = pad + (len(columns) + 1) * (cell + pad)
    foot = _legend_strip(entries, width, 14) if entries else Image.new("RGB", (width, pad), PAPER)
    head = 2 * size + (26 if title else 10)
    sheet = Image.new("RGB", (width, head + sum(s.height for s in strips) + foot.height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((pad, 8), title, fill=INK, font=font(16))
    for i, caption in enumerate(["picture", *(_COLUMNS[name] for name in columns)]):
        draw.text((pad + i * (cell + pad), head - 6), caption, fill=FAINT, font=font(size), anchor="ls")
    top = head
    for strip in [*strips, foot]:
        sheet.paste(strip, (0, top))
        top += strip.height
    return sheet


def _sheet_row(row: SampleRow, columns: Sequence[str], cell: int, pad: int, size: int) -> Image.Image:
    """One row: the picture's cells, below them its name and tags, and which class the CAM shows."""
    h, w = row.rgb.shape[:2]
    height = max(24, min(2 * cell, round(cell * h / w)))
    strip = Image.new("RGB", (pad + (len(columns) + 1) * (cell + pad), height + size + 12), PAPER)
    draw = ImageDraw.Draw(strip)
    for i, pixels in enumerate([row.rgb, *(_cell(row, name) for name in columns)]):
        if pixels is not None:
            picture = Image.fromarray(pixels).resize((cell, height), Image.Resampling.BICUBIC)
            strip.paste(picture, (pad + i * (cell + pad), 0))
    # The caption may run under the neighboring columns: they have none of their own.
    tags = ", ".join(row.tags) or "no object (negative picture)"
    text = _fit(f"{tags}  ·  {row.name}", font(size), strip.width - 2 * pad)
    draw.text((pad, height + 4), text, fill=INK, font=font(size))
    return strip


def _fit(text: str, face: Any, width: int) -> str:
    while len(text) > 1 and face.getlength(text) > width:
        text = text[:-2] + "…"
    return text


def _cell(row: SampleRow, name: str) -> Rgb | None:
    values = getattr(row, name)
    if values is None:
        return None
    if name in _HEAT_MAPS:
        return heat_map(row.rgb, values.max(0) if len(values) else np.zeros(row.rgb.shape[:2]))
    if name == "reliable":
        return color_labels(values)
    return blend_labels(row.rgb, values)


def captioned_grid(
    cells: Sequence[tuple[str, Rgb]],
    *,
    columns: int,
    title: str = "",
    labels: Sequence[str] = (),
    classes: Sequence[str] = (),
    cell: int = 320,
) -> Image.Image:
    """Pictures in reading order, `columns` per line, each with its caption above; a legend of `labels` at the foot.

    Raises:
        ValueError: there is no picture.
    """
    if not cells:
        raise ValueError("A grid needs at least one picture.")
    pad, size = 10, 15
    h, w = cells[0][1].shape[:2]
    height, top = max(24, min(2 * cell, round(cell * h / w))), 34 if title else 0
    lines, line = -(-len(cells) // columns), height + size + 2 * pad
    width = pad + min(columns, len(cells)) * (cell + pad)
    foot = _legend_strip([(0, "background"), *((classes.index(n) + 1, n) for n in labels)], width, 14)
    sheet = Image.new("RGB", (width, top + lines * line + pad + (foot.height if labels else 0)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((pad, 10), _fit(title, font(17), width - 2 * pad), fill=INK, font=font(17))
    for i, (caption, pixels) in enumerate(cells):
        x, y = pad + (i % columns) * (cell + pad), top + (i // columns) * line + pad
        draw.text((x, y), _fit(caption, font(size), cell), fill=FAINT, font=font(size))
        sheet.paste(Image.fromarray(pixels).resize((cell, height), Image.Resampling.BICUBIC), (x, y + size + 6))
    if labels:
        sheet.paste(foot, (0, sheet.height - foot.height))
    return sheet
