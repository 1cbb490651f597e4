"""YOLO labels: the classes in a picture's label file are its tags. Imports no torch."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.listing import Entry, Listing
from tag2mask.data.locating import PictureFiles, find_picture_files, locate, pictures_below
from tag2mask.data.naming import NO_SPLIT, by_folder
from tag2mask.data.spelling import existing
from tag2mask.data.tables import is_path, numbered_lines, read_classes, read_text, shown
from tag2mask.formats import DataOptions


def list_yolo(root: Path, options: DataOptions) -> Listing:
    """Tags from YOLO label files (boxes, polygons or poses: only the class at the start of each line is read).

    Classes are the `names` of data.yaml (or of the only *.yaml with names); without one, classes.txt gives them. Its
    `train`, `val` and `test` are folders or lists of pictures below the data folder: `path` and leading `../` are not
    used. The labels of images/x.jpg are in labels/x.txt; without that file the picture is a negative.

    Raises:
        MissingDataError: no names, no pictures or no labels.
        DataError: a line that cannot be read.
    """
    path = yolo_yaml(root)
    settings = {} if path is None else _settings(path)
    source = path or root / "classes.txt"
    if path is None and not source.is_file():
        raise MissingDataError(f"{root} has neither data.yaml with names nor classes.txt. Write the class names there.")
    names = dict(enumerate(read_classes(source, numbered=True))) if path is None else _names(path, settings)
    files = find_picture_files(root)
    pictures = _pictures(files, settings, source)
    labelled = 0
    splits: dict[str, list[Entry]] = {}
    for split, members in pictures.items():
        splits[split] = []
        for name in members:
            label_file = existing(root, label_name(name)) or root / label_name(name)
            known = label_file.is_file()
            labelled += known
            splits[split].append(Entry(name, _tags(label_file, names, source) if known else (), str(label_file)))
    if not labelled:
        example = next((name for members in pictures.values() for name in members), "images/a.jpg")
        raise MissingDataError(f"{root} has no label file, for example {label_name(example)}. Put them into labels/.")
    return Listing(
        "yolo", source, splits, tuple(dict.fromkeys(names.values())), closed=True, numbered=path is None, files=files
    )


def yolo_yaml(root: Path) -> Path | None:
    """The description of a YOLO data set: data.yaml, dataset.yaml, or the only other *.yaml that has names.

    Raises:
        DataError: more than one.
    """
    paths = [path for pattern in ("*.yaml", "*.yml") for path in sorted(root.glob(pattern)) if path.is_file()]
    found = [path for path in paths if any(line.startswith("names:") for line in _lines(path))]
    usual = [path for path in found if path.stem in ("data", "dataset")]
    if len(usual or found) > 1:
        raise DataError(f"{root} has {' and '.join(path.name for path in usual or found)} of YOLO. Keep one.")
    return next(iter(usual or found), None)


def label_name(name: str) -> str:
    """Label file of a picture: the last folder images becomes labels, the suffix .txt."""
    parts = list(PurePosixPath(name).with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return "/".join(parts)


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except DataError:
        return []


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise DataError(f"{path}: not valid YAML ({' '.join(str(error).split())}). Correct it.") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path} must hold names and train, got {type(settings).__name__}.")
    return settings


def _names(path: Path, settings: dict[str, Any]) -> dict[int, str]:
    names = settings.get("names")
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    # only plain values become text: aliases in YAML let a small file stand for a text without end
    by_id = {
        key: str(name).strip()
        for key, name in pairs
        if isinstance(key, int) and isinstance(name, (str, int, float)) and str(name).strip()
    }
    if not by_id or len(by_id) != len(names or ()):
        raise DataError(f"{path}: names must be a list of class names, or 'number: name' lines, got {shown(names)}.")
    return dict(sorted(by_id.items()))


def _pictures(files: PictureFiles, settings: dict[str, Any], source: Path) -> dict[str, list[str]]:
    """Names of the pictures of each split."""
    splits = {}
    for key in ("train", "val", "test"):
        value = settings.get(key)
        where = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        texts = [each for each in where if isinstance(each, str) and each.strip()]
        members = [name for each in texts for name in _members(files, each, key, source)]
        if members:
            splits[key] = list(dict.fromkeys(members))
    if splits:
        return splits
    folder = "images" if (files.root / "images").is_dir() else ""
    names = pictures_below(files, folder)
    if not names:
        raise MissingDataError(
            f"{files.root / folder} has no picture. Put them there, or name their folder in data.yaml."
        )
    return by_folder(names, lambda name: name) if folder else {NO_SPLIT: names}


def _members(files: PictureFiles, value: str, key: str, source: Path) -> list[str]:
    """Pictures of a folder or list; one that is not there may be left out unless it is the training split's."""
    if not is_path(value):
        raise DataError(f"{source}: {key} names {shown(value)}, which can be no folder or list. Correct it.")
    parts = [part for part in PurePosixPath(value.replace("\\", "/")).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        relative = "/".join(parts[start:])
        if (files.root / relative).is_dir():
            return pictures_below(files, relative)
        if relative.endswith(".txt") and (files.root / relative).is_file():
            return _listed(files, relative)
    if key != "train":
        return []
    raise MissingDataError(
        f"{source}: there is no folder or list {value!r} below {files.root}. Correct {key} (path: is not used)."
    )


def _listed(files: PictureFiles, relative: str) -> list[str]:
    path = files.root / relative
    near = (PurePosixPath(relative).parent.as_posix(),) if "/" in relative else ()
    lines = numbered_lines(path)
    return [locate(files, text.removeprefix("./"), f"{path} line {line}", near) for line, text in lines]


def _tags(path: Path, names: dict[int, str], source: Path) -> tuple[str, ...]:
    tags: dict[str, None] = {}
    for line, text in numbered_lines(path):
        number = text.split()[0]
        if not (number.isdecimal() and len(number) < 10):
            raise DataError(f"{path} line {line}: must start with the number of a class, got {number[:40]!r}.")
        if int(number) not in names:
            raise DataError(
                f"{path} line {line}: there is no class {number}; {source} names {min(names)} to {max(names)}. "
                "Correct the number or add the name."
            )
        tags[names[int(number)]] = None
    return tuple(tags)
