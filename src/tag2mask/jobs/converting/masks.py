"""A folder of indexed masks into the format of an annotation tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import make_folder_atomically
from tag2mask.base.spelling import nfc
from tag2mask.config import IGNORE, MAX_PIXELS
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.masks.folders import mask_pngs, named_codes
from tag2mask.data.storage.pictures import read_mask, shown_size
from tag2mask.data.storage.suffixes import PICTURE_SUFFIXES, is_picture, without_suffix
from tag2mask.inference.sources import path_ends, search
from tag2mask.outputs import FORMATS, PLACES, LabeledPicture, OutputOptions, Wanted, check


@dataclass(frozen=True, kw_only=True)
class ConvertedMasks:
    """What `convert` made of a folder of masks."""

    out: Path
    data_format: str
    """The format of `out`."""
    classes: tuple[str, ...]
    num_images: int
    ignored_share: float
    """Share of all pixels that are 255, in 0..1."""
    known_pictures: bool
    """Whether the names of the pictures are those of files; otherwise they are taken to end in .jpg."""
    findings: tuple[Finding, ...] = ()
    """What was passed over in either folder, and pictures without a mask."""


def convert_masks(
    source: Path,
    *,
    format: str,
    out: Path,
    classes: Path | None = None,
    images: Path | None = None,
    options: OutputOptions | None = None,
    mask_ids: Sequence[str] = (),
    progress: Callable[[int, int], object] | None = None,
) -> ConvertedMasks:
    """The part of `convert` for masks: `source` in the format of an annotation tool, whole or not at all."""
    suffix = Path(PLACES[format]).suffix
    if suffix and out.suffix != suffix:
        raise ValueError(f"--out {out} must end in {suffix}: --to {format} writes one file.")
    if format == "label-studio" and (beside := out.with_suffix(".xml")).exists():
        raise FileExistsError(f"--out {out}: {beside} exists. Choose another name or remove it")
    if images is None and FORMATS[format].has_pictures:
        raise ValueError(f"--to {format} writes the pictures too: give their folder as --images DIR.")
    folder = source / "masks" if (source / "masks").is_dir() else source
    masks, findings = mask_pngs(folder)
    names, codes = named_codes(folder, classes, mask_ids)
    pictures: list[tuple[str, Path | None]] = [(name if is_picture(name) else f"{name}.jpg", None) for name in masks]
    if images is not None:
        pictures, told = _found(masks, images)
        findings += told
    options = options or OutputOptions()
    check((format,), Wanted(names, [file_name for file_name, _ in pictures], options, MAX_PIXELS))
    counts = np.zeros(256, dtype=np.int64)

    def write(path: Path) -> None:
        with FORMATS[format].writer(path, names, options) as add:
            for done, (name, (file_name, file)) in enumerate(zip(masks, pictures, strict=True), start=1):
                labels = read_mask(masks[name], codes, None if file is None else shown_size(file))
                np.add(counts, label_counts(labels), out=counts)
                add(LabeledPicture(name, file_name, labels, path=file))
                if progress is not None:
                    progress(done, len(masks))

    if suffix:
        write(out)
    else:
        make_folder_atomically(out, write)
    return ConvertedMasks(
        out=out,
        data_format=format,
        classes=names,
        num_images=len(masks),
        ignored_share=float(counts[IGNORE] / counts.sum()),
        known_pictures=images is not None,
        findings=findings,
    )


def _found(masks: dict[str, Path], folder: Path) -> tuple[list[tuple[str, Path | None]], tuple[Finding, ...]]:
    """Name and file of the picture of each mask, and what is left of the pictures.

    The picture of NAME is the one that `predict FOLDER` calls so, else that of this name, or of this name with a
    suffix, else the only one whose path ends so: of pictures that `predict` was given from several folders.
    """
    if not folder.is_dir():
        raise MissingDataError(f"--images {folder} is no folder.")
    pictures, findings = search([folder])
    by_result = {nfc(picture.name): i for i, picture in enumerate(pictures)}
    by_end = path_ends(max(name.count("/") for name in masks) + 1, pictures)
    chosen: list[int] = []
    for name in masks:
        key = nfc(name)
        ending = by_end.get(key, [])
        whole = [i for i in ending if key in (nfc(pictures[i].file_name), nfc(without_suffix(pictures[i].file_name)))]
        files = [by_result[key]] if key in by_result else whole or ending
        if len(files) != 1:
            what = f"has {len(files)} pictures of the mask" if files else "has no picture of the mask"
            which = ", ".join(str(pictures[i].path) for i in files[:3])
            raise DataError(
                f"--images {folder} {what} {name}.png{f': {which}' if files else ''}. "
                f"It is {name} with one of {', '.join(sorted(PICTURE_SUFFIXES))}."
            )
        chosen += files
    rest = sorted({picture.file_name for picture in pictures} - {pictures[i].file_name for i in chosen})
    findings += about(
        rest,
        severity="note",
        code="pictures_without_mask",
        message=f"{some(len(rest), 'picture')} of {folder} without a mask, not in what is written.",
        cure="If they should be, predict them, or add their masks.",
    )
    return [(pictures[i].file_name, pictures[i].path) for i in chosen], findings
