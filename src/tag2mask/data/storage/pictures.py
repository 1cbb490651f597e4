"""Picture and mask files to arrays. Imports no torch."""

from __future__ import annotations

import functools
import io
import logging
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tag2mask.base.files import whole_file
from tag2mask.config import MAX_PIXELS
from tag2mask.data.dataset import LabelMap, MaskCodes
from tag2mask.data.storage.labelmap import LABELMAP, packed
from tag2mask.data.storage.shards import is_in_shard, shard_bytes
from tag2mask.data.storage.suffixes import FORMATS, missing_reader

_log = logging.getLogger(__name__)
_ORIENTATION, _IMAGE_WIDTH = 0x0112, 0x0100
_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N")
_PART = 1 << 24
"""Values of a mask in colors that are looked up at a time."""


class PictureError(ValueError):
    """A picture or mask file that cannot be used; the message names it."""


class PictureTooLarge(PictureError):
    """A picture with more pixels than the limit. It was not unpacked."""


_OPENING = threading.Lock()


@contextmanager
def opened(file: BinaryIO | Path, max_pixels: int | None = MAX_PIXELS) -> Iterator[ImageFile.ImageFile]:
    """A picture whose pixels are not unpacked yet, with one limit of its size.

    Pillow has two of its own, a warning above 89 million pixels and an error above 179 million; they are set aside
    while the file's head is read, for all threads.

    Raises:
        PictureTooLarge: more than `max_pixels`; None is no limit.
    """
    if "HEIF" in FORMATS:
        _register_heif()
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise UnidentifiedImageError("its content is of no known picture format") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        check_pixels(image, max_pixels)
        yield image


@functools.cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


def check_pixels(image: Image.Image, max_pixels: int | None) -> None:
    """Refuse a PIL image with more than `max_pixels`, by its head; None is no limit."""
    width, height = image.size
    if max_pixels is not None and width * height > max_pixels:
        raise PictureTooLarge(
            f"{height} x {width} (height x width) are {width * height} pixels, more than the limit of {max_pixels}. "
            "If the file is what it should be, make it smaller, or predict with a higher --max-pixels."
        )


def open_picture(path: str | Path) -> BinaryIO:
    """The bytes of a picture of a `PictureSet`: of its file, its row in a Hugging Face data set, or its shard.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: it is a pipe or device.
    """
    path = Path(path)
    if is_in_shard(path):
        return io.BytesIO(shard_bytes(path))
    if is_stored(path):
        from tag2mask.data.storage.hf_rows import stored_bytes

        return io.BytesIO(stored_bytes(path))
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
        raise PictureError(f"{path} is a folder, pipe or device; a picture file is needed. Name, replace or remove it.")
    return _File(io.FileIO(path))


class _File(io.BufferedReader):
    """A file of which no read asks for more than is there: Python reserves as much as a forged length says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, os.fstat(self.fileno()).st_size - self.tell()))
        return super().read(size)


def place_picture(path: Path, place: Path, *, link: bool) -> None:
    """Write the bytes of a picture of a `PictureSet` as the file `place`, or make that a second name of its file.

    A link is tried where it is asked for; whole or not at all, and a file that is there is replaced.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if link and not is_stored(path):
        other = place.with_name(f".{secrets.token_hex(8)}.part{place.suffix}")
        try:
            os.link(path.resolve(), other)  # resolved: a link to a link would break with it
            other.replace(place)
            return
        except OSError as error:
            _log.debug("%s is copied: %s", path, error)
        finally:
            other.unlink(missing_ok=True)  # two names of one file are not renamed
    with open_picture(path) as file, whole_file(place) as copy, copy.open("wb") as written:
        shutil.copyfileobj(file, written)


def is_stored(path: Path) -> bool:
    """Whether `path` is no file: in a shard, or a row of a Hugging Face data set, FOLDER/state.json/COLUMN/ROW/NAME."""
    return (len(path.parts) > 4 and path.parts[-4] == "state.json") or is_in_shard(path)


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """The picture as people see it: rotated by its EXIF data, first frame, any mode (see `to_rgb`).

    Args:
        path: The file.
        max_pixels: Larger pictures are refused before they are unpacked.

    Returns:
        uint8 [H, W, 3], contiguous and writable.

    Raises:
        PictureError: not a picture, empty, truncated, broken, or too large (`PictureTooLarge`).
        MemoryError: the machine has not the memory to unpack it.
        FileNotFoundError: there is no such file.
    """
    with _named_errors(path), open_picture(path) as file, opened(file, max_pixels) as image:
        image.load()
        return to_rgb(upright(image))


@contextmanager
def _named_errors(path: str | Path, kind: str = "picture") -> Iterator[None]:
    """A block that reads a picture or mask, whose errors, those of `read_picture`, name the file."""
    try:
        yield
    except PictureTooLarge as error:
        raise PictureTooLarge(f"{'Mask ' if kind == 'mask' else ''}{path} is left out: {error}") from error
    except (FileNotFoundError, MemoryError, PictureError):
        raise
    except Exception as error:  # the decoders raise nearly anything on damaged files
        needs = missing_reader(str(path))
        raise PictureError(f"{path} cannot be read as a {kind}: {error}{needs}. Replace or remove it.") from error


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of a PIL image of any mode as uint8 [H, W, 3].

    Transparency is laid over white. Grey of 16 bits is divided by 257, so 65535 is white; 32-bit and float grey is
    scaled from the smallest of the usual ranges that holds it (1 for float, 255 for float, 65535, 2^31 - 1).
    Colour profiles are ignored.
    """
    if image.mode in (*_GREY16, "I", "F"):
        grey = _grey_to_uint8(np.asarray(image), image)
        return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data say."""
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        return ImageOps.exif_transpose(image) if turned else image  # it copies what it does not turn
    except Exception:  # damaged EXIF data must not lose a picture whose pixels are whole
        return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of the image once it is upright, without unpacking it.

    Pillow gives the size of a TIFF as it is shown (from version 11 on) or as it is stored, that of HEIF as it is
    shown, and that of other formats as it is stored.
    """
    width, height = image.size
    try:
        sideways = image.format != "HEIF" and image.getexif().get(_ORIENTATION, 1) in range(5, 9)
        stored = getattr(image, "tag_v2", {}).get(_IMAGE_WIDTH, width)
    except Exception:  # as in `upright`
        sideways, stored = False, width
    return (width, height) if sideways and stored == width else (height, width)


def _grey_to_uint8(values: NDArray[np.generic], image: Image.Image) -> NDArray[np.uint8]:
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    ranges = [65535.0] if image.mode != "I" or image.format == "PNG" else [65535.0, 2.0**31 - 1]
    if image.mode == "F":
        ranges = [1.0, 255.0, 65535.0, 2.0**31 - 1]
    peak = float(wide.max())
    top = next((limit for limit in ranges if peak <= limit), peak)
    return np.asarray(np.clip(np.rint(wide * (255.0 / top)), 0, 255), dtype=np.uint8)


def read_mask(path: str | Path, codes: MaskCodes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The labels of an indexed PNG.

    Args:
        path: Palette PNG, or 8-bit grey PNG that holds the ids themselves; also RGB where `codes` name colors.
        codes: What the ids stand for.
        size: (height, width) of the picture; a mask of another size is refused.

    Returns:
        uint8 [H, W] in {0..C, 255}.

    Raises:
        PictureError: broken, not an indexed PNG, or of another size.
        FileNotFoundError: there is no such file.
    """
    return codes.table[read_ids(path, size, codes.colors)]


def read_ids(
    path: str | Path, size: tuple[int, int] | None = None, colors: LabelMap | None = None
) -> NDArray[np.uint8]:
    """The ids of a mask as they stand in the file, or those of its colors; the rest as in `read_mask`."""
    with _named_errors(path, "mask"), open_picture(path) as file, opened(file) as image:
        # 2- and 4-bit grey is stretched to 0-255 by the decoder, which destroys the ids
        stretched = image.mode == "L" and any(str(tile[3]).startswith("L;") for tile in image.tile)
        kind = image.mode if image.format == "PNG" else f"{image.format} {image.mode}"
        ids = np.asarray(image) if colors is None else _color_ids(image, colors)
    if stretched or kind not in (("P", "L", "1") if colors is None else ("P", "L", "1", "RGB", "RGBA")):
        cure = (
            f", or name its colors in {LABELMAP} beside the masks or their folder, a line 'CLASS:r,g,b::' each"
            if colors is None and kind in ("RGB", "RGBA")
            else ""
        )
        raise PictureError(
            f"Mask {path} is {kind}{' of fewer than 8 bits' if stretched else ''}, not an indexed PNG. Save it as "
            f"8-bit palette PNG whose pixel values are the labels (0 background, 1 the first class, 255 ignored){cure}."
        )
    if size is not None and ids.shape != tuple(size):
        raise PictureError(
            f"Mask {path} is {ids.shape[0]} x {ids.shape[1]} (height x width), its picture {size[0]} x {size[1]} "
            "after EXIF rotation. Draw the mask on the picture as it is shown."
        )
    return ids.astype(np.uint8)


def shown_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a picture after EXIF rotation, from the head of its file.

    Raises:
        PictureError: it cannot be read.
        FileNotFoundError: there is no such file.
    """
    return _head(path, upright_size)


def file_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a file as it stands, which is that of a mask; the rest as in `shown_size`."""
    return _head(path, lambda image: (image.height, image.width))


def _head(path: str | Path, size_of: Callable[[Image.Image], tuple[int, int]]) -> tuple[int, int]:
    with _named_errors(path), open_picture(path) as file, opened(file, None) as image:
        return size_of(image)


def _color_ids(image: Image.Image, colors: LabelMap) -> NDArray[np.uint8]:
    """The ids of colors; of a palette or grey picture the values themselves where the file names none of its colors."""
    if image.mode not in ("P", "L", "1"):
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        return np.concatenate([colors.ids_of(packed(rows)) for rows in np.array_split(rgb, 1 + rgb.size // _PART)])
    values = np.asarray(image).astype(np.uint8)
    shades = np.repeat(np.arange(256, dtype=np.uint8)[:, None] * (255 if image.mode == "1" else 1), 3, axis=1)
    if image.mode == "P":
        entries = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
        shades[: len(entries)] = entries
    table = colors.of_palette(np.bincount(values.ravel(), minlength=256) > 0, packed(shades))
    return values if table is None else table[values]
