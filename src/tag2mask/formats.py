"""Names of the formats of data sets. Imports nothing, so that settings and commands can use it."""

from __future__ import annotations

from typing import Literal, get_args

DataFormat = Literal[
    "auto",
    "folder",
    "voc",
    "imagefolder",
    "hf-imagefolder",
    "coco",
    "cvat",
    "label-studio",
    "yolo",
    "hf-dataset",
    "webdataset",
]
"""`--data-format`: `auto` looks; the others are described in docs/data.md."""

MaskFormat = Literal["coco", "yolo", "label-studio", "cvat", "geojson", "voc"]
"""Formats of annotation tools that masks are written in (docs/formats.md)."""
OutputFormat = Literal["png", "npz", "comp5", "comp6", "coco", "yolo", "label-studio", "cvat", "geojson", "voc"]
"""`predict --format`."""
MASK_FORMATS: tuple[str, ...] = get_args(MaskFormat)
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)
