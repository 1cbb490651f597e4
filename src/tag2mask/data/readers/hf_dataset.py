"""A Hugging Face data set on disk, as `datasets` saves it (`save_to_disk`). Imports no torch, and `datasets` on use."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.readers.left_out import Unlabeled, is_skipped
from tag2mask.data.readers.listing import Entry, Listing
from tag2mask.data.readers.metadata import as_tags
from tag2mask.data.storage.hf_rows import datasets_library, open_rows
from tag2mask.data.storage.naming import NO_SPLIT, known_split
from tag2mask.data.storage.tables import read_json, safe_name

_TAG_COLUMNS = ("tags", "labels", "label")
_UNLABELED = Unlabeled("tags (None or -1)", "skip")
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}


def list_hf_dataset(root: Path, options: DataOptions) -> Listing:
    """Tags from a data set or a dictionary of them (its keys are the splits), as `datasets` saved it.

    Pictures are the column `image`, or the first of type Image; they stay where they are and are read when they are
    used (`stored_bytes`). Tags are the column `tags`, `labels` or `label`: ClassLabel, text (with `;`), or a list of
    either; None or -1 is a picture without known tags, which is left out, or a negative on request. Classes are the
    names of the ClassLabel.

    Raises:
        MissingDataError: no such data set.
        DataError: `datasets` is not installed, or the columns are others.
    """
    folders = _split_folders(root)
    classes: dict[str, None] = {}
    splits: dict[str, list[Entry]] = {}
    for split, folder in folders.items():
        data = open_rows(folder)
        image, column = _columns(data, folder)
        feature = data.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        classes.update(dict.fromkeys(names or ()))
        tags = _row_tags(data, column, names, folder, options.tag_separator)
        files = _file_names(data, image, folder)
        splits[split] = [
            Entry(
                name,
                known or (),
                f"{folder} row {row}",
                stored=folder / "state.json" / image / str(row) / name,
                labeled=known is not None,
            )
            for row, (name, known) in enumerate(zip(files, tags, strict=True))
        ]
    kept = [entry for each in splits.values() for entry in each if entry.labeled or not is_skipped(_UNLABELED, options)]
    names_used = [entry.reference for entry in kept]
    if len(set(names_used)) < len(names_used):
        splits = {
            split: [
                entry._replace(reference="/".join(filter(None, (split, f"{row:06d}-{entry.reference}"))))
                for row, entry in enumerate(entries)
            ]
            for split, entries in splits.items()
        }
    return Listing(root, splits, tuple(classes) or None, closed=bool(classes), unlabeled=_UNLABELED)


def is_hf_dataset(root: Path) -> bool:
    """Whether `datasets` has saved a data set or a dictionary of them at `root`."""
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


def _split_folders(root: Path) -> dict[str, Path]:
    if (root / "dataset_dict.json").is_file():
        data = read_json(root / "dataset_dict.json")
        names = data.get("splits") if isinstance(data, dict) else None
        if not isinstance(names, list) or not names:
            raise DataError(f"{root / 'dataset_dict.json'} must name splits. Save the data set again.")
        safe = [safe_name(name, str(root / "dataset_dict.json")) for name in names]
        return {known_split(name) or name: root / name for name in safe}
    if not is_hf_dataset(root):
        raise MissingDataError(
            f"{root} has no dataset_dict.json or state.json. Save it with dataset.save_to_disk(PATH)."
        )
    return {NO_SPLIT: root}


def _columns(data: Any, folder: Path) -> tuple[str, str]:
    """Names of the columns of pictures and of tags."""
    library = datasets_library()
    images = [name for name, feature in data.features.items() if isinstance(feature, library.Image)]
    tags = [name for name in _TAG_COLUMNS if name in data.features]
    if not images or not tags:
        raise DataError(
            f"{folder} needs a column of type Image and one called tags, labels or label; "
            f"columns: {', '.join(data.features)}. Rename or cast them (rename_column, cast_column)."
        )
    return "image" if "image" in images else images[0], tags[0]


def _row_tags(
    data: Any, column: str, names: list[str] | None, folder: Path, separator: str
) -> list[tuple[str, ...] | None]:
    values = data.select_columns([column])[:][column]
    if names is None:
        return [
            None if value is None else as_tags(value, f"{folder} row {row}", separator)
            for row, value in enumerate(values)
        ]
    found: list[tuple[str, ...] | None] = []
    for value in values:
        numbers = value if isinstance(value, list) else [value]
        unknown = value is None or any(number is None or number < 0 for number in numbers)
        found.append(None if unknown else tuple(dict.fromkeys(names[number] for number in numbers)))
    return found


def _file_names(data: Any, image: str, folder: Path) -> list[str]:
    """Names of the pictures: of the files that they came from, else their row; no more than two bytes of each are read.

    The column is a struct of `bytes` and `path`; to look at `path` alone, the Arrow table is asked.
    """
    names: list[str] = []
    chunks = data.data.column(image).chunks
    if data._indices is not None:
        chunks = [data.flatten_indices().data.column(image).combine_chunks()]
    for chunk in chunks:
        paths, contents = chunk.field("path").to_pylist(), chunk.field("bytes")
        for index, path in enumerate(paths):
            if not contents[index].is_valid:
                raise DataError(
                    f"{folder} row {len(names)}: the picture is not in the data set. Save it again with save_to_disk, "
                    "which stores the pictures."
                )
            name = PurePosixPath(str(path or "").replace("\\", "/")).name
            if not name:
                start = bytes(memoryview(contents[index].as_buffer())[:2])
                name = f"{len(names):06d}{_SUFFIXES.get(start, '.png')}"
            names.append(name)
    return names
