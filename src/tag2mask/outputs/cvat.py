"""CVAT's "Segmentation Mask 1.1": a zip with masks in colors, a list and the colors of the labels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tag2mask.base.files import whole_file
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.config.formats import OutputOptions
from tag2mask.data.dataset import voc_palette
from tag2mask.outputs.objects import Add, LabeledPicture, stem_of
from tag2mask.outputs.voc import label_colors, object_map


@contextmanager
def cvat_writer(path: Path, classes: Sequence[str], options: OutputOptions) -> Iterator[Add]:
    """Open a zip of labelmap.txt, ImageSets/Segmentation/default.txt, SegmentationClass/ and SegmentationObject/.

    Masks are RGB PNG in the colors of the VOC palette: of the label in SegmentationClass, of the object's number in
    SegmentationObject. CVAT takes black for "nothing annotated here". Pixels of 255 are black in both, as are those of
    the background, because a color that labelmap.txt does not name stops the import.
    """
    label_map, palette, names = label_colors(classes, ignored=False), voc_palette(), list[str]()
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:

        def add(picture: LabeledPicture) -> None:
            stem = stem_of(picture.file_name)
            names.append(stem)
            labels = np.where(picture.labels == IGNORE, BACKGROUND, picture.labels)
            _put(archive, f"SegmentationClass/{stem}.png", _png(palette[labels]))
            _put(archive, f"SegmentationObject/{stem}.png", _png(palette[object_map(picture, classes, options)]))

        yield add
        _put(archive, "ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in names).encode())
        _put(archive, "labelmap.txt", label_map.encode())


def _png(rgb: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)  # the same masks give the same bytes
