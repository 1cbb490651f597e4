"""YOLO labels: the classes in a picture's label file are its tags. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from tag2mask.base.spelling import existing, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding, about
from tag2mask.data.readers.left_out import Unlabeled, same_name, without_picture
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.readers.locating import PictureFiles, find_picture_files, locate, pictures_below
from tag2mask.data.readers.yolo_description import Description, description, file_below, path_ends
from tag2mask.data.storage.links import walk
from tag2mask.data.storage.naming import by_folder
from tag2mask.data.storage.suffixes import suffix_of
from tag2mask.data.storage.tables import is_path, numbered_lines, shown

_UNLABELED = Unlabeled("label file", "negative", "; an empty label file says that a picture shows none of the classes")

_Members = dict[str, str]
"""Pictures of a split by their path relative to the data folder, with the path that a list has; "" where none has."""


def list_yolo(root: Path, options: DataOptions) -> Listing:
    """Tags from YOLO label files (boxes, polygons or poses: only the class at the start of each line is read).

    Classes are the `names` of data.yaml (or of the only *.yaml with names), of YOLO 1.1 (Darknet) the lines of the file
    that obj.data names, else those of classes.txt. `train`, `val` and `test` are folders or lists of pictures; the
    longest end of their path that is below the data folder is taken, and so of the lines of a list. The labels of
    images/x.jpg are in labels/x.txt, in YOLO 1.1 beside the picture; a picture without that file is a negative, or
    left out on request.

    Raises:
        MissingDataError: no names, no pictures or no labels.
        DataError: a line that cannot be read.
    """
    described = description(root)
    files = find_picture_files(root)
    members, findings = _pictures(files, described)
    used: set[str] = set()
    splits: dict[str, list[Entry]] = {}
    for split, each in members.items():
        splits[split] = []
        for name, written in each.items():
            label = _label_file(root, name, written, beside=described.beside)
            path = existing(root, label or label_name(name)) or root / label_name(name)
            tags = _tags(path, described.names, described.source) if label else ()
            splits[split].append(Entry(name, tags, str(path), labeled=label is not None))
            used |= {label} if label else set()
    if not used:
        example = next((name for each in members.values() for name in each), "images/a.jpg")
        raise MissingDataError(f"{root} has no label file, for example {label_name(example)}. Put them into labels/.")
    findings = (
        *same_name(described.names.items(), described.source),
        *findings,
        *without_picture(_spare_labels(files, used), "label file", root),
    )
    return Listing(
        described.source,
        splits,
        tuple(dict.fromkeys(described.names.values())),
        closed=True,
        numbered=described.source == root / "classes.txt",
        files=files,
        findings=findings,
        unlabeled=_UNLABELED,
    )


def label_name(name: str) -> str:
    """Label file of a picture: the last folder images becomes labels, the suffix .txt."""
    path = f"/{_as_txt(name)}"
    before, images, after = path.rpartition("/images/")
    return (f"{before}/labels/{after}" if images else path)[1:]


def _label_file(root: Path, picture: str, written: str, *, beside: bool) -> str | None:
    """The label file of a picture, relative to the data folder; also where the list's path of the picture says."""
    names = [label_name(picture), *([_as_txt(picture)] if beside else [])]
    if written and is_path(written):
        text = _as_txt(written.replace("\\", "/"))
        for each in (label_name(text), *([text] if beside else [])):
            names += [end for end in path_ends(each) if "/" in end]
    names += [name.removesuffix(".txt") + ".TXT" for name in names]
    return next((nfc(name) for name in names if file_below(root, name) is not None), None)


def _as_txt(name: str) -> str:
    return PurePosixPath(name).with_suffix(".txt").as_posix()


def _spare_labels(files: PictureFiles, used: set[str]) -> list[str]:
    """Label files that belong to no picture of the data folder, of a split or not."""
    own = {label_name(name) for name in files.names}
    own |= set(map(_as_txt, files.names))
    homes = {name.rpartition("/")[0] for name in used} - {""}
    texts = (nfc(name) for name, _ in walk(files.root, "") if suffix_of(name) == ".txt")
    return sorted(
        name
        for name in texts
        if name not in used
        and name.removesuffix(".TXT").removesuffix(".txt") + ".txt" not in own
        and (name.rpartition("/")[0] in homes or "labels" in name.split("/")[:-1])
        and name.rpartition("/")[2] != "classes.txt"
    )


def _pictures(files: PictureFiles, described: Description) -> tuple[dict[str, _Members], tuple[Finding, ...]]:
    """The pictures of each split, and findings on splits that are not there."""
    splits, missing = {}, []
    for split, texts in described.places.items():
        members: _Members = {}
        for text in texts:
            found = _members(files, text, split, described)
            missing += [f"{split}: {text}"] if found is None else []
            members |= found or {}
        if members:
            splits[split] = members
    findings = about(
        missing,
        code="missing_split",
        message=f"{described.source}: no picture at {' and '.join(missing)} below {files.root}: left out.",
        cure="Put the pictures there, or remove the line.",
    )
    if splits:
        return splits, findings
    folder = "images" if (files.root / "images").is_dir() else ""
    names = pictures_below(files, folder)
    if not names:
        raise MissingDataError(
            f"{files.root / folder} has no picture. Put them there, or name their folder in data.yaml."
        )
    return {split: dict.fromkeys(each, "") for split, each in by_folder(names, str).items()}, findings


def _members(files: PictureFiles, value: str, split: str, described: Description) -> _Members | None:
    """Pictures of a folder or list; one that is not there may be left out (None) unless it is the training split's."""
    if not is_path(value):
        raise DataError(
            f"{described.source}: {split} names {shown(value)}, which can be no folder or list. Correct it."
        )
    for end in path_ends(value):
        for relative in dict.fromkeys((end, *(f"{base}/{end}" for base in path_ends(described.base)))):
            if (found := existing(files.root, relative)) is not None and found.is_dir():
                return dict.fromkeys(pictures_below(files, nfc(relative)), "") or None
            if relative.endswith(".txt") and file_below(files.root, relative) is not None:
                return _listed(files, relative)
    if split != "train":
        return None
    raise MissingDataError(
        f"{described.source}: there is no folder or list {value!r} below {files.root}. Correct {split}."
    )


def _listed(files: PictureFiles, relative: str) -> _Members:
    path = file_below(files.root, relative) or files.root / relative
    near = (PurePosixPath(relative).parent.as_posix(),) if "/" in relative else ()
    members: dict[str, tuple[int, str]] = {}
    for line, text in numbered_lines(path):
        name = locate(files, text, f"{path} line {line}", near, foreign=True)
        other, written = members.setdefault(name, (line, text))
        if written != text:
            raise DataError(
                f"{path} line {line}: {text!r} and {written!r} on line {other} both mean {name}. Write the paths as "
                f"they are below {files.root}."
            )
    return {name: text for name, (_, text) in members.items()}


def _tags(path: Path, names: dict[int, str], source: Path) -> tuple[str, ...]:
    lines = numbered_lines(path)
    return tuple(dict.fromkeys(class_of(text, f"{path} line {line}", names, source) for line, text in lines))


def class_of(text: str, where: str, names: dict[int, str], source: Path) -> str:
    """The class whose number begins a line of a label file.

    Raises:
        DataError: it is no number, or one that `names`, which `source` says, do not have.
    """
    number = text.split()[0]
    if not re.fullmatch(r"[0-9]{1,9}(?:\.0*)?", number):
        raise DataError(f"{where}: must start with the number of a class, got {number[:40]!r}.")
    if (key := int(number.partition(".")[0])) not in names:
        raise DataError(
            f"{where}: there is no class {number}; {source} names {min(names)} to {max(names)}. "
            "Correct the number or add the name."
        )
    return names[key]
