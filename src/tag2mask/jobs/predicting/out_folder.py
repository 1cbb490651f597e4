"""The folder that `predict` writes into: what must not be replaced there, and what earlier calls left.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from tag2mask.config.formats import RESULTS, place_of
from tag2mask.data.findings import Finding, about, are, some
from tag2mask.data.storage.searching import MANIFEST, is_predicted
from tag2mask.inference.sources import NamedPicture

HIDDEN_MASKS = ".masks"
"""Folder of the masks that the formats of annotation tools are made of, where no others are asked for."""


def check_out(out: Path, formats: Sequence[str], pictures: Sequence[NamedPicture]) -> None:
    """Refuse to write where other files would be replaced: a picture, or the masks and classes of a data set.

    Raises:
        FileExistsError: names the file and the cure.
    """
    results = _results(formats)
    root, to_predict = out.resolve(), {picture.path.resolve() for picture in pictures}
    for result in filter(_is_per_picture, results):
        for picture in pictures:
            if (made := root / result.replace("NAME", picture.name)) in to_predict:
                raise FileExistsError(f"--out {out}: {made} is one of the pictures to predict. Choose another folder")
    if is_predicted(out):
        return
    places = ["classes.txt", "scores.csv", *dict.fromkeys(map(place_of, results))]
    if foreign := [place for place in places if (out / place).exists()]:
        raise FileExistsError(
            f"--out {out} holds {', '.join(foreign)}, not written by predict (there is no {out / MANIFEST}). "
            "Choose another folder, so that nothing is lost"
        )


def earlier_results(
    out: Path, formats: Sequence[str], classes: Sequence[str], pictures: Sequence[NamedPicture]
) -> tuple[Finding, ...]:
    """What is said of files in OUT that an earlier call has written, and that this one does not replace.

    Raises:
        FileExistsError: they have other classes than this model, so that classes.txt would name them wrongly.
    """
    left = _not_replaced(out, formats, pictures) if is_predicted(out) else []
    listed = out / "classes.txt"
    before = tuple(listed.read_text(encoding="utf-8").splitlines()) if left and listed.is_file() else tuple(classes)
    if before != tuple(classes):
        raise FileExistsError(
            f"--out {out} holds {some(len(left), 'file')} of an earlier call that this one would not replace "
            f"({left[0]}), with the classes {', '.join(before)}; this model has {', '.join(classes)}. Choose another "
            "folder, or remove the files"
        )
    return about(
        left,
        severity="note",
        code="earlier_results",
        message=f"{are(len(left), 'file')} in {out} from an earlier call, of other pictures or formats; they stay, "
        "and scores.csv does not speak of them.",
        cure="If they should not be mixed, remove them or choose another --out.",
    )


def remove_parts(out: Path) -> None:
    """Remove files that a killed process has not written to the end."""
    folders = {place_of(result) for result in _results(RESULTS) if "/" in result}
    for folder in (*folders, HIDDEN_MASKS):
        for path in (out / folder).rglob(".*.part.*"):
            path.unlink(missing_ok=True)


def _results(formats: Iterable[str]) -> list[str]:
    """What these formats write, whole files before the files of each picture."""
    results = dict.fromkeys(result for name in formats for result in RESULTS[name])
    return sorted(results, key=_is_per_picture)


def _is_per_picture(result: str) -> bool:
    return "NAME" in result


def _not_replaced(out: Path, formats: Sequence[str], pictures: Sequence[NamedPicture]) -> list[str]:
    names, written = {picture.name for picture in pictures}, _results(formats)
    old: list[Path] = []
    for result in _results(RESULTS):
        if _is_per_picture(result):
            folder = out / PurePosixPath(result).parent
            replaced = names if result in written else set()
            files = (path for path in sorted(folder.rglob("*")) if not path.name.startswith("."))
            old += [path for path in files if path.relative_to(folder).with_suffix("").as_posix() not in replaced]
        elif result not in written:
            old.append(out / result)
    return [path.relative_to(out).as_posix() for path in old if path.is_file()]
