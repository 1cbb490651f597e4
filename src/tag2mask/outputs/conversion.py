"""A folder of indexed masks into the format of an annotation tool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from tag2mask.config import IGNORE
from tag2mask.data.dataset import DataError, MaskCodes, MissingDataError
from tag2mask.data.mask_labels import MaskList, codes_by_name, mask_list, parsed_mask_ids
from tag2mask.data.pictures import PictureError, opened, read_mask
from tag2mask.data.suffixes import PICTURE_SUFFIXES
from tag2mask.data.tables import read_classes
from tag2mask.files import make_folder_atomically
from tag2mask.outputs import BY_STEM, PLACES, WRITERS, LabeledPicture, OutputOptions, check_stems


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


def convert_masks(
    source: str | Path,
    *,
    to: str,
    out: str | Path,
    classes: str | Path | None = None,
    images: str | Path | None = None,
    options: OutputOptions | None = None,
    mask_ids: Sequence[str] = (),
    progress: Callable[[int, int], object] | None = None,
) -> ConvertedMasks:
    """Write a folder of masks in the format of an annotation tool; docs/formats.md says what each can hold.

    Args:
        source: Folder of indexed PNG files NAME.png with labels 0..C and 255, searched with its sub-folders; or a
            folder with such a folder `masks` in it, as `predict` makes and a data set has.
        to: coco, yolo, label-studio, cvat, geojson or voc.
        out: New file (.json for coco and label-studio, .zip for cvat) or new folder.
        classes: Text file with a class per line, in the order of the labels; None takes the list that goes with the
            folder (`mask_list`). In a folder called SegmentationClass VOC's classes have VOC's ids, and are the
            default.
        images: Folder of the pictures: NAME.jpg or with another suffix. Gives the names of the pictures and their
            size is compared; None takes NAME.jpg.
        options: How objects are written.
        mask_ids: Classes of ids that are not labels, as in 255=ball.
        progress: Called with (done, all) masks.

    Raises:
        FileExistsError: there is something at `out`.
        DataError: (a ValueError) no mask, no classes, no picture of a mask, or several.
        ValueError: a mask that cannot be used, a label without class, or names that the format cannot hold.
    """
    folder, out = Path(source).expanduser(), Path(out).expanduser()
    folder = folder / "masks" if (folder / "masks").is_dir() else folder
    _check_out(to, out)
    masks = _masks(folder)
    names, codes = _names_and_codes(folder, None if classes is None else Path(classes), mask_ids)
    pictures = _assumed(masks) if images is None else _found(masks, Path(images))
    file_names = [file_name for file_name, _ in pictures]
    if to in BY_STEM:
        check_stems(file_names, to)
    ignored, pixels = 0, 0

    def write(path: Path) -> None:
        nonlocal ignored, pixels
        with WRITERS[to](path, names, options or OutputOptions()) as add:
            for done, ((name, mask), (file_name, file)) in enumerate(
                zip(masks.items(), pictures, strict=True), start=1
            ):
                size = None if file is None else _picture_size(file)
                labels = read_mask(mask, codes, size)
                ignored, pixels = ignored + int(np.count_nonzero(labels == IGNORE)), pixels + labels.size
                add(LabeledPicture(name, file_name, labels))
                if progress is not None:
                    progress(done, len(masks))

    if Path(PLACES[to]).suffix:
        write(out)
    else:
        make_folder_atomically(out, write)
    return ConvertedMasks(
        out=out,
        data_format=to,
        classes=names,
        num_images=len(masks),
        ignored_share=ignored / pixels,
        known_pictures=images is not None,
    )


def _check_out(to: str, out: Path) -> None:
    if to not in WRITERS:
        raise ValueError(f"--to {to} is no format for masks; formats: {', '.join(WRITERS)}.")
    suffix = Path(PLACES[to]).suffix
    if suffix and out.suffix != suffix:
        raise ValueError(f"--out {out} must end in {suffix}: --to {to} writes one file.")
    for path in [out, *([out.with_suffix(".xml")] if to == "label-studio" else [])]:
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"--out {out}: {path} exists. Choose another name or remove it")


def _masks(folder: Path) -> dict[str, Path]:
    """Files by NAME: the path below the folder without .png."""
    if not folder.is_dir():
        raise MissingDataError(f"There is no folder {folder}. Give the folder of the masks, NAME.png for each picture.")
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() == ".png" and path.is_file()]
    masks = {path.relative_to(folder).as_posix()[:-4]: path for path in files if not path.name.startswith(".")}
    if not masks:
        raise DataError(f"{folder} holds no mask. Masks are indexed PNG files, NAME.png for each picture.")
    return masks


def _names_and_codes(folder: Path, file: Path | None, mask_ids: Sequence[str]) -> tuple[tuple[str, ...], MaskCodes]:
    """The class list, and what the ids stand for; one that stands for nothing stays, and is refused where it occurs."""
    listed = mask_list(folder)
    if file is None and listed is None:
        raise MissingDataError(
            f"The labels of {folder} have no names: there is no classes.txt in it or beside it. "
            "Write one class per line, in the order of the labels 1, 2, ..., and give it as --classes FILE."
        )
    names = listed.names if file is None and listed is not None else read_classes(Path(str(file)))
    ids, colors = dict(enumerate(names, start=1)), None
    if listed is not None and (file is None or _goes_before(listed, names, Path(str(file)))):
        ids, colors = dict(listed.ids), listed.colors
    codes = MaskCodes.of(codes_by_name(ids, names) | parsed_mask_ids(mask_ids, names), others="ignore", colors=colors)
    foreign = np.array([number not in codes.known for number in range(256)])
    return names, replace(codes, table=np.where(foreign, np.arange(256), codes.table).astype(np.uint8))


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


def _assumed(masks: dict[str, Path]) -> list[tuple[str, None]]:
    known = (name if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES else f"{name}.jpg" for name in masks)
    return [(name, None) for name in known]


def _found(masks: dict[str, Path], folder: Path) -> list[tuple[str, Path]]:
    """Name and file of the picture of each mask: NAME with a suffix, or NAME itself where it has one."""
    if not folder.is_dir():
        raise MissingDataError(f"--images {folder} is no folder.")
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    for path in _pictures(folder):
        relative = path.relative_to(folder)
        by_name[relative.as_posix()].append(path)
        by_name[relative.with_suffix("").as_posix()].append(path)
    found = []
    for name in masks:
        files = by_name.get(name, [])
        if len(files) != 1:
            what = f"has {len(files)} pictures of the mask" if files else "has no picture of the mask"
            raise DataError(
                f"--images {folder} {what} {name}.png{': ' + ', '.join(map(str, files)) if files else ''}. "
                f"It is {name} with one of {', '.join(sorted(PICTURE_SUFFIXES))}."
            )
        found.append((files[0].relative_to(folder).as_posix(), files[0]))
    return found


def _pictures(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file() and not path.name.startswith("."):
            yield path


def _picture_size(path: Path) -> tuple[int, int]:
    """(height, width) after EXIF rotation, from the head of the file where it can be."""
    try:
        with opened(path) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            width, height = image.size
    except Exception as error:  # the decoders raise nearly anything on damaged files
        raise PictureError(f"{path} cannot be read as a picture: {error}. Replace or remove it.") from error
    return (width, height) if turned else (height, width)
