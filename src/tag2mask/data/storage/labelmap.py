"""labelmap.txt: what the colors of masks stand for, as CVAT and datumaro write it. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tag2mask.base.spelling import class_name, is_background
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.data.dataset import UNNAMED, DataError, LabelMap, voc_palette
from tag2mask.data.storage.tables import checked_classes, numbered_lines

LABELMAP = "labelmap.txt"
_LINE = re.compile(r"(.+?):\s*(?:(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*)?(?::.*)?")
_PALETTE: list[list[int]] = voc_palette().tolist()
_BLACK, _BORDER = 0, 0xE0E0C0
"""Background and VOC's line around objects, where the file says nothing else of these colors."""
_IGNORED = ("ignore", "ignored")


def read_labelmap(path: Path) -> LabelMap:
    """Lines `name:r,g,b:parts:actions`; `#` begins a remark.

    Black is the background and VOC's border (224, 224, 192) is ignored, if no line says something else. The names
    `background` and `ignored` stand for 0 and 255. Where no line has a color, as datumaro writes class lists, each has
    that of its place in the VOC palette.

    Raises:
        DataError: a line that is none, a name or a color twice, or no class; names file and line.
    """
    colors: dict[int, int] = {}
    names: list[str] = []
    lines = [(line, text, _LINE.fullmatch(text)) for line, text in numbered_lines(path) if not text.startswith("#")]
    plain = not any(match is not None and match.group(2) for _, _, match in lines) and len(lines) <= len(_PALETTE)
    for place, (line, text, match) in enumerate(lines):
        values = _PALETTE[place] if plain else [int(value or 256) for value in match.groups()[1:]] if match else []
        if match is None or max(values) > 255:
            raise DataError(
                f"{path} line {line}: must be 'name:r,g,b::' with a color of three numbers 0 to 255, got {text!r}."
            )
        name, color = class_name(match.group(1)), values[0] << 16 | values[1] << 8 | values[2]
        if name in names or color in colors:
            raise DataError(f"{path} line {line}: {text!r} has a name or color that is already above. Change it.")
        label = mask_word(name)
        if label is None:
            names.append(name)
        colors[color] = len(names) if label is None else label
    if not names:
        raise DataError(f"{path} names no class. Write a line 'name:r,g,b::' for each.")
    checked_classes(tuple(names), path)
    if len(names) >= UNNAMED:
        raise DataError(f"{path} names {len(names)} classes; masks in colors hold at most {UNNAMED - 1}.")
    for color, label in ((_BLACK, BACKGROUND), (_BORDER, IGNORE)):
        colors.setdefault(color, label)
    order = sorted(colors)
    return LabelMap(path, tuple(names), np.array(order, np.uint32), np.array([colors[c] for c in order], np.uint8))


def mask_word(name: str) -> int | None:
    """0 for `background`, 255 for `ignore` or `ignored`, in any letter case and between underscores; else None."""
    if is_background(name):
        return BACKGROUND
    return IGNORE if name.strip("_").casefold() in _IGNORED else None


def packed(rgb: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colors [..., 3] as numbers, red in the third byte."""
    wide = rgb.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], dtype=np.uint32)
