"""Exports in zip files: unpacked into a folder that goes when they have been read. Imports no torch."""

from __future__ import annotations

import errno
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.storage.suffixes import suffix_of
from tag2mask.data.storage.tables import safe_name

_READ = frozenset((".json", ".txt", ".yaml", ".yml", ".png", ".data", ".names", ".xml"))
"""Suffixes of what is unpacked: annotations, lists and masks."""


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The folder or file of an export; that of a zip file is there during the block only.

    Raises:
        MissingDataError: there is nothing.
        DataError: a zip file that is damaged, encrypted, has names that leave it, or is larger than the disk.
    """
    if not source.exists():
        raise MissingDataError(f"There is no {source}. Give the export of the annotation tool, a folder or a file.")
    if not source.is_file() or source.suffix.lower() != ".zip":
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="tag2mask-") as place:
        folder = Path(place) / source.stem
        folder.mkdir()
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, folder, source)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a place before the file's begin
                raise
            raise DataError(f"{source} cannot be read as a zip file: {error}. Export it again.") from error
        try:
            yield folder
        except ValueError as error:  # the folder has gone when somebody reads this
            error.args = tuple(str(each).replace(str(folder), str(source)) for each in error.args)
            raise


def _unpack(archive: zipfile.ZipFile, folder: Path, source: Path) -> None:
    members = [each for each in archive.infolist() if not each.is_dir() and suffix_of(each.filename) in _READ]
    free, needed = shutil.disk_usage(folder).free, sum(each.file_size for each in members)
    if needed > free:
        raise DataError(
            f"{source} would need {needed} bytes in {folder.parent.parent}, where {free} are free. Unpack it elsewhere "
            "and give the folder."
        )
    for member in members:
        name = safe_name(member.filename, f"{source} member")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind and not stat.S_ISREG(kind):
            raise DataError(f"{source}: {name} is a link or device. Pack the files themselves.")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as packed, path.open("wb") as file:
            shutil.copyfileobj(packed, file)
