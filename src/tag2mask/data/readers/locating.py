"""Which file of the data folder an annotation means. Nothing outside the folder is read. Imports no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote, unquote_plus

from tag2mask.base.spelling import existing, nfc
from tag2mask.data.dataset import DataError, MissingDataError
from tag2mask.data.storage.links import IMAGES, is_inside, leaves, walk
from tag2mask.data.storage.naming import known_split
from tag2mask.data.storage.suffixes import is_picture
from tag2mask.data.storage.tables import is_path, safe_name, shown

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|/(?:[^?#]*/)?data/(?:upload|local-files)/", re.IGNORECASE)
_HOST = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*", re.IGNORECASE)
_LOCAL_FILE = re.compile(r"[^?#]*/data/local-files/?\?(?:.*?&)??d=(.*)", re.DOTALL)
_UPLOAD = re.compile(r"/data/upload/(?:[^/]+/)*[0-9a-f]{8}-([^/]+)$", re.IGNORECASE)
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")
"""Label Studio puts this before the name of an uploaded file."""


@dataclass(frozen=True)
class PictureFiles:
    """Every picture file below a folder."""

    root: Path
    names: tuple[str, ...]
    """Paths relative to `root`, with forward slashes, composed (`spelling.nfc`), sorted."""
    links_out: tuple[str, ...]
    """Links to files or folders outside `homes`; they are not followed."""
    homes: tuple[Path, ...]
    """Folders that links may lead into: `root`, and the folder elsewhere that its images/ may be a link to."""
    others: tuple[str, ...] = ()
    """Files that are no pictures by their suffix, as `names`."""
    on_disk: Mapping[str, str] = field(default_factory=dict)
    """Those of `names` that the disk has in another form, in that form."""
    left_out: tuple[str, ...] = ()
    """Folders that are never searched, see `tag2mask.data.storage.searching.is_left_out`; hidden ones aside."""

    def path(self, name: str) -> Path:
        """The file of one of `names`."""
        return self.root / self.on_disk.get(name, name)

    @cached_property
    def known(self) -> frozenset[str]:
        """All `names`, to look one up."""
        return frozenset(self.names)

    @cached_property
    def by_base(self) -> dict[str, list[str]]:
        """All `names` by file name."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.names:
            found[name.rpartition("/")[2]].append(name)
        return dict(found)

    @cached_property
    def by_upload(self) -> dict[str, list[str]]:
        """All `names` by the name that Label Studio gives an uploaded file: blanks become `_`, signs and accents go."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.names:
            base = name.rpartition("/")[2].strip().replace(" ", "_")
            for stored in {re.sub(r"[^-\w.]", "", form) for form in (base, normalize("NFD", base))}:
                found[stored].append(name)
        return dict(found)


def find_picture_files(root: Path, *, skip: Collection[str] = ("masks",)) -> PictureFiles:
    """The picture files below `root`, by suffix; no file is opened.

    Hidden files and folders, and the folders `skip` directly below `root`, are left out. A folder images/ that is a
    link to elsewhere is its owner's choice.

    Raises:
        DataError: two pictures whose names differ in their form (composed or not) alone.
    """
    homes = [root.resolve()]
    left_out: list[str] = []
    found = walk(root, "", frozenset(skip), left_out)
    images = root / IMAGES
    if images.is_symlink() and images.is_dir() and not is_inside(images, homes):
        homes.append(images.resolve())
        found = chain((each for each in found if each[0] != IMAGES), walk(root, IMAGES, left_out=left_out))
    return _sorted_out(root, found, homes, left_out)


def files_of_folder(root: Path, folder: str) -> PictureFiles:
    """The picture files below one folder of a data folder, by their paths from there; none where it is not there.

    Links may lead anywhere in the data folder; those that leave it are refused by `links.refuse_links_out`. Errors as
    `find_picture_files`.
    """
    place, left_out = root / folder, list[str]()
    found = walk(place, "", left_out=left_out) if place.is_dir() else ()
    files = _sorted_out(place, found, [root.resolve(), place.resolve()], left_out)
    return replace(files, left_out=tuple(f"{folder}/{name}" for name in files.left_out))


def _sorted_out(root: Path, found: Iterable[tuple[str, bool]], homes: list[Path], left_out: list[str]) -> PictureFiles:
    """What `walk` has found: pictures, other files, links that leave `homes`; `left_out` as `walk` has filled it."""
    names: list[str] = []
    others: list[str] = []
    links_out: list[str] = []
    on_disk: dict[str, str] = {}
    for stored, is_link in found:
        name = nfc(stored)
        if is_link and not is_inside(root / stored, homes):
            links_out.append(name)
        elif is_link and (root / stored).is_dir():
            continue
        elif is_picture(name):
            names.append(name)
            if name != stored:
                on_disk[name] = stored
        else:
            others.append(name)
    names.sort()
    if twin := next((name for name, after in pairwise(names) if name == after), None):
        raise DataError(
            f"{root} has two pictures {twin!r}: one name is composed, the other decomposed (as macOS writes accents). "
            "Rename or remove one."
        )
    return PictureFiles(
        root,
        tuple(names),
        tuple(sorted(links_out)),
        tuple(homes),
        others=tuple(sorted(others)),
        on_disk=on_disk,
        left_out=tuple(sorted(left_out)),
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


def locate(
    files: PictureFiles, reference: object, where: str, near: Sequence[str] = (), *, foreign: bool = False
) -> str:
    """Path relative to the data folder of the picture that an annotation names.

    A path is looked for below the folders `near`, the data folder and images/, then at the end of every picture's path.
    Addresses (https://, s3://, Label Studio's /data/upload/ and /data/local-files/) are not fetched: the longest end of
    their path that is a picture here is taken, at least its file name, without the prefix of an upload if need be.
    So are paths of another machine (`foreign`), but not a picture in a folder of another split.

    Raises:
        MissingDataError: it is not here.
        DataError: absolute, with `..`, a link out of the folder, or more than one picture it could mean.
    """
    reference = nfc(reference) if isinstance(reference, str) else reference
    if (found := among(files, reference, where, near, foreign=foreign)) is not None:
        return found
    remote = is_address(reference)
    wanted = _ends_of(str(reference)) if remote or foreign else _local(reference, where)
    links = [link for link in files.links_out if (path := existing(files.root, link)) is not None and path.is_dir()]
    for name in wanted:
        for folder in (*folders_near(near), *(f"{link}/" for link in links)):
            path = existing(files.root, f"{folder}{name}")
            if path is not None and path.is_file():
                if is_inside(path, files.homes):
                    return path.relative_to(files.root).as_posix()
                raise leaves(files.root, where, str(path))
    bases = [name.rpartition("/")[2] for name in wanted] or ["the file"]
    kind = "is an address, and nothing is downloaded" if remote else "is not there"
    if foreign and (others := files.by_base.get(bases[-1])):
        kind += f" ({others[0]} is of another split)"
    base = next(filter(is_picture, bases), bases[-1])
    base = _UPLOAD_PREFIX.sub("", base) if remote else base
    raise MissingDataError(
        f"{where}: the picture {shown(reference)} {kind}. Put {base} into {files.root} (any sub-folder will do), "
        "or remove its entry."
    )


def found_at(files: PictureFiles, reference: str, near: Sequence[str] = ()) -> str | None:
    """As `locate`, but None where that raises, without a look at the disk."""
    try:
        return among(files, nfc(reference), "", near)
    except DataError:
        return None


def among(
    files: PictureFiles, reference: object, where: str, near: Sequence[str] = (), *, foreign: bool = False
) -> str | None:
    """As `locate`, but None where it is not here, without a look at the disk."""
    folders = folders_near(near)
    for folder in folders:
        if f"{folder}{reference}" in files.known:
            return f"{folder}{reference}"
    remote = is_address(reference)
    for name in _ends_of(str(reference)) if remote or foreign else _local(reference, where):
        found = next((f"{folder}{name}" for folder in folders if f"{folder}{name}" in files.known), None)
        found = found or _same_end(files.by_base, name, where, files.root)
        if found and not (foreign and _other_split(str(reference), found)):
            return found
    upload = _UPLOAD.search(str(reference)) if remote else None
    return _same_end(files.by_upload, upload.group(1), where, files.root) if upload else None


def _other_split(reference: str, name: str) -> bool:
    """Whether a picture lies in a folder that is called after another split than the folders of a reference."""
    asked, there = (set(filter(None, map(known_split, re.split(r"[/\\]", text)[:-1]))) for text in (reference, name))
    return bool(asked and there and not asked & there)


def folders_near(near: Sequence[str]) -> list[str]:
    """Where a picture is looked for first, as beginnings of its path: the folders `near`, the data folder, images/."""
    return [*(f"{nfc(folder)}/" if folder else "" for folder in near), "", "images/"] if near else ["", "images/"]


def _same_end(by_base: Mapping[str, Sequence[str]], name: str, where: str, root: Path) -> str | None:
    base = name.rpartition("/")[2]
    matches = [path for path in by_base.get(base, ()) if base == name or path.endswith(f"/{name}")]
    if len(matches) > 1:
        raise DataError(
            f"{where}: {name!r} could be {' or '.join(matches[:3])} in {root}. "
            "Give the path relative to the data folder, or rename one."
        )
    return matches[0] if matches else None


def _local(reference: object, where: str) -> list[str]:
    if isinstance(reference, str) and reference.startswith("data:"):
        raise DataError(f"{where}: the picture is written into the file itself. Export with picture files.")
    name = safe_name(reference, where)
    return [
        each for each in _spellings(name) if is_path(each) and not each.startswith("/") and ".." not in each.split("/")
    ]


def _ends_of(address: str) -> list[str]:
    """Ends of an address's path, longest first and as it stands first, then file names without an upload's prefix."""
    paths = [[part for part in path.split("/") if part not in ("", ".", "..")] for path in address_paths(address)]
    ends = [(len(parts) - i, "/".join(parts[i:])) for parts in paths for i in range(len(parts))]
    ends.sort(key=lambda end: -end[0])
    bare = [_UPLOAD_PREFIX.sub("", parts[-1]) for parts in paths if parts and _UPLOAD_PREFIX.match(parts[-1])]
    return list(dict.fromkeys((*(end for _, end in ends), *bare)))


def is_address(reference: object) -> bool:
    """Whether a reference is an address, of which the end is looked for in the data folder."""
    return isinstance(reference, str) and bool(_ADDRESS.match(reference))


def address_paths(address: str) -> list[str]:
    """What the path of an address can be: its text as it stands, then without `%41` and the like, query and fragment.

    Of one of Label Studio's local files it is the path of that file.
    """
    local = _LOCAL_FILE.match(address)
    text = local.group(1) if local else _HOST.sub("", address)
    cut = text.partition("&")[0] if local else text.partition("#")[0].partition("?")[0]
    spellings = [*_spellings(text), *_spellings(cut), *([nfc(unquote_plus(cut))] if local else [])]
    return [each for each in dict.fromkeys(spellings) if is_path(each)]


def _spellings(name: str) -> list[str]:
    """A path as it stands, with forward slashes, and without `%41` and the like."""
    return list(dict.fromkeys((name, name.replace("\\", "/"), nfc(unquote(name)).replace("\\", "/"))))
