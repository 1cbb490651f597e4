"""A folder of indexed masks into the format of an annotation tool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tag2mask.base.arrays import label_counts
from tag2mask.base.files import make_folder_atomically
from tag2mask.base.spelling import nfc
from tag2mask.config import IGNORE, MAX_PIXELS
from tag2mask.data.dataset import DataError, MaskCodes, MissingDataError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.masks.labels import MaskList, codes_by_name, mask_list, parsed_mask_ids
from tag2mask.data.storage.pictures import read_mask, shown_size
from tag2mask.data.storage.suffixes import PICTURE_SUFFIXES, is_picture, without_suffix
from tag2mask.data.storage.tables import read_classes
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
    folder = source / "masks" if (source / "masks").is_dir() else source
    masks, findings = _masks(folder)
    names, codes = _names_and_codes(folder, classes, mask_ids)
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
                add(LabeledPicture(name, file_name, labels))
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


def _masks(folder: Path) -> tuple[dict[str, Path], tuple[Finding, ...]]:
    """Files by NAME, the path below the folder without .png, and what else is there."""
    if not folder.is_dir():
        raise MissingDataError(f"There is no folder {folder}. Give the folder of the masks, NAME.png for each picture.")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    masks: dict[str, Path] = {}
    for name, path in names.items():
        if name.lower().endswith(".png") and (other := masks.setdefault(name[:-4], path)) != path:
            raise DataError(f"{other} and {path} are masks of one name. Remove or rename one.")
    others = [name for name in names if is_picture(name) and not name.lower().endswith(".png")]
    findings = about(
        others,
        code="no_png",
        message=f"{some(len(others), 'picture')} in {folder} passed over: masks are PNG files.",
        cure="Save masks as 8-bit palette PNG, without loss.",
    )
    if not masks:
        seen = "".join(f" {each.message}" for each in findings)
        raise DataError(f"{folder} holds no mask. Masks are indexed PNG files, NAME.png for each picture.{seen}")
    return masks, findings


def _names_and_codes(folder: Path, file: Path | None, mask_ids: Sequence[str]) -> tuple[tuple[str, ...], MaskCodes]:
    """The class list, and what the ids stand for; one that stands for nothing stays, and is refused where it occurs."""
    listed = mask_list(folder)
    if file is not None:
        names = read_classes(file)
    elif listed is not None:
        names = listed.names
    else:
        raise MissingDataError(
            f"The labels of {folder} have no names: there is no classes.txt in it or beside it. "
            "Write one class per line, in the order of the labels 1, 2, ..., and give it as --classes FILE."
        )
    ids, colors = dict(enumerate(names, start=1)), None
    if listed is not None and (file is None or _goes_before(listed, names, file)):
        ids, colors = dict(listed.ids), listed.colors
    codes = MaskCodes.of(codes_by_name(ids, names) | parsed_mask_ids(mask_ids, names), others="ignore", colors=colors)
    table = codes.table.copy()
    for foreign in set(range(256)) - codes.known:
        table[foreign] = foreign
    return names, replace(codes, table=table)


def _goes_before(listed: MaskList, names: tuple[str, ...], file: Path) -> bool:
    """Whether the ids follow the list that goes with the masks, not their place in --classes: in colors, with VOC's
    ids, or where a class has another place there; a list of other names renames the classes.

    Raises:
        DataError: the lists have classes in other places, and --classes lacks some.
    """
    common = {*listed.ids.values()} & {*names}
    if not common or listed.has_own_ids:
        return bool(common)
    moved = [name for name in names if name in common and names.index(name) != listed.names.index(name)]
    if moved and (missing := [name for name in listed.names if name not in names]):
        raise DataError(
            f"By {listed.source} the classes of the masks are {', '.join(listed.names)}, by --classes {file} "
            f"{', '.join(names)}: {', '.join(missing)} are missing, and others have another place. Correct either list."
        )
    return bool(moved)


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
