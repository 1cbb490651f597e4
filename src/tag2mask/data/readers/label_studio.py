"""Label Studio exports: JSON, JSON-MIN and CSV with choices. Imports no torch."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.findings import Finding, about, listed, some
from tag2mask.data.readers.coco import head_of, json_files
from tag2mask.data.readers.left_out import Kinds, Unlabeled, counted, tags_or_shapes
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.readers.locating import address_paths
from tag2mask.data.storage.naming import file_splits
from tag2mask.data.storage.suffixes import is_picture
from tag2mask.data.storage.tables import read_json, read_text, shown, split_tags

_PICTURE_KEYS = ("image", "img", "picture", "photo", "url")
_CHOICE_KEYS = frozenset(("choice", "choices", "tag", "tags", "label", "labels", "class", "classes"))
OWN_KEYS = frozenset(
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

_HEAD, _PART, _LONGEST_SIGN = 1 << 12, 1 << 20, 32
"""Bytes that are looked at."""


class _Row(NamedTuple):
    """Annotations of one picture by one person, or all of them."""

    picture: str
    choices: tuple[tuple[str, str], ...]
    """Control and choice."""
    shapes: tuple[str, ...]
    where: str
    labeled: bool = True
    """False for a task that nobody annotated, or only skipped."""
    unread: tuple[str, ...] = ()
    """Results that are neither choices nor labels of regions, by their kind."""
    predicted: bool = False
    """Whether a task that is not `labeled` has predictions."""


def list_label_studio(root: Path, options: DataOptions) -> Listing:
    """Tags from the choices of a Label Studio export in the data folder.

    All choices of all annotators of a picture are its tags. Where there is none at all, or shapes are asked for, the
    labels of its regions are taken, and a finding says so. Tasks without annotation, or only with skipped ones, are
    left out, or negatives on request; predictions are not read; an annotation without choice is a negative. Addresses
    of pictures stand for files of that name in the data folder. The format declares no classes: they are the choices
    that occur, sorted, or classes.txt, which may leave some out.

    Raises:
        MissingDataError: no export.
        DataError: more than one kind of export, or one that cannot be read.
    """
    paths = label_studio_files(root)
    if not paths:
        raise MissingDataError(f"{root} has no Label Studio export. Put the JSON, JSON-MIN or CSV file there.")
    if len({path.suffix for path in paths}) > 1:
        raise DataError(f"{root} has {' and '.join(path.name for path in paths)} of Label Studio. Keep one.")
    source = paths[0] if len(paths) == 1 else paths[0].parent
    by_split: dict[str, dict[str, list[_Row]]] = {}
    fields: list[str] = []
    for path, split in file_splits(paths, root).items():
        rows, unread = (_csv_rows if path.suffix == ".csv" else _json_rows)(path, options.tag_separator)
        fields += unread
        found = by_split[split] = {}
        for row in rows:
            found.setdefault(row.picture, []).append(row)
    pictures = [_kinds(picture, each) for found in by_split.values() for picture, each in found.items()]
    use_shapes, findings = tags_or_shapes(pictures, source, options)
    splits = {
        split: [
            Entry(picture, _kinds(picture, rows).taken(use_shapes), rows[0].where, labeled=any(r.labeled for r in rows))
            for picture, rows in found.items()
        ]
        for split, found in by_split.items()
    }
    everything = [row for found in by_split.values() for each in found.values() for row in each]
    if not use_shapes:
        findings += _several_controls(everything, source)
    findings += _unread(everything, fields, source)
    predicted = sum(row.predicted for row in everything)
    told = f" ({predicted} of them with predictions, which are not read)" if predicted else ""
    how = Unlabeled(f"annotation{told}", "skip", usual=0.5)
    return Listing(source, splits, closed=True, findings=findings, unlabeled=how)


def label_studio_files(root: Path) -> list[Path]:
    """Exports in the data folder, by a look at their beginning."""
    found = [path for path in sorted(json_files(root)) if is_tasks(path)]
    return found + sorted(path for path in root.glob("*.csv") if _looks_like_csv(head_of(path, 4096)))


def is_tasks(path: Path, *, predicted: bool = False) -> bool:
    """Whether a JSON file holds tasks: a list, and a word of theirs, before which may come the bytes of a brush.

    Args:
        path: The file.
        predicted: Whether tasks that have predictions alone count.
    """
    if not _JSON_HEAD.match(head_of(path, _HEAD)):
        return False
    signs = [sign.encode() for sign in (*_JSON_SIGNS, *(['"predictions"'] if predicted else ()))]
    with path.open("rb") as file:
        before = b""
        while part := file.read(_PART):
            if any(sign in before + part for sign in signs):
                return True
            before = part[-_LONGEST_SIGN:]
    return False


def _looks_like_csv(head: str) -> bool:
    header = set(next(csv.reader(head.splitlines()), []))
    return bool(header & {"annotation_id", "lead_time", "choice", "choices"}) and "file_name" not in header


def _kinds(picture: str, rows: Sequence[_Row]) -> Kinds:
    choices = dict.fromkeys(choice for row in rows for _, choice in row.choices)
    return Kinds(picture, tuple(choices), tuple(dict.fromkeys(shape for row in rows for shape in row.shapes)))


def _several_controls(rows: Sequence[_Row], source: Path) -> tuple[Finding, ...]:
    """Findings on choices of more than one control, such as `animal` and `quality`: all are tags."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for control, choice in row.choices:
            counts[control][choice] += 1
    names = [f"{control}: {counted(choices)}" for control, choices in sorted(counts.items())]
    return about(
        names if len(names) > 1 else (),
        code="several_controls",
        message=f"{source}: the choices of {len(names)} controls are all taken as tags ({'; '.join(names)}).",
        cure="Write the choices that are classes into classes.txt, which leaves the others out.",
    )


def _unread(rows: Sequence[_Row], fields: Sequence[str], source: Path) -> tuple[Finding, ...]:
    """Findings on results that are neither choices nor labels, and of fields of text that may hold choices."""
    kinds = Counter(kind for row in rows for kind in set(row.unread))
    only = [row.picture for row in rows if row.unread and not row.choices and not row.shapes]
    told = [f"results of the kind {counted(kinds)}"] if kinds else []
    told += [f"the text of {listed(sorted(set(fields)))}"] if fields else []
    negatives = f"; {some(len(only), 'picture')} with nothing else: negative" if only else ""
    return about(
        only or [*kinds, *sorted(set(fields))],
        severity="warning" if only or (fields and not any(row.choices for row in rows)) else "note",
        code="unread",
        message=f"{source}: {' and '.join(told)} not read as tags{negatives}.",
        cure="Nothing, if that is no class; else export it as choices (in JSON, or as a field called choice).",
    )


def _json_rows(path: Path, separator: str) -> tuple[list[_Row], list[str]]:
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{path} must be a list of tasks. Export it as JSON or JSON-MIN.")
    if any("data" in task for task in tasks):
        return _full_rows(path, tasks)
    return _flat_rows(
        [(f"{path} task {task.get('id', index)}", task) for index, task in enumerate(tasks)], path, separator
    )


def _full_rows(path: Path, tasks: list[dict[str, Any]]) -> tuple[list[_Row], list[str]]:
    """Rows of the JSON export, in which each task has its data and its annotations, and fields of further pictures."""
    rows, others = [], dict[str, None]()
    for index, task in enumerate(tasks):
        where = f"{path} task {task.get('id', index)}"
        data, annotations = task.get("data"), task.get("annotations", task.get("completions", []))
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise DataError(f"{where}: needs data and a list of annotations. Export it as JSON or JSON-MIN.")
        key = picture_key(data, where)
        picture = data[key]
        others |= dict.fromkeys(other for other, text in data.items() if other != key and _names_picture(text))
        done = [each for each in annotations if is_done(each)]
        if not done:
            rows.append(_Row(picture, (), (), where, labeled=False, predicted=bool(task.get("predictions"))))
        for annotation in done:
            results = annotation.get("result", [])
            if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
                raise DataError(f"{where}: result must be a list of objects. Export it as JSON or JSON-MIN.")
            rows.append(_row(picture, [(str(e.get("from_name", "")), e.get("value"), e) for e in results], where))
    return rows, list(others)


def is_done(annotation: Any) -> bool:
    """Whether somebody has made an annotation, and not skipped the task."""
    return isinstance(annotation, dict) and not (annotation.get("was_cancelled") or annotation.get("skipped"))


def _row(picture: str, results: Iterable[tuple[str, Any, Mapping[str, Any]]], where: str) -> _Row:
    """A row of results: control, value and what else is known of each."""
    choices: list[tuple[str, str]] = []
    shapes: list[str] = []
    unread = []
    for control, value, result in results:
        chosen, labels = _labels(value, where)
        choices += [(control, choice) for choice in chosen]
        shapes += labels
        if not chosen and not labels and isinstance(value, (Mapping, list)) and value:
            unread.append(str(result.get("type", control)))
    return _Row(picture, tuple(choices), tuple(shapes), where, unread=tuple(unread))


def _csv_rows(path: Path, separator: str) -> tuple[list[_Row], list[str]]:
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


def _flat_rows(tasks: list[tuple[str, dict[str, Any]]], path: Path, separator: str) -> tuple[list[_Row], list[str]]:
    """Rows of JSON-MIN and CSV, and the fields of text that are taken for data.

    The data, the results by control and Label Studio's own fields lie together there.
    """
    texts: set[str] = set()
    structured: set[str] = set()
    labeled: set[str] = set()
    for where, task in tasks:
        key_of_picture = picture_key(task, where)
        for key, value in task.items():
            if key in OWN_KEYS or key == key_of_picture:
                continue
            if isinstance(value, str):
                texts.add(key)
            elif isinstance(value, (Mapping, list)):
                structured.add(key)
                labeled |= {key} if any(_labels(value, where)) else set()
    keys = labeled | {key for key in texts if key.lower() in _CHOICE_KEYS} or (texts if len(texts) == 1 else set())
    if not keys and texts:
        raise DataError(
            f"{path}: which of {', '.join(sorted(texts))} holds the choices? Export as JSON, or call that field choice."
        )
    says = any(task.get("annotation_id") for _, task in tasks)
    rows = []
    for where, task in tasks:
        results: list[tuple[str, Any, Mapping[str, Any]]] = []
        for key in sorted(keys | structured):
            value = task.get(key)
            if isinstance(value, str):
                value = {"choices": list(split_tags(value, separator))} if key in keys else None
            results.append((key, value, {}))
        row = _row(task[picture_key(task, where)], results, where)
        empty = not row.choices and not row.shapes and not row.unread
        rows.append(row._replace(labeled=not (empty and says and not task.get("annotation_id"))))
    return rows, sorted(texts - keys)


def _labels(value: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(choices, labels of regions) of a result."""
    if isinstance(value, list):
        both = [_labels(each, where) for each in value if isinstance(each, Mapping)]
        return tuple(e for found, _ in both for e in found), tuple(e for _, found in both for e in found)
    if not isinstance(value, Mapping):
        return (), ()
    shapes = [_texts(labels, where) for key, labels in value.items() if key.endswith("labels")]
    return _texts(value.get("choices", []), where), tuple(label for labels in shapes for label in labels)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise DataError(f"{where}: choices must be a list of class names, got {shown(value)}.")
    return tuple(each.strip() for each in values if each.strip())


def _names_picture(value: Any) -> bool:
    return isinstance(value, str) and any(map(is_picture, address_paths(value)))


def picture_key(data: Mapping[str, Any], where: str) -> str:
    """The field that holds the picture: called image or so, or the first that looks like one."""
    texts = [key for key, value in data.items() if isinstance(value, str) and value and key not in OWN_KEYS]
    usual = [key for key in _PICTURE_KEYS if key in texts]
    looking = [key for key in texts if _names_picture(data[key])]
    for key in (*usual, *looking):
        return key
    raise DataError(f"{where}: no field holds a picture; fields: {', '.join(data)}. Export with its picture.")
