"""Masks as the PASCAL VOC test server takes them: results/VOC2012/Segmentation/comp6_test_cls/ID.png in results.tgz.

Tree and names are those of the VOC2012 development kit. Imports no torch.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from tag2mask.base.files import write_atomically
from tag2mask.data.readers.voc import VOC_CLASSES
from tag2mask.data.storage.result_names import name_key
from tag2mask.outputs.render import save_mask
from tag2mask.outputs.voc import other_classes, voc_ids

FILE = "results.tgz"
Competition: TypeAlias = Literal["comp5", "comp6"]
"""comp5: trained on VOC's own pictures alone; comp6: on anything else too, ImageNet weights included."""


def competition_of(formats: Sequence[str]) -> Competition | None:
    """The competition that the formats of `predict` name, or None.

    Raises:
        ValueError: both are named.
    """
    named: list[Competition] = [name for name in ("comp5", "comp6") if name in formats]
    if len(named) > 1:
        raise ValueError("--format comp5 and comp6 are two archives; make one call with its own --out for each.")
    return named[0] if named else None


def check_archive(classes: Sequence[str], file_names: Sequence[str]) -> None:
    """Refuse classes and names of pictures that the archive cannot hold.

    Raises:
        ValueError: a class that VOC does not know, or two pictures of one name.
    """
    names = list(map(_result_name, file_names))
    often = Counter(map(name_key, names))
    twice = [name for name in names if often[name_key(name)] > 1]
    if twice:
        raise ValueError(
            f"Two pictures are called {twice[0]}, but the VOC server takes one file of a name. "
            "Give one folder of pictures, or restrict them with --list."
        )
    if unknown := other_classes(classes):
        raise ValueError(
            f"--format comp5 and comp6 are for the classes of PASCAL VOC, but this model knows {', '.join(unknown)}. "
            f"VOC has {', '.join(VOC_CLASSES)}; use --format png for others."
        )


def _result_name(file_name: str) -> str:
    """The server's name of a picture: the last part of its path without suffix."""
    return PurePosixPath(file_name).stem


def _result_file(competition: Competition, name: str) -> PurePosixPath:
    """Path of a mask below OUT and in the archive."""
    return PurePosixPath("results", "VOC2012", "Segmentation", f"{competition}_test_cls", f"{name}.png")


def save_result(
    out: Path, competition: Competition, file_name: str, labels: NDArray[Any], classes: Sequence[str]
) -> Path:
    """Write labels [H, W] in {0..C} of a picture with their VOC ids as indexed PNG with the VOC palette."""
    return save_mask(out / _result_file(competition, _result_name(file_name)), voc_ids(classes)[labels])


def pack_results(out: Path, competition: Competition, file_names: Iterable[str]) -> Path:
    """Write OUT/results.tgz with the masks of these pictures, and nothing else; the same masks give the same bytes.

    Raises:
        ValueError: no name.
        FileNotFoundError: a mask is not there.
    """
    names = sorted(map(_result_name, file_names))
    if not names:
        raise ValueError("There is no mask to pack into results.tgz.")
    files = [_result_file(competition, name) for name in names]
    folders = [folder for folder in reversed(files[0].parents) if folder.name]

    def write(path: Path) -> None:
        with (
            path.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for folder in folders:
                entry = tarfile.TarInfo(str(folder))
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            for file in files:
                content = (out / file).read_bytes()
                entry = tarfile.TarInfo(str(file))
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))

    return write_atomically(out / FILE, write)
