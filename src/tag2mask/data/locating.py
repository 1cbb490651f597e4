"""Which file of the data folder an annotation means. Nothing outside the folder is read. Imports no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.links import leaves, walk
from tag2mask.data.spelling import existing, nfc
from tag2mask.data.suffixes import is_picture
from tag2mask.data.tables import is_path, safe_name, shown

_ADDRESS = re.compile(r"^(?:[a-z][a-z0-9+.-]*://|/data/(?:upload|local-files)/)", re.IGNORECASE)
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Label Studio puts this before the name of an uploaded file."""


@dataclass(frozen=True)
class PictureFiles:
    """Every picture file below a folder."""

    root: Path
    names: tuple[str, ...]
    """Paths relative to `root`, with forward slashes, composed (`spelling.nfc`), sorted."""
    known: frozenset[str]
    """The same, to look one up."""
    by_base: dict[str, list[str]]
    """The same by file name."""
    links_out: tuple[str, ...]
    """Links to files or folders outside `root`; they are not followed."""
    others: tuple[str, ...] = ()
    """Files that are no pictures by their suffix, as `names`."""
    on_disk: Mapping[str, str] = field(default_factory=dict)
    """Those of `names` that the disk has in another form, in that form."""

    def path(self, name: str) -> Path:
        """The file of one of `names`."""
        return self.root / self.on_disk.get(name, name)


def find_picture_files(root: Path, *, skip: Collection[str] = ("masks",)) -> PictureFiles:
    """The picture files below `root`, by suffix; no file is opened.

    Hidden files and folders, and the folders `skip` directly below `root`, are left out.

    Raises:
        DataError: two pictures whose names differ in their form (composed or not) alone.
    """
    names: list[str] = []
    others: list[str] = []
    links_out: list[str] = []
    on_disk: dict[str, str] = {}
    inside = root.resolve()
    for stored, is_link in walk(root, "", frozenset(skip)):
        name = nfc(stored)
        if is_link and not (root / stored).resolve().is_relative_to(inside):
            links_out.append(name)
        elif is_link and (root / stored).is_dir():
            continue
        elif is_picture(name):
            names.append(name)
            if name != stored:
                on_disk[name] = stored
        else:
            others.append(name)
    by_base = defaultdict(list)
    names.sort()
    known = frozenset(names)
    if len(known) < len(names):
        twin = next(name for name, after in pairwise(names) if name == after)
        raise DataError(
            f"{root} has two pictures {twin!r}: one name is composed, the other decomposed (as macOS writes accents). "
            "Rename or remove one."
        )
    for name in names:
        by_base[name.rpartition("/")[2]].append(name)
    return PictureFiles(
        root, tuple(names), known, dict(by_base), tuple(sorted(links_out)), tuple(sorted(others)), on_disk
    )


def pictures_below(files: PictureFiles, folder: str) -> list[str]:
    """Names of the pictures below a folder of the data set ("" is all).

    Raises:
        DataError: a link in it leaves the data folder.
    """
    start = f"{folder}/" if folder else ""
    for link in files.links_out:
        if link.startswith(start) or link == folder:
            raise leaves(files.root, link, str(files.root / link))
    return [name for name in files.names if name.startswith(start)]


def locate(files: PictureFiles, reference: object, where: str, near: Sequence[str] = ()) -> str:
    """Path relative to the data folder of the picture that an annotation names.

    A path is looked for below the folders `near`, the data folder and images/, then at the end of every picture's path.
    Addresses (https://, s3://, Label Studio's /data/upload/ and /data/local-files/) are not fetched: the longest end of
    their path that is a picture here is taken, at least its file name, without the prefix of an upload if need be.

    Raises:
        MissingDataError: it is not here.
        DataError: absolute, with `..`, a link out of the folder, or more than one picture it could mean.
    """
    reference = nfc(reference) if isinstance(reference, str) else reference
    folders = [f"{folder}/" if folder else "" for folder in (*map(nfc, near), "", "images")]
    for folder in folders:
        if f"{folder}{reference}" in files.known:
            return f"{folder}{reference}"
    remote = isinstance(reference, str) and bool(_ADDRESS.match(reference))
    wanted = _ends_of(str(reference)) if remote else _local(reference, where)
    for name in wanted:
        for folder in folders:
            if f"{folder}{name}" in files.known:
                return f"{folder}{name}"
        if found := _same_end(files, name, where):
            return found
    for name in wanted:
        for folder in folders:
            path = existing(files.root, f"{folder}{name}")
            if path is not None and path.is_file():
                if path.resolve().is_relative_to(files.root.resolve()):
                    return path.relative_to(files.root).as_posix()
                raise leaves(files.root, where, str(path))
    kind = "is an address, and nothing is downloaded" if remote else "is not there"
    base = PurePosixPath(wanted[-1]).name if wanted else "the file"
    raise MissingDataError(
        f"{where}: the picture {shown(reference)} {kind}. Put {base} into {files.root} (any sub-folder will do), "
        "or remove its entry."
    )


def _same_end(files: PictureFiles, name: str, where: str) -> str | None:
    matches = [path for path in files.by_base.get(name.rpartition("/")[2], ()) if path.endswith(f"/{name}")]
    if len(matches) > 1:
        raise DataError(
            f"{where}: {name!r} could be {' or '.join(matches[:3])} in {files.root}. "
            "Give the path relative to the data folder, or rename one."
        )
    return matches[0] if matches else None


def _local(reference: object, where: str) -> list[str]:
    if isinstance(reference, str) and reference.startswith("data:"):
        raise DataError(f"{where}: the picture is written into the file itself. Export with picture files.")
    name = safe_name(reference, where)
    return list(dict.fromkeys((name, name.replace("\\", "/"))))


def _ends_of(address: str) -> list[str]:
    """Ends of an address's path, longest first, then its file name without the prefix of an upload."""
    path = address_path(address)
    if not is_path(path):
        return []
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..")]
    ends = ["/".join(parts[i:]) for i in range(len(parts))]
    if parts and _UPLOAD_PREFIX.match(parts[-1]):
        ends.append(_UPLOAD_PREFIX.sub("", parts[-1]))
    return ends


def address_path(address: str) -> str:
    """The path of an address, of one of Label Studio's local files the path of that file; "" where it is none."""
    try:
        url = urlsplit(address)
        if url.path.startswith("/data/local-files"):
            return parse_qs(url.query).get("d", [""])[0]
    except ValueError:  # brackets that hold no host, too many fields
        return ""
    return unquote(url.path)
