"""Pictures that are rows of a Hugging Face data set on disk. Imports no torch, and `datasets` on use."""

from __future__ import annotations

import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.storage.tables import read_json, safe_name


def stored_bytes(path: Path) -> bytes:
    """The encoded picture at FOLDER/state.json/COLUMN/ROW/NAME, a path that `list_hf_dataset` made."""
    folder, column, row = path.parents[3], path.parts[-3], int(path.parts[-2])
    return bytes(open_rows(folder, column)[row][column]["bytes"])


def datasets_library() -> Any:
    """The package `datasets`."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(
            "Hugging Face data sets on disk are read with the package datasets, which is not installed: "
            'pip install "tag2mask[hf]"'
        ) from error


def open_rows(folder: Path, column: str = "") -> Any:
    """The rows of a data set on disk; with `column` that column of encoded pictures alone."""
    try:
        stamp = (folder / "state.json").stat().st_mtime_ns  # changes when the data set is saved again
    except FileNotFoundError as error:
        raise MissingDataError(f"There is no {folder / 'state.json'}. Save the data set again.") from error
    return _rows(folder, column, stamp)


@lru_cache(maxsize=16)
def _rows(folder: Path, column: str, stamp: int) -> Any:
    library = datasets_library()
    if column:
        return _rows(folder, "", stamp).select_columns([column]).cast_column(column, library.Image(decode=False))
    state = read_json(folder / "state.json")
    files = state.get("_data_files") if isinstance(state, dict) else None
    for each in files if isinstance(files, list) else ():
        if isinstance(each, dict):
            safe_name(each.get("filename"), str(folder / "state.json"))
    try:
        return library.load_from_disk(str(folder))
    except Exception as error:  # the library raises nearly anything on damaged files
        raise DataError(f"{folder} cannot be read as a Hugging Face data set: {error}. Save it again.") from error
