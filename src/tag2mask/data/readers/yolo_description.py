"""What describes a YOLO data set: data.yaml, YOLO 1.1's obj.data, or classes.txt alone. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tag2mask.base.spelling import existing
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.storage.tables import read_classes, read_text, shown

_SPLITS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
"""Keys of data.yaml, and those of YOLO 1.1 for the same."""


class _AsWritten(yaml.SafeLoader):
    """Takes `no`, `1.0` and dates for text."""


_AsWritten.yaml_implicit_resolvers = {}


class Description(NamedTuple):
    """Classes and splits of a YOLO data set."""

    source: Path
    """The file that names the classes."""
    names: dict[int, str]
    places: dict[str, list[str]]
    """Folders and lists of pictures by split, as they are written."""
    base: str = ""
    """`path` of data.yaml."""
    beside: bool = False
    """Whether label files lie beside the pictures, as in YOLO 1.1."""


def description(root: Path) -> Description:
    """The description in a data folder.

    Raises:
        MissingDataError: there is none, or its file of names is not there.
        DataError: several, or one that cannot be read.
    """
    path, darknet = _yaml_file(root), _darknet_file(root)
    if path is not None and darknet is not None:
        raise DataError(f"{root} has {path.name} and {darknet.name} of YOLO. Keep one.")
    if path is not None:
        return _yaml_description(path)
    if darknet is not None:
        return _darknet_description(root, darknet)
    source = root / "classes.txt"
    if not source.is_file():
        raise MissingDataError(f"{root} has neither data.yaml with names nor classes.txt. Write the class names there.")
    return Description(source, dict(enumerate(read_classes(source, numbered=True))), {})


def is_yolo(root: Path) -> bool:
    """Whether a data folder has a description or label files of YOLO; classes.txt says nothing of the format."""
    if _yaml_file(root) is not None or _darknet_file(root) is not None:
        return True
    folders = (root / "labels", *root.glob("*/labels"))
    patterns = [f"{folder}*.{suffix}" for folder in ("", "*/") for suffix in ("txt", "TXT")]
    return any(True for folder in folders for pattern in patterns for _ in folder.glob(pattern))


def _yaml_file(root: Path) -> Path | None:
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


def _yaml_description(path: Path) -> Description:
    """names, train, val, test and path of data.yaml, as they are written: `no` and `1.0` are names as good as any."""
    try:
        loader = _AsWritten(read_text(path))
        node: Any = loader.get_single_node()  # it shows a key that is there twice, which its value would not
        if node is not None:
            loader.construct_document(node)  # refuses what is no plain data
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid YAML ({' '.join(str(error).split())}). Correct it.") from error
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
    by_number: dict[int, str] = {}
    for number, name in texts:
        if by_number.setdefault(int(number), name) != name:
            raise DataError(
                f"{path}: {int(number)} is {by_number[int(number)]!r} and {name!r}. Give each name a number of its own."
            )
    places = {key: _plain_texts(nodes.get(key)) for key in _SPLITS}
    return Description(path, dict(sorted(by_number.items())), places, base="".join(_plain_texts(nodes.get("path"))[:1]))


def _plain_texts(node: Any) -> list[str]:
    """Texts of a YAML value or list of them, without empty ones."""
    each = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [
        one.value for one in each if isinstance(one, yaml.ScalarNode) and one.value.strip() not in ("", "null", "~")
    ]


def _darknet_file(root: Path) -> Path | None:
    """obj.data of YOLO 1.1 (any *.data that says `names = ...`), or its obj.names beside obj_train_data/."""
    for path in sorted(root.glob("*.data")):
        if path.is_file() and any(line.partition("=")[0].strip() == "names" for line in _lines(path)):
            return path
    return next(iter(sorted(root.glob("*.names"))), None) if any(root.glob("obj_*_data")) else None


def _darknet_description(root: Path, path: Path) -> Description:
    settings = {}
    if path.suffix == ".data":
        pairs = (line.partition("=") for line in read_text(path).splitlines() if not line.lstrip().startswith("#"))
        settings = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
    wanted = settings.get("names", path.name)
    source = next(filter(None, (file_below(root, end) for end in path_ends(wanted))), None)
    if source is None:
        raise MissingDataError(f"{path}: there is no file {wanted!r} of names below {root}. Put it beside {path.name}.")
    names = {number: text.strip() for number, text in enumerate(read_text(source).splitlines()) if text.strip()}
    if not names:
        raise DataError(f"{source} names no class. Write one class name per line, number 0 first.")
    places = {split: [settings[key]] for split, keys in _SPLITS.items() for key in keys if key in settings}
    return Description(source, names, places, beside=True)


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path).splitlines()
    except DataError:
        return []


def path_ends(text: str) -> list[str]:
    """Ends of a path, longest first."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def file_below(root: Path, name: str) -> Path | None:
    """The file `name` below a folder, where there is one."""
    path = existing(root, name)
    return path if path is not None and path.is_file() else None
