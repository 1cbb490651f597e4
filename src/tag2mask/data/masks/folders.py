"""Folders of masks from anywhere: their files by name, and what the ids in them stand for. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tag2mask.data.dataset import DataError, MaskCodes, MissingDataError
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.masks.labels import MaskList, codes_by_name, mask_list, parsed_mask_ids
from tag2mask.data.storage.suffixes import is_picture
from tag2mask.data.storage.tables import read_classes


def mask_pngs(folder: Path) -> tuple[dict[str, Path], tuple[Finding, ...]]:
    """Masks by NAME, the path below the folder without .png, and findings on other pictures there.

    Raises:
        MissingDataError: there is no such folder.
        DataError: no mask, or two of one name.
    """
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


def named_codes(folder: Path, file: Path | None, mask_ids: Sequence[str]) -> tuple[tuple[str, ...], MaskCodes]:
    """The class list of a folder of masks, and what the ids in them stand for; one that stands for nothing stays.

    Args:
        folder: The folder.
        file: Class list that goes before the folder's own, `--classes`.
        mask_ids: Words of `--mask-ids`.

    Raises:
        MissingDataError: neither has a list.
        DataError: lists that contradict each other.
    """
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
