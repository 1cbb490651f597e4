"""Which files count as pictures when a folder, tar file or glob is searched. Imports no torch."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable

from PIL import features

from tag2mask.data.findings import Finding, about, some

_SUFFIXES = {
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Suffixes of the formats of Pillow that are for strangers' files; HEIF is that of the package pillow-heif."""
_NEEDS = {
    "JPEG2000": "a Pillow with JPEG 2000",
    "WEBP": "a Pillow with WebP",
    "AVIF": "Pillow 11.3 or later",
    "HEIF": 'pip install "tag2mask[heif]"',
}


def _reads(name: str) -> bool:
    if name == "HEIF":
        return importlib.util.find_spec("pillow_heif") is not None
    codec = {"JPEG2000": "jpg_2000", "WEBP": "webp", "AVIF": "avif"}.get(name)
    return codec is None or codec in features.get_supported()


FORMATS = tuple(filter(_reads, _SUFFIXES))
"""What is decoded, whatever a file's suffix says; Pillow's other readers are not for strangers' files (EPS runs a
program). Phones' MPO counts as JPEG."""
PICTURE_SUFFIXES = frozenset(suffix for name in FORMATS for suffix in _SUFFIXES[name])
"""Suffixes, in lower case, of files that count as pictures when a folder or shard is searched: all that can be decoded
on this machine."""
COMPANIONS = frozenset(
    (
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".names", ".data", ".md", ".html"),
        *(".tar", ".zip", ".arrow", ".parquet", ".cache", ".log", ".py", ".pdf", ".db", ".ini"),
    )
)
"""Suffixes, in lower case, of what lies beside pictures and is none: annotations, lists, archives, notes."""
_NOTES = frozenset(("license", "licence", "readme", "notice", "copying", "authors", "changelog", "version", "makefile"))
"""Names, in lower case and without suffix, of notes that come with data sets."""


def suffix_of(name: str) -> str:
    """The suffix of a path with forward slashes, in lower case, with its dot; "" where it has none."""
    base = name.rpartition("/")[2]
    return base[base.rfind(".") :].lower() if "." in base[1:] else ""


def without_suffix(name: str) -> str:
    """The name of a picture without its suffix; a suffix that is none of a picture stays (`scan.2024`)."""
    return name[: name.rfind(".")] if is_picture(name) else name


def is_picture(name: str) -> bool:
    """Whether a path counts as a picture, by its suffix."""
    return suffix_of(name) in PICTURE_SUFFIXES


def missing_reader(name: str) -> str:
    """What a file of this suffix needs to be decoded here, in brackets; "" where nothing is missing."""
    missing = (needs for kind, needs in _NEEDS.items() if kind not in FORMATS and suffix_of(name) in _SUFFIXES[kind])
    return next((f" ({suffix_of(name)} needs {needs})" for needs in missing), "")


def passed_over(names: Iterable[str], where: object, *, companions: bool = False) -> tuple[Finding, ...]:
    """Findings on files that are passed over because of their suffix: none, or one finding that counts them.

    Args:
        names: Paths of all files, hidden ones left out, with forward slashes; pictures among them are no matter.
        where: The folder or pattern, for the message.
        companions: Whether files that lie beside pictures, such as .txt and .json, are counted too.
    """
    others = [
        name
        for name in names
        if not is_picture(name)
        and (companions or not (suffix_of(name) in COMPANIONS or name.rpartition("/")[2].lower() in _NOTES))
    ]
    counts = Counter(suffix_of(name) or "no suffix" for name in others)
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(counts.items(), key=lambda each: -each[1]))
    cures = [
        f"{'/'.join(_SUFFIXES[name])}: {needs}"
        for name, needs in _NEEDS.items()
        if name not in FORMATS and counts.keys() & set(_SUFFIXES[name])
    ]
    return about(
        sorted(others),
        code="passed_over",
        message=f"{some(len(others), 'file')} in {where} passed over by suffix: {kinds}.",
        cure="; ".join([*cures, "convert what shows a picture to JPEG or PNG, and remove what does not."]),
    )
