"""Text files of a data set: tags.csv, classes.txt and split lists. Imports no torch."""

from __future__ import annotations

import ast
import csv
import difflib
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import ParseError

from tag2mask.base.spelling import class_name, class_names, is_background, nfc
from tag2mask.data.dataset import DataError, MissingDataError

MAX_CLASSES = 254
"""Labels 1..254; 0 is the background and 255 is ignored."""
MAX_NAME, MAX_PATH = 255, 4000
"""Most characters of a file's name and of its path: what file systems take."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, line breaks and halves of characters: no text file and no page can hold them."""
_PLAIN_NAME = re.compile(r"\w[\w .()+-]*(?:/\w[\w .()+-]*)*")
"""A relative path without anything that needs a closer look; pathlib is slow for a hundred thousand of them."""
_ON_OFF = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "": False}


@dataclass(frozen=True)
class TagRow:
    """One row of tags.csv."""

    line: int
    with_background: tuple[str, ...]
    """Its tags, `background` perhaps among them, which is no class."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that are classes."""
        return without_background(self.with_background)


@dataclass(frozen=True)
class TagTable:
    """tags.csv, by picture."""

    path: Path
    rows: dict[str, TagRow]
    columns: tuple[str, ...]
    """Class columns of a 0/1 table; empty for a `file_name,tags` table."""
    ignored: tuple[str, ...] = ()
    """Columns beside `file_name` and `tags`, which are not used."""


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, without byte order mark.

    Raises:
        MissingDataError: there is no such file.
        DataError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingDataError(f"There is no file {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        MissingDataError: there is no such file.
        DataError: not UTF-8, or not JSON; the message names the line.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno}: not valid JSON ({error.msg}). Export or download it again."
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply for annotations. Export or download it again.") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: not valid JSON ({error}). Export or download it again.") from error


@contextmanager
def named_xml_errors(path: Path, cure: str, encoding_cure: str) -> Iterator[None]:
    """A block that reads an XML file, whose errors name file, line and cure.

    Raises:
        DataError: not XML, or in an encoding that nobody knows.
    """
    try:
        yield
    except DataError:
        raise
    except ParseError as error:
        raise DataError(f"{path} line {error.position[0]}: not valid XML ({error}). {cure}") from error
    except (LookupError, ValueError) as error:
        raise DataError(f"{path}: not valid XML ({error}). {encoding_cure}") from error


def shown(value: object) -> str:
    """A value as messages show it, however long or deeply nested it is."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 2, 4, 4, 200, 80


@lru_cache(maxsize=4096)
def split_tags(text: str, separator: str = ";") -> tuple[str, ...]:
    """Tags of a cell, each once: with `separator` between them, or a list as JSON or Python writes it."""
    listed = _quoted_list(text.strip())
    return class_names(text.split(_TYPED.get(separator, separator)) if listed is None else listed)


def _quoted_list(text: str) -> list[str] | None:
    if not _LIST.fullmatch(text):
        return None
    try:
        return list(json.loads(text))
    except ValueError:
        try:
            return list(ast.literal_eval(text))
        except (ValueError, SyntaxError):  # an escape that Python does not know
            return None


_TEXT = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LIST = re.compile(rf"\[\s*(?:{_TEXT}\s*(?:,\s*{_TEXT}\s*)*,?\s*)?\]|\(\s*(?:{_TEXT}\s*,\s*)+(?:{_TEXT}\s*)?\)")
"""A list of quoted texts, as spreadsheets keep what a program wrote; two texts without a comma between are none."""
_TYPED = {r"\t": "\t", r"\n": "\n"}
"""What shells hand on of a tab and a line break."""


def safe_name(value: object, where: str) -> str:
    """A picture's name with forward slashes, composed (`spelling.nfc`), certain to stay inside the picture folder.

    Raises:
        DataError: not a string, empty, absolute, with `..` in it, or nothing that a file can be called.
    """
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: file_name must be the name of a picture, got {shown(value)}")
    value = nfc(value.strip())
    if not is_path(value):
        raise DataError(
            f"{where}: file_name {shown(value)} is no name of a file: at most {MAX_NAME} characters between "
            "slashes, and no control character. Correct it or remove the row."
        )
    if _PLAIN_NAME.fullmatch(value):
        return value
    name = PurePosixPath(value)
    windows = PureWindowsPath(value)
    if name.is_absolute() or windows.drive or windows.root or ".." in name.parts or ".." in windows.parts:
        raise DataError(
            f"{where}: file_name {value!r} leaves the picture folder. Give the path relative to it, without '..'."
        )
    return name.as_posix()


def is_path(text: str) -> bool:
    """Whether a file system can hold a file of this path; to ask for another one is an error of its own kind."""
    return len(text) <= MAX_PATH and max(map(len, text.split("/"))) <= MAX_NAME and not _UNPRINTABLE.search(text)


def read_classes(path: Path, *, numbered: bool = False) -> tuple[str, ...]:
    """Class names of classes.txt, one per line, in the order of their labels 1, 2, ...

    Args:
        path: The file.
        numbered: Whether label files name classes by their line, number 0 first; then `background` may be among them.

    Raises:
        DataError: no name, a name twice, `background` (it is label 0 and not listed), or more than 254.
    """
    classes: dict[str, int] = {}
    for line, text in numbered_lines(path):
        name = class_name(text)
        if name in classes:
            raise DataError(f"{path} line {line}: class {name!r} is already on line {classes[name]}. Remove one.")
        if is_background(name) and not numbered:
            raise DataError(
                f"{path} line {line}: {name} is label 0 and is not listed. Remove the line"
                + (
                    "; the classes after it then have the labels 1, 2, ..., as in masks whose 0 is the background."
                    if not classes
                    else f". The labels of the classes after it become one less: masks that hold {len(classes) + 1} "
                    "where they show nothing must be redrawn."
                )
            )
        classes[name] = line
    if not classes:
        raise DataError(f"{path} names no class. Write one class name per line, or delete the file.")
    return checked_classes(tuple(classes), path)


def checked_classes(classes: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """`classes`, if a uint8 mask can hold them, and a text file their names."""
    for name in classes:
        if not is_class_name(name):
            raise DataError(
                f"{path}: the class {shown(name)} has a line break or another control character, or more than "
                f"{MAX_NAME} characters. Rename it; if it is several tags, say what stands between them, as in "
                r"--tag-separator '\t' (a tab) or '\n' (a line break)."
            )
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path} names {len(classes)} classes; a mask holds at most {MAX_CLASSES}.")
    return classes


def is_class_name(name: object) -> bool:
    """Whether `name` is text that lists, pages and the metadata of a model can hold."""
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and not _UNPRINTABLE.search(name)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines of a text file, stripped, with their 1-based numbers."""
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_tag_table(path: Path, key: Callable[[str], str | None] = lambda name: name, separator: str = ";") -> TagTable:
    """tags.csv: `file_name,tags` with `;` between tags, or `file_name` and one 0/1 column per class.

    Args:
        path: The file; UTF-8 with or without byte order mark, any line ending, quoted as csv.
        key: Gives the key under which a picture's row is stored, or None to ignore the row.
        separator: What stands between two tags of a cell.

    Raises:
        MissingDataError: there is no such file.
        DataError: header missing, row too long or short, a name twice or outside the folder, a cell that is not 0/1.
    """
    reader = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    rows: dict[str, TagRow] = {}
    try:
        header = [class_name(cell) for cell in next(reader, [])]
        columns = _columns(path, header)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path} line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(
                    f"{where}: {len(cells)} cells, but the header has {len(header)}. Separate tags by ';' (or put "
                    "quotes around them and say --tag-separator) and keep the comma before an empty tag cell."
                )
            cell_of = dict(zip(header, cells, strict=True))
            name = key(safe_name(cell_of["file_name"], where))
            if name is None:
                continue
            if name in rows:
                raise DataError(f"{where}: {name!r} is already on line {rows[name].line}. Keep one row per picture.")
            rows[name] = TagRow(reader.line_num, _row_tags(where, cell_of, columns, separator))
    except csv.Error as error:
        cure = _header_cure(read_text(path).splitlines()[:1])
        raise DataError(f"{path} line {reader.line_num}: not valid csv ({error}). Correct the quotes.{cure}") from error
    ignored = () if columns else tuple(cell for cell in header if cell not in ("file_name", "tags"))
    return TagTable(path, rows, tuple(column for column in columns if not is_background(column)), ignored)


@lru_cache(maxsize=4096)
def without_background(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags that are classes: `background` is none."""
    return tuple(tag for tag in tags if not is_background(tag))


def _columns(path: Path, header: list[str]) -> tuple[str, ...]:
    """Class columns of the header; none for a `file_name,tags` table."""
    if "file_name" not in header:
        raise DataError(
            f"{path} line 1: the header must be 'file_name,tags', or 'file_name' and one column per class, "
            f"separated by commas; got {','.join(header)!r}.{_header_cure(header)}"
        )
    columns = tuple(cell for cell in header if cell != "file_name")
    if len(set(header)) != len(header) or not all(columns) or not columns:
        raise DataError(
            f"{path} line 1: after 'file_name' the header needs 'tags' or the class names, each once and none empty; "
            f"got {','.join(header)!r}."
        )
    return () if "tags" in columns else columns


def _header_cure(header: list[str]) -> str:
    text = ",".join(header)
    if text.lower().startswith("sep="):
        return " Remove this line, which is for Excel alone, and save the table with commas."
    if any("file_name" in (cell.strip(' "') for cell in text.split(mark)[:-1]) for mark in (";", "\t", "|")):
        return " Save it as csv with commas between columns (Excel: CSV UTF-8, comma delimited)."
    return ""


def _row_tags(where: str, cell_of: dict[str, str], columns: tuple[str, ...], separator: str) -> tuple[str, ...]:
    if not columns:
        return split_tags(cell_of["tags"], separator)
    for column in columns:
        if cell_of[column].strip().lower() not in _ON_OFF:
            raise DataError(
                f"{where}: column {column!r} must hold 0 or 1, got {cell_of[column]!r}. A column of "
                "tags is called 'tags'; remove columns that are no class."
            )
    return tuple(column for column in columns if _ON_OFF[cell_of[column].strip().lower()])


def near_word(word: str, known: Sequence[str]) -> str | None:
    """The word of `known` that is spelt most like `word`; None where none is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def class_indices(tags: Iterable[str], classes: Sequence[str], where: str, cure: str) -> tuple[int, ...]:
    """Ascending indices of `tags` in `classes`.

    Raises:
        DataError: a tag that is no class; the message names `where`, the likely spelling, and `cure`.
    """
    indices = set()
    for tag in tags:
        if tag not in classes:
            near = near_word(tag, classes)
            hint = f" Did you mean {near!r}?" if near else ""
            raise DataError(f"{where}: unknown class {tag!r}; the classes are {', '.join(classes)}.{hint} {cure}")
        indices.add(classes.index(tag))
    return tuple(sorted(indices))
