"""Opens every picture file once, exactly as training does, and keeps a few numbers of each. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tag2mask.base.processes import in_threads
from tag2mask.data.dataset import MaskCodes, Picture
from tag2mask.data.masks.counts import count_ids
from tag2mask.data.storage.fingerprint import fingerprint
from tag2mask.data.storage.pictures import PictureError, open_picture, opened, to_rgb, upright

Progress = Callable[[int, int, str], None]
"""Called with (pictures done, all, name of the last)."""
GREY, CMYK, ALPHA, ANIMATED, DEEP = "grey", "cmyk", "alpha", "animated", "deep"
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True, slots=True)
class MaskLook:
    """What a mask file holds."""

    error: str | None
    """Why it cannot be used; None for a mask that can."""
    ids: bytes = b""
    """Those that occur, ascending."""
    pixels: bytes = b""
    """Of each of them, int32."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pixels int64 [256] of each id."""
        counts = np.zeros(256, dtype=np.int64)
        counts[list(self.ids)] = np.frombuffer(self.pixels, dtype=np.int32)
        return counts


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept of one picture: about 300 bytes, whatever its size."""

    error: str | None
    """Why it cannot be read; None for a good picture. The other fields are then empty."""
    digest: bytes = b""
    """Of the bytes of the file."""
    fingerprint: int = 0
    flat: bool = False
    height: int = 0
    """As it is shown, after EXIF rotation."""
    width: int = 0
    kinds: tuple[str, ...] = ()
    """Of grey, cmyk, alpha, animated, deep."""
    mask: MaskLook | None = None


def look_at_pictures(
    pictures: Sequence[Picture], codes: MaskCodes, *, jobs: int = 0, progress: Progress | None = None
) -> list[Look]:
    """A look at every picture and mask, in their order; no more than a few pictures are in memory at a time."""
    looks: list[Look] = []
    # what Pillow warns of (odd EXIF data, big pictures) is either harmless or an error further on
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = in_threads(lambda picture: look_at(picture.path, picture.mask, codes), pictures, jobs)
        for picture, look in zip(pictures, found, strict=True):
            looks.append(look)
            if progress is not None:
                progress(len(looks), len(pictures), picture.name)
    return looks


def look_at(path: Path, mask: Path | None, codes: MaskCodes) -> Look:
    """Read one picture, and its mask where there is one."""
    try:
        with open_picture(path) as file:
            data = file.read()
    except OSError as error:
        return Look(error.strerror or str(error))
    except ValueError as error:  # a shard that was cut, a damaged table
        return Look(str(error))
    try:
        with opened(io.BytesIO(data)) as image:
            image.load()
            rgb = to_rgb(upright(image))
    except Exception as error:  # the decoders raise nearly anything on damaged files
        return Look(_why_broken(data, error))
    h, w = rgb.shape[:2]
    kinds = picture_kinds(data)
    bits, flat = fingerprint(rgb)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return Look(None, digest, bits, flat, h, w, kinds, None if mask is None else look_at_mask(mask, codes, (h, w)))


def look_at_mask(path: Path, codes: MaskCodes, size: tuple[int, int]) -> MaskLook:
    """The ids of a mask, or why it cannot be used with a picture of this size (height, width)."""
    try:
        counts = count_ids(path, codes, size)
    except (PictureError, OSError) as error:
        return MaskLook(str(error))
    present = np.flatnonzero(counts)
    return MaskLook(None, bytes(present.tolist()), counts[present].astype(np.int32).tobytes())


def picture_kinds(data: bytes) -> tuple[str, ...]:
    """How a picture file differs from plain 8-bit colour, by its headers; `data` is the file, which can be read."""
    with opened(io.BytesIO(data)) as image:
        found = {
            GREY: image.mode in _GREY_MODES or image.mode.startswith("I;16"),
            DEEP: image.mode in ("I", "F") or image.mode.startswith("I;16"),
            CMYK: image.mode == "CMYK",
            ALPHA: image.has_transparency_data,
            ANIMATED: _has_frames(image),
        }
    return tuple(kind for kind, is_so in found.items() if is_so)


def _has_frames(image: Image.Image) -> bool:
    # telephones write JPEG files with a second picture for depth or gain (MPO); nobody sees that one
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # later frames may be damaged; only the first is used
        return True


def _why_broken(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture format that can be read"
    return str(error) or type(error).__name__
