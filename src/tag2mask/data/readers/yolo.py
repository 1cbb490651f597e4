"""YOLO labels: the classes in a picture's label file are its tags. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from tag2mask.base.spelling import existing, nfc
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding, about
from tag2mask.data.readers.left_out import Unlabeled, same_name, without_picture
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.readers.locating import PictureFiles, find_picture_files, locate, pictures_below
from tag2mask.data.storage.links import walk
from tag2mask.data.storage.naming import by_folder
from tag2mask.data.storage.suffixes import suffix_of
from tag2mask.data.storage.tables import is_path, numbered_lines, read_classes, read_text, shown

_SPLITS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
"""Keys of data.yaml, and those of YOLO 1.1 for the same."""
_UNLABELED = Unlabeled("label file", "negative", "; an empty label file says that a picture shows none of the classes")


class _AsWritten(yaml.SafeLoader):
    """Takes `no`, `1.0` and dates for text."""


_AsWritten.yaml_implicit_resolvers = {}


class _Description(NamedTuple):
    """What describes a YOLO data set: data.yaml, YOLO 1.1's obj.data, or classes.txt alone."""

    source: Path
    names: dict[int, str]
    places: dict[str, list[str]]
    """Folders and lists of pictures by split, as they are written."""
    base: str = ""
    """`path` of data.yaml."""
    beside: bool = False
    """Whether label files lie beside the pictures, as in YOLO 1.1."""


class _Member(NamedTuple):
    picture: str
    """Path relative to the data folder."""
    written: str
    """As a list names it."""


def list_yolo(root: Path, options: DataOptions) -> Listing:
    """Tags from YOLO label files (boxes, polygons or poses: only the class at the start of each line is read).

    Classes are the `names` of data.yaml (or of the only *.yaml with names), of YOLO 1.1 (Darknet) the lines of the file
    that obj.data names, else those of classes.txt. `train`, `val` and `test` are folders or lists of pictures; the
    longest end of their path that is below the data folder is taken, and so of the lines of a list. The labels of
    images/x.jpg are in labels/x.txt, in YOLO 1.1 beside the picture; a picture without that file is a negative, or
    left out if so asked.

    Raises:
        MissingDataError: no names, no pictures or no labels.
        DataError: a line that cannot be read.
    """
    described = _description(root)
    files = find_picture_files(root)
    members, findings = _pictures(files, described)
    used: set[str] = set()
    splits: dict[str, list[Entry]] = {}
    for split, each in members.items():
        splits[split] = []
        for member in each:
            label = _label_file(root, member, beside=described.beside)
            path = existing(root, label or label_name(member.picture)) or root / label_name(member.picture)
            tags = _tags(path, described.names, described.source) if label else ()
            splits[split].append(Entry(member.picture, tags, str(path), labeled=label is not None))
            used |= {label} if label else set()
    if not used:
        example = next((member.picture for each in members.values() for member in each), "images/a.jpg")
        raise MissingDataError(f"{root} has no label file, for example {label_name(example)}. Put them into labels/.")
    findings = (
        *same_name(described.names.items(), described.source),
        *findings,
        *without_picture(_spare_labels(files, used), "label file", root),
    )
    classes = tuple(dict.fromkeys(described.names.values()))
    return Listing(
        "yolo",
        described.source,
        splits,
        classes,
        closed=True,
        numbered=described.source == root / "classes.txt",
        files=files,
        findings=findings,
        unlabeled=_UNLABELED,
    )


def is_yolo(root: Path) -> bool:
    """Whether a data folder has a description or label files of YOLO."""
    if yolo_yaml(root) is not None or _darknet_file(root) is not None:
        return True
    folders = (root / "labels", *root.glob("*/labels"))
    patterns = [f"{folder}*.{suffix}" for folder in ("", "*/") for suffix in ("txt", "TXT")]
    return any(True for folder in folders for pattern in patterns for _ in folder.glob(pattern))


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


def _label_file(root: Path, member: _Member, *, beside: bool) -> str | None:
    """The label file of a picture, relative to the data folder; also where the list's path of the picture says."""
    own = PurePosixPath(member.picture).with_suffix(".txt").as_posix()
    names = [label_name(member.picture), *([own] if beside else [])]
    if member.written and is_path(member.written):
        written = PurePosixPath(member.written.replace("\\", "/")).with_suffix(".txt").as_posix()
        for text in (label_name(written), *([written] if beside else [])):
            names += [end for end in _ends(text) if "/" in end]
    names += [name.removesuffix(".txt") + ".TXT" for name in names]
    return next((nfc(name) for name in names if _file(root, name) is not None), None)


def _file(root: Path, name: str) -> Path | None:
    path = existing(root, name)
    return path if path is not None and path.is_file() else None


def _spare_labels(files: PictureFiles, used: set[str]) -> list[str]:
    """Label files that belong to no picture of the data folder, of a split or not."""
    own = {label_name(name) for name in files.names}
    own |= {PurePosixPath(name).with_suffix(".txt").as_posix() for name in files.names}
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


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except DataError:
        return []


def _description(root: Path) -> _Description:
    path, darknet = yolo_yaml(root), _darknet_file(root)
    if path is not None and darknet is not None:
        raise DataError(f"{root} has {path.name} and {darknet.name} of YOLO. Keep one.")
    if path is not None:
        return _yaml_description(path)
    if darknet is not None:
        return _darknet_description(root, darknet)
    source = root / "classes.txt"
    if not source.is_file():
        raise MissingDataError(f"{root} has neither data.yaml with names nor classes.txt. Write the class names there.")
    return _Description(source, dict(enumerate(read_classes(source, numbered=True))), {})


def _yaml_description(path: Path) -> _Description:
    """names, train, val, test and path of data.yaml, as they are written: `no` and `1.0` are names as good as any."""
    node = _yaml_node(path)
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path} must hold names and train, got {getattr(node, 'id', 'nothing')}.")
    nodes = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    names = nodes.get("names")
    pairs: list[tuple[str, Any]] = []
    if isinstance(names, yaml.SequenceNode):
        pairs = [(str(number), each) for number, each in enumerate(names.value)]
    elif isinstance(names, yaml.MappingNode):
        pairs = [(key.value if isinstance(key, yaml.ScalarNode) else "", each) for key, each in names.value]
    texts = [(number, each.value.strip() if isinstance(each, yaml.ScalarNode) else "") for number, each in pairs]
    if not texts or not all(number.isdecimal() and len(number) < 10 and name for number, name in texts):
        told = getattr(names, "value", None) if isinstance(names, yaml.ScalarNode) else [each[1] for each in texts]
        raise DataError(f"{path}: names must be a list of class names, or 'number: name' lines, got {shown(told)}.")
    by_number = _numbered(((int(number), name) for number, name in texts), path)
    places = {key: _plain_texts(nodes.get(key)) for key in _SPLITS}
    return _Description(path, by_number, places, base="".join(_plain_texts(nodes.get("path"))[:1]))


def _yaml_node(path: Path) -> Any:
    """A YAML file as written: its node shows a key that is there twice, which its value would not."""
    try:
        loader = _AsWritten(read_text(path))
        node = loader.get_single_node()
        if node is not None:
            loader.construct_document(node)  # refuses what is no plain data
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid YAML ({' '.join(str(error).split())}). Correct it.") from error
    return node


def _plain_texts(node: Any) -> list[str]:
    """Texts of a YAML value or list of them, without empty ones."""
    each = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [
        one.value for one in each if isinstance(one, yaml.ScalarNode) and one.value.strip() not in ("", "null", "~")
    ]


def _numbered(pairs: Iterable[tuple[int, str]], source: Path) -> dict[int, str]:
    """Names by number.

    Raises:
        DataError: two names for one number.
    """
    names: dict[int, str] = {}
    for number, name in pairs:
        if names.setdefault(number, name) != name:
            raise DataError(
                f"{source}: {number} is {names[number]!r} and {name!r}. Give each name a number of its own."
            )
    return dict(sorted(names.items()))


def _darknet_file(root: Path) -> Path | None:
    """obj.data of YOLO 1.1 (any *.data that says `names = ...`), or its obj.names beside obj_train_data/."""
    for path in sorted(root.glob("*.data")):
        if path.is_file() and any(line.partition("=")[0].strip() == "names" for line in _lines(path)):
            return path
    return next(iter(sorted(root.glob("*.names"))), None) if any(root.glob("obj_*_data")) else None


def _darknet_description(root: Path, path: Path) -> _Description:
    settings = {}
    if path.suffix == ".data":
        pairs = (line.partition("=") for line in read_text(path).splitlines() if not line.lstrip().startswith("#"))
        settings = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
    wanted = settings.get("names", path.name)
    source = next(filter(None, (_file(root, end) for end in _ends(wanted))), None)
    if source is None:
        raise MissingDataError(f"{path}: there is no file {wanted!r} of names below {root}. Put it beside {path.name}.")
    names = {number: text.strip() for number, text in enumerate(read_text(source).splitlines()) if text.strip()}
    if not names:
        raise DataError(f"{source} names no class. Write one class name per line, number 0 first.")
    places = {split: [settings[key]] for split, keys in _SPLITS.items() for key in keys if key in settings}
    return _Description(source, names, places, beside=True)


def _pictures(files: PictureFiles, described: _Description) -> tuple[dict[str, list[_Member]], tuple[Finding, ...]]:
    """The pictures of each split, and what is said of splits that are not there."""
    splits, missing = {}, []
    for split, texts in described.places.items():
        members: dict[str, _Member] = {}
        for text in texts:
            found = _members(files, text, split, described)
            missing += [f"{split}: {text}"] if found is None else []
            members |= {member.picture: member for member in found or ()}
        if members:
            splits[split] = list(members.values())
    findings = about(
        missing,
        severity="warning",
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
    return {split: [_Member(name, "") for name in each] for split, each in by_folder(names, str).items()}, findings


def _members(files: PictureFiles, value: str, split: str, described: _Description) -> list[_Member] | None:
    """Pictures of a folder or list; one that is not there may be left out (None) unless it is the training split's."""
    if not is_path(value):
        raise DataError(
            f"{described.source}: {split} names {shown(value)}, which can be no folder or list. Correct it."
        )
    for end in _ends(value):
        for relative in dict.fromkeys((end, *(f"{base}/{end}" for base in _ends(described.base)))):
            if (found := existing(files.root, relative)) is not None and found.is_dir():
                return [_Member(name, "") for name in pictures_below(files, nfc(relative))] or None
            if relative.endswith(".txt") and _file(files.root, relative) is not None:
                return _listed(files, relative)
    if split != "train":
        return None
    raise MissingDataError(
        f"{described.source}: there is no folder or list {value!r} below {files.root}. Correct {split}."
    )


def _ends(text: str) -> list[str]:
    """Ends of a path, longest first."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _listed(files: PictureFiles, relative: str) -> list[_Member]:
    path = _file(files.root, relative) or files.root / relative
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
    return [_Member(name, text) for name, (_, text) in members.items()]


def _tags(path: Path, names: dict[int, str], source: Path) -> tuple[str, ...]:
    tags: dict[str, None] = {}
    for line, text in numbered_lines(path):
        number = text.split()[0]
        if not re.fullmatch(r"[0-9]{1,9}(?:\.0*)?", number):
            raise DataError(f"{path} line {line}: must start with the number of a class, got {number[:40]!r}.")
        if (key := int(number.partition(".")[0])) not in names:
            raise DataError(
                f"{path} line {line}: there is no class {number}; {source} names {min(names)} to {max(names)}. "
                "Correct the number or add the name."
            )
        tags[names[key]] = None
    return tuple(tags)
