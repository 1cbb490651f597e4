"""Label Studio exports: JSON, JSON-MIN and CSV with choices. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tag2mask.data.coco import head_of, json_files
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.listing import Entry, Listing, choices_or_shapes
from tag2mask.data.locating import address_path
from tag2mask.data.naming import file_splits
from tag2mask.data.suffixes import PICTURE_SUFFIXES
from tag2mask.data.tables import read_json, read_text, shown, split_tags
from tag2mask.formats import DataOptions

_PICTURE_KEYS = ("image", "img", "picture", "photo", "url")
_CHOICE_KEYS = frozenset(("choice", "choices", "tag", "tags", "label", "labels", "class", "classes"))
_OWN_KEYS = frozenset(
    (
        "id", "inner_id", "project", "annotation_id", "annotator", "created_at", "updated_at", "updated_by",
        "lead_time", "agreement", "file_upload", "meta", "predictions", "drafts", "total_annotations",
        "cancelled_annotations", "total_predictions", "comment_count", "unresolved_comment_count",
        "last_comment_updated_at", "comment_authors",
    )
)  # fmt: skip
"""What Label Studio itself writes beside the data and the results."""
_JSON_HEAD = re.compile(r"\s*\[\s*\{")
_JSON_SIGNS = ('"annotations"', '"completions"', '"annotation_id"', '"lead_time"', '"choice"', '"choices"')
_log = logging.getLogger(__name__)


class _Row(NamedTuple):
    """Annotations of one picture by one person, or all of them."""

    picture: str
    choices: tuple[str, ...]
    shapes: tuple[str, ...]
    where: str


def list_label_studio(root: Path, options: DataOptions) -> Listing:
    """Tags from the choices of a Label Studio export in the data folder.

    All choices of all annotators of a picture are its tags. Where the file has none at all, the labels of its regions
    are taken, and a log line says so. Tasks without annotation, or only with skipped ones, are left out; an annotation
    without choice is a negative. Addresses of pictures stand for files of that name in the data folder. The format
    declares no classes: they are the choices that occur, sorted, or classes.txt, which may leave some out.

    Raises:
        MissingDataError: no export.
        DataError: more than one kind of export, or one that cannot be read.
    """
    paths = label_studio_files(root)
    if not paths:
        raise MissingDataError(f"{root} has no Label Studio export. Put the JSON, JSON-MIN or CSV file there.")
    if len({path.suffix for path in paths}) > 1:
        raise DataError(f"{root} has {' and '.join(path.name for path in paths)} of Label Studio. Keep one.")
    splits = {}
    for path, split in file_splits(paths, root).items():
        read = _csv_rows if path.suffix == ".csv" else _json_rows
        rows = read(path, options.tag_separator)
        splits[split] = _entries(rows, path)
    return Listing("label-studio", paths[0] if len(paths) == 1 else paths[0].parent, splits, None, closed=True)


def label_studio_files(root: Path) -> list[Path]:
    """Exports in the data folder, by a look at their beginning."""
    found = [path for path in json_files(root) if _looks_like_tasks(head_of(path))]
    return sorted(found) + sorted(path for path in root.glob("*.csv") if _looks_like_csv(head_of(path, 4096)))


def _looks_like_tasks(head: str) -> bool:
    return bool(_JSON_HEAD.match(head)) and any(sign in head for sign in _JSON_SIGNS)


def _looks_like_csv(head: str) -> bool:
    header = set(next(csv.reader(head.splitlines()), []))
    return bool(header & {"annotation_id", "lead_time", "choice", "choices"}) and "file_name" not in header


def _entries(rows: Iterable[_Row], path: Path) -> list[Entry]:
    """One entry per picture."""
    by_picture: dict[str, list[_Row]] = {}
    for row in rows:
        by_picture.setdefault(row.picture, []).append(row)
    everything = [row for rows in by_picture.values() for row in rows]
    use_shapes = choices_or_shapes((row.choices for row in everything), (row.shapes for row in everything), path)
    return [
        Entry(
            picture,
            tuple(dict.fromkeys(tag for row in rows for tag in (row.shapes if use_shapes else row.choices))),
            rows[0].where,
        )
        for picture, rows in by_picture.items()
    ]


def _json_rows(path: Path, separator: str) -> list[_Row]:
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{path} must be a list of tasks. Export it as JSON or JSON-MIN.")
    if any("data" in task for task in tasks):
        return _full_rows(path, tasks)
    return _flat_rows(
        [(f"{path} task {task.get('id', index)}", task) for index, task in enumerate(tasks)], path, separator
    )


def _full_rows(path: Path, tasks: list[dict[str, Any]]) -> list[_Row]:
    """Rows of the JSON export, in which each task has its data and its annotations."""
    rows, left_out = [], 0
    for index, task in enumerate(tasks):
        where = f"{path} task {task.get('id', index)}"
        data, annotations = task.get("data"), task.get("annotations", task.get("completions", []))
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise DataError(f"{where}: needs data and a list of annotations. Export it as JSON or JSON-MIN.")
        picture = data[_picture_key(data, where)]
        done = [each for each in annotations if isinstance(each, dict) and not each.get("was_cancelled")]
        left_out += not done
        for annotation in done:
            results = annotation.get("result", [])
            if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
                raise DataError(f"{where}: result must be a list of objects. Export it as JSON or JSON-MIN.")
            labels = [_labels(each.get("value"), where) for each in results]
            rows.append(_Row(picture, *_joined(labels), where))
    if left_out:
        _log.info("%s: %d of %d tasks have no annotation and are left out.", path, left_out, len(tasks))
    return rows


def _csv_rows(path: Path, separator: str) -> list[_Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = [
            (f"{path} line {reader.line_num}", {key: _cell(value) for key, value in row.items() if key})
            for row in reader
        ]
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.reader.line_num}: not valid csv ({error}). Correct the quotes."
        ) from error
    return _flat_rows(rows, path, separator)


def _cell(text: str | None) -> Any:
    """A cell, decoded where Label Studio wrote JSON into it."""
    if text and text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text or None


def _flat_rows(tasks: list[tuple[str, dict[str, Any]]], path: Path, separator: str) -> list[_Row]:
    """Rows of JSON-MIN and CSV, where the data, the results by control and Label Studio's own fields lie together."""
    texts: set[str] = set()
    structured: set[str] = set()
    for where, task in tasks:
        picture_key = _picture_key(task, where)
        for key, value in task.items():
            if key in _OWN_KEYS or key == picture_key:
                continue
            if isinstance(value, str):
                texts.add(key)
            elif any(_labels(value, where)):
                structured.add(key)
    keys = structured | {key for key in texts if key.lower() in _CHOICE_KEYS} or (texts if len(texts) == 1 else set())
    if not keys and texts:
        raise DataError(
            f"{path}: which of {', '.join(sorted(texts))} holds the choices? Export as JSON, or call that field choice."
        )
    rows = []
    for where, task in tasks:
        labels = [
            (split_tags(value, separator), ()) if isinstance(value, str) else _labels(value, where)
            for value in (task.get(key) for key in sorted(keys))
        ]
        rows.append(_Row(task[_picture_key(task, where)], *_joined(labels), where))
    return rows


def _labels(value: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(choices, labels of regions) of a result."""
    if isinstance(value, list):
        return _joined([_labels(each, where) for each in value if isinstance(each, Mapping)])
    if not isinstance(value, Mapping):
        return (), ()
    shapes = [_texts(labels, where) for key, labels in value.items() if key.endswith("labels")]
    return _texts(value.get("choices", []), where), tuple(label for labels in shapes for label in labels)


def _joined(labels: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    choices = tuple(label for found, _ in labels for label in found)
    return choices, tuple(label for _, found in labels for label in found)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise DataError(f"{where}: choices must be a list of class names, got {shown(value)}.")
    return tuple(each.strip() for each in values if each.strip())


def _picture_key(data: Mapping[str, Any], where: str) -> str:
    """The field that holds the picture: called image or so, or the first that looks like one."""
    texts = [key for key, value in data.items() if isinstance(value, str) and value and key not in _OWN_KEYS]
    usual = [key for key in _PICTURE_KEYS if key in texts]
    looking = [key for key in texts if PurePosixPath(address_path(data[key])).suffix.lower() in PICTURE_SUFFIXES]
    for key in (*usual, *looking):
        return key
    raise DataError(f"{where}: no field holds a picture; fields: {', '.join(data)}. Export with its picture.")
