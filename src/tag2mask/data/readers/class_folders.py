"""One folder per class, as torchvision's ImageFolder: each picture has one tag. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tag2mask.base.spelling import is_background, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding, about, are, listed, some
from tag2mask.data.readers.class_names import names_of_nothing
from tag2mask.data.readers.companions import MASK_FOLDERS, mask_files, masks_among
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.readers.locating import PictureFiles, find_picture_files, pictures_below
from tag2mask.data.readers.masks_beside import refuse_masks_beside
from tag2mask.data.storage.naming import NO_SPLIT, known_split
from tag2mask.data.storage.searching import SYSTEM_FOLDERS, is_left_out
from tag2mask.data.storage.suffixes import is_picture, passed_over, suffix_of

_SPLIT_SET = re.compile(r"(?:[ _-]?(?:set|data|images|imgs))?[ _-]?\d*$", re.IGNORECASE)
"""What may stand after the name of a split, as in `training_set`, `test1` and `val2017`."""
_PICTURE_FOLDERS = frozenset(
    ("image", "images", "img", "imgs", "original", "originals", "picture", "pictures", "photos")
)
_RESULT_FOLDERS = frozenset(
    (
        "overlay", "overlays", "prediction", "predictions", "preds", "probs", "result", "results", "run", "runs", "out",
        "output", "outputs", "preview", "previews", "sample", "samples", "thumbnail", "thumbnails", "thumbs", "tmp",
    )
)  # fmt: skip
"""What folders beside the data are called, in lower case; few classes are."""
_RESULT_FILES = ("config.json", "scores.csv", "manifest", "environment.json", "pseudo_labels.json", "args.yaml")
"""What runs and predictions hold."""


def list_class_folders(root: Path, options: DataOptions) -> Listing:
    """CLASS/**/picture, or SPLIT/CLASS/**/picture where folders called train, val or test hold class folders.

    Pictures that lie in no class folder, masks beside their pictures, and results of runs are left out, and said.
    Classes are sorted by name, as torchvision does.

    Raises:
        MissingDataError: no picture in a class folder.
        DataError: folders that can be no classes: splits without class folders, pictures and their masks, one folder
            too many on top.
    """
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    masks_of_all = root / "masks"  # with the same sub-folders as `root`; another masks/ is a class
    mirrors = masks_of_all.is_dir() and any(path.is_dir() and path.name in folders for path in masks_of_all.iterdir())
    files = find_picture_files(root, skip=("masks",) if mirrors else ())
    names = [name for name in pictures_below(files, "") if "/" in name]
    results = {top for top in _tops(names) if _holds_results(root / top)}
    names = [name for name in names if _top(name) not in results]
    splits = _split_folders(names, root)
    level = 1 if splits else 0
    inside = [name for name in names if name.count("/") > level and (not splits or _top(name) in splits)]
    if not inside:
        raise MissingDataError(
            f"{root} has no folder with pictures. Give each class a folder, as in {root / 'cat' / 'a.jpg'}."
        )
    _refuse_inspection_data(names, splits, root)
    refuse_masks_beside(inside, files.path, root)
    among = masks_among(inside)
    masks = _masks(among, inside, level)
    used = [name for name in inside if name not in masks]
    _refuse_one_too_many(used, level, root)
    classes = sorted({_class(name, level) for name in used})
    _refuse_roles(classes, sorted({_class(name, level) for name in inside}), root)
    entries: dict[str, list[Entry]] = {}
    for name in used:
        split = splits[_top(name)] if splits else NO_SPLIT
        entries.setdefault(split, []).append(Entry(name, (_class(name, level),), name))
    taken = frozenset(inside)
    outside = [name for name in files.names if name not in taken]
    findings = (
        *_outside(outside, splits, root),
        *mask_files(sorted(among), frozenset(used), root),
        *_empty(root, [root / top for top in splits] or [root], _tops(files.names, splits), files, results),
        *_odd_names(classes, used, level),
        *_one_class(classes, len(used), root),
        *passed_over(files.others, root),
    )
    files = replace(files, names=tuple(used), others=())
    return Listing(root, entries, tuple(classes), closed=True, about_files=False, files=files, findings=findings)


def has_class_folders(root: Path) -> bool:
    """Whether a folder below `root` holds pictures, at most two levels down; looks no further than the first."""
    for pattern in ("*/*", "*/*/*"):
        for path in root.glob(pattern):
            between = path.parents[: len(path.relative_to(root).parts) - 1]
            hidden = path.name.startswith(".") or any(map(is_left_out, between))
            if not hidden and is_picture(path.name) and path.is_file():
                return True
    return False


def only_folder(root: Path) -> Path | None:
    """The one folder in `root`, where there is no picture beside it: so zip files unpack. None for a split."""
    entries = [path for path in root.iterdir() if not path.name.startswith(".") and path.name not in SYSTEM_FOLDERS]
    folders = [path for path in entries if path.is_dir()]
    if len(folders) != 1 or any(is_picture(path.name) for path in entries) or _split_of(folders[0].name):
        return None
    return folders[0]


def _top(name: str) -> str:
    return name.partition("/")[0]


def _tops(names: Iterable[str], splits: Iterable[str] = ()) -> set[str]:
    """The folders of the classes, from the data folder: without splits the first of each path, else the first two."""
    depth = 2 if splits else 1
    parents = {name.rpartition("/")[0] for name in names}
    return {"/".join(parts[:depth]) for parts in (name.split("/") for name in parents if name) if len(parts) >= depth}


def _class(name: str, level: int) -> str:
    return name.split("/", level + 1)[level]


def _split_of(folder: str) -> str | None:
    return known_split(folder) or known_split(_SPLIT_SET.sub("", folder, count=1))


def _split_folders(names: list[str], root: Path) -> dict[str, str]:
    """Folders that are splits, with the name of the split; none where the folders of `root` are the classes.

    Raises:
        DataError: folders that are called like splits hold no class folders, or may be splits or classes.
    """
    tops = _tops(names)
    named_so = {top: split for top in sorted(tops) if (split := _split_of(top))}
    with_classes = sorted({_top(name) for name in names if name.count("/") > 1} & named_so.keys())
    flat = sorted({_top(name) for name in names if name.count("/") == 1} & named_so.keys())
    others = sorted(tops - named_so.keys())
    if not named_so:
        return {}
    if len(with_classes) > 1 or (with_classes and not others):
        return {top: named_so[top] for top in with_classes}
    if with_classes:
        (top,) = with_classes
        if top in flat:  # pictures of its own: a class with sub-folders
            return {}
        inner = sorted({_class(name, 1) for name in names if _top(name) == top})
        raise DataError(
            f"{root}: {top}/ holds folders ({_few(inner)}) as a split would, but {_few(others)} beside it "
            f"{'holds' if len(others) == 1 else 'hold'} pictures too. If {top} is a split, move the others elsewhere; "
            "if it is a class, put its pictures directly into it."
        )
    if len(set(named_so.values())) > 1 or not others:
        raise DataError(
            f"{root}: pictures lie directly in {_few(sorted(named_so))}, which {'is' if len(named_so) == 1 else 'are'} "
            "called like splits: nothing says which classes they show. Give each class a folder in each split, as in "
            f"{root / next(iter(named_so)) / 'cat' / 'a.jpg'}, or write tags (docs/data.md)."
        )
    return {}


def _refuse_one_too_many(names: Sequence[str], level: int, root: Path) -> None:
    """Refuse a folder that holds the class folders, as zip files and some data sets have it."""
    classes = {_class(name, level) for name in names}
    if len(classes) != 1 or not all(name.count("/") > level + 1 for name in names):
        return
    only = next(iter(classes))
    inner = sorted({_class(name, level + 1) for name in names})
    where = root / only if level == 0 else f"SPLIT/{only}"
    raise DataError(
        f"{root}: the only folder {'' if level == 0 else 'of each split '}is {only}/, and the pictures lie in folders "
        f"in it ({_few(inner)}). If those are the classes, "
        + (f"give --data {where}." if level == 0 else f"move them one level up, out of {where}.")
        + f" If {only} is a class, put its pictures directly into it, and add a folder of another class, or background."
    )


def _refuse_inspection_data(names: Sequence[str], splits: dict[str, str], root: Path) -> None:
    """Refuse the layout of MVTec AD: its train/ shows good things alone, and its ground_truth/ is no split."""
    if "ground_truth" not in {_top(name).lower() for name in names}:
        return
    trained = sorted({_class(name, 1) for name in names if splits.get(_top(name)) == "train" and name.count("/") > 1})
    if len(trained) == 1 and names_of_nothing(trained):
        raise DataError(
            f"{root} is laid out as MVTec AD: train/ shows {trained[0]} alone, so there is no defect to learn. The "
            "defects are in test/, their masks in ground_truth/. Make a plain folder of both, which trains on a part "
            "of test/: docs/data.md, inspection pictures as of MVTec AD, has a program for it."
        )


def _refuse_roles(classes: Sequence[str], with_masks: Sequence[str], root: Path) -> None:
    """Refuse folders of pictures and of their masks, which are no classes."""
    roles = _PICTURE_FOLDERS | MASK_FOLDERS | _RESULT_FOLDERS
    if (
        classes
        and all(name.lower() in roles for name in with_masks)
        and (len(with_masks) > 1 or with_masks[0].lower() in _PICTURE_FOLDERS)
    ):
        raise DataError(
            f"{root}: {_few(with_masks)} look like pictures and what belongs to them, not like classes. Give each "
            f"class a folder, as in {root / 'cat' / 'a.jpg'}, or put the pictures into images/, their masks into "
            "masks/, and write tags.csv (docs/data.md)."
        )


def _masks(among: Iterable[str], names: Sequence[str], level: int) -> set[str]:
    """Of the pictures `among` that look like masks of others, a whole class folder only where nothing else is in it."""
    found = set(among)
    if not found:
        return found
    in_all = Counter(_class(name, level) for name in names)
    in_masks = Counter(_class(name, level) for name in found)
    for folder in in_all:
        about_masks = any(folder != other and folder.lower() in other.lower() for other in in_all)  # mask, no_mask
        if folder.lower() in MASK_FOLDERS and (in_masks[folder] < in_all[folder] or about_masks):
            found = {name for name in found if _class(name, level) != folder}
    return found


def _holds_results(folder: Path) -> bool:
    inner = folder.iterdir() if folder.name.lower() in _RESULT_FOLDERS else ()
    return any((place / name).is_file() for place in (folder, *inner) for name in _RESULT_FILES)


def _outside(names: Sequence[str], splits: dict[str, str], root: Path) -> tuple[Finding, ...]:
    """Findings on pictures that lie in no class folder."""
    where = f"class folders of {listed(sorted(splits))}" if splits else "class folders"
    counts = Counter(f"{_top(name)}/" if "/" in name else "beside the folders" for name in names)
    told = ", ".join(f"{place} {count}" for place, count in counts.most_common(6))
    return about(
        names,
        code="outside_classes",
        message=f"{some(len(names), 'picture')} of {root} outside the {where} ({told}): not used.",
        cure="Move them into the folder of their class, if they are meant to be used.",
    )


def _empty(
    root: Path, parents: Sequence[Path], full: set[str], files: PictureFiles, left_out: set[str]
) -> tuple[Finding, ...]:
    """Findings on folders where classes are looked for, that hold no picture."""
    folders = {
        nfc(path.relative_to(root).as_posix())
        for parent in parents
        for path in parent.iterdir()
        if path.is_dir() and not is_left_out(path)
    }
    empty = sorted(folders - full - left_out - ({"masks"} if (root / "masks").is_dir() else set()))
    told = []
    for folder in empty:
        kinds = Counter(suffix_of(name) or "no suffix" for name in files.others if name.startswith(f"{folder}/"))
        told.append(f"{folder} ({', '.join(f'{suffix} {n}' for suffix, n in kinds.most_common()) or 'no file'})")
    return about(
        told,
        code="empty_folders",
        message=f"{are(len(told), 'folder')} without a picture, and no class: {_few(told)}.",
        cure="Convert what shows a picture to JPEG or PNG, or remove the folder.",
    )


def _odd_names(classes: Sequence[str], names: Sequence[str], level: int) -> tuple[Finding, ...]:
    """Findings on classes that are called like something else, and of those with the same sub-folders."""
    odd = _PICTURE_FOLDERS | MASK_FOLDERS | _RESULT_FOLDERS
    found = [name for name in classes if name.lower() in odd or _split_of(name)]
    inner: defaultdict[str, set[str]] = defaultdict(set)
    for folder in {name.rpartition("/")[0] for name in names}:
        parts = folder.split("/")
        if len(parts) > level + 1:
            inner[parts[level]].add(parts[level + 1])
    shared = [each for each in inner.values() if len(each) > 1]
    common = sorted(set.intersection(*shared)) if len(shared) > 1 and len(shared) == len(classes) else []
    return (
        *_odd(found, "called like a split, or a folder of pictures, masks or results"),
        *(_odd(classes, f"with the same folders in each ({_few(common)})") if common else ()),
    )


def _odd(names: Sequence[str], what: str) -> tuple[Finding, ...]:
    return about(
        names,
        code="odd_classes",
        message=f"{some(len(names), 'class')} {what}: {_few(names)}. Each is learnt like any other.",
        cure="Nothing, if these are classes; else move the folders elsewhere, or see docs/data.md for splits.",
    )


def _one_class(classes: Sequence[str], count: int, root: Path) -> tuple[Finding, ...]:
    return about(
        classes if len(classes) == 1 and not is_background(classes[0]) else (),
        code="one_class",
        message=f"{root} has one class folder, so all {some(count, 'picture')} are tagged {classes[0]}: what is on "
        "every picture cannot be told from the background.",
        cure="Add pictures without it, from the same places, in a folder background.",
    )


def _few(names: Sequence[str]) -> str:
    return listed([*names[:5], *([f"{len(names) - 5} more"] if len(names) > 5 else [])])
