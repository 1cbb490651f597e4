"""What a call of `predict` will do: found, and checked before any work."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tag2mask import __version__, outputs
from tag2mask.base.files import check_folder, model_file
from tag2mask.base.share import Share
from tag2mask.config.formats import RESULTS, OutputFormat, place_of
from tag2mask.config.inference import Inference
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding, about, are, listed, some
from tag2mask.data.readers.class_names import names_of_nothing
from tag2mask.data.readers.known_tags import KnownTags, read_known_tags
from tag2mask.data.storage.result_names import check_lengths
from tag2mask.data.storage.searching import MANIFEST, RESULT_PLACES, is_predicted
from tag2mask.data.storage.tables import class_indices
from tag2mask.inference.segmenter import Segmenter
from tag2mask.inference.sources import NamedPicture, called, only_listed, search
from tag2mask.jobs.predicting.manifest import file_digest, settings_digest
from tag2mask.outputs import voc_archive

HIDDEN_MASKS = ".masks"
"""Folder of the masks that the formats of annotation tools are made of, where no others are asked for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a call does: everything that is known before any work."""

    segmenter: Segmenter
    pictures: Sequence[NamedPicture]
    """All of them, also those of other processes."""
    share: Share
    tags: Mapping[str, tuple[str, ...]]
    """The tags that are known, by `file_name`."""
    inference: Inference
    out: Path
    formats: Sequence[OutputFormat]
    options: outputs.OutputOptions
    rank: bool
    competition: voc_archive.Competition | None
    findings: tuple[Finding, ...]
    settings: str
    """SHA-256 of everything that changes what is written for a picture."""

    @property
    def has_tools(self) -> bool:
        """Whether a format of an annotation tool is asked for, whose file holds all pictures."""
        return not outputs.FORMATS.keys().isdisjoint(self.formats)

    def mask_file(self, picture: NamedPicture) -> Path:
        """The mask that the user sees, or that annotation tools and the ranking need."""
        return self.out / ("masks" if "png" in self.formats else HIDDEN_MASKS) / f"{picture.name}.png"

    def mask_files(self, picture: NamedPicture) -> dict[Path, bool]:
        """All masks that are kept of a picture, and whether each has a palette."""
        seen = "png" in self.formats or self.rank or self.has_tools
        grey = {self.out / "ids" / f"{picture.name}.png": False} if "ids" in self.formats else {}
        return ({self.mask_file(picture): True} if seen else {}) | grey


def make_plan(
    run: str | Path | Segmenter,
    sources: str | Path | Sequence[str | Path],
    out: Path,
    formats: Sequence[OutputFormat],
    inference: Inference,
    tags: str | Path | None,
    list_file: str | Path | None,
    rank: bool,
    options: outputs.OutputOptions | None,
    device: str,
    share: tuple[int, int],
) -> Plan:
    """Find the pictures, load the model, and check everything that can be checked before any work; as `predict`."""
    if unknown := sorted(set(formats) - set(RESULTS)):
        raise ValueError(f"--format must be one of {', '.join(RESULTS)}, got {', '.join(unknown)}.")
    if inference.tags is not None:
        raise ValueError("predict takes the tags of each picture from a table or data set: give its path as tags.")
    competition, options = voc_archive.competition_of(formats), options or outputs.OutputOptions()
    check_folder(out)
    own_share = Share(index=share[0], count=share[1])
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    everywhere, findings = search(sources)
    pictures, told = (everywhere, ()) if list_file is None else only_listed(everywhere, Path(list_file))
    segmenter = Segmenter.load(run, device=device)
    known, told_of_tags = _known_tags(tags, segmenter.classes, everywhere, pictures)
    file_names = [picture.file_name for picture in pictures]
    outputs.check(formats, outputs.Wanted(segmenter.classes, file_names, options, inference.max_pixels))
    if competition is not None:
        voc_archive.check_archive(segmenter.classes, file_names)
    check_lengths((picture.name for picture in pictures), formats)
    earlier = _check_out(out, formats, segmenter.classes, pictures)
    settings = {
        "version": __version__,
        "model": _model_digest(run),
        "sources": list(map(str, sources)),  # names may mean other pictures of other sources
        "formats": sorted(formats),
        "inference": asdict(inference),
        "tags": None if tags is None else known,
        "options": asdict(options),
        "rank": rank,
    }
    return Plan(
        segmenter=segmenter,
        pictures=pictures,
        share=own_share,
        tags=known,
        inference=inference,
        out=out,
        formats=formats,
        options=options,
        rank=rank,
        competition=competition,
        findings=(*findings, *told, *told_of_tags, *earlier),
        settings=settings_digest(settings),
    )


def _model_digest(run: str | Path | Segmenter) -> str:
    """SHA-256 of the file with the weights; a random word for a model in memory, which is never taken for another."""
    if isinstance(run, Segmenter):
        return uuid.uuid4().hex
    file = model_file(Path(run))
    return file_digest(file) if file.is_file() else str(run)


def _known_tags(
    tags: str | Path | None,
    classes: Sequence[str],
    everywhere: Sequence[NamedPicture],
    pictures: Sequence[NamedPicture],
) -> tuple[dict[str, tuple[str, ...]], tuple[Finding, ...]]:
    """The tags of a table or data set by the `file_name` of their picture, and what is said of those without one.

    They may belong to any picture of the sources, `everywhere`; those of `pictures` are to be predicted.
    """
    if tags is None:
        return {}, ()
    path = Path(tags).expanduser()
    rows, findings = read_known_tags(path)
    every = sorted({tag for row in rows.values() for tag in row.tags})
    none = [tag for tag in names_of_nothing(every) if tag not in classes]
    own = {name: tuple(tag for tag in row.tags if tag not in none) for name, row in rows.items()}
    found = _pictures_of(rows, everywhere)
    for name in found if path.is_dir() else rows:
        class_indices(own[name], classes, rows[name].where, "Correct the tag.")
    known = {picture.file_name: own[name] for name, picture in found.items()}
    without = [picture.file_name for picture in pictures if picture.file_name not in known]
    unused = [name for name in rows if name not in found]
    row_word = "picture" if path.is_dir() else "row"
    if len(without) == len(pictures):
        row_name = f"the first {row_word} says {next(iter(rows))!r}" if rows else f"it has no {row_word}"
        raise DataError(
            f"{path} has no {row_word} for any of the pictures: {row_name}, the first picture is called "
            f"{pictures[0].file_name!r}. Write the pictures' paths below the source, or leave --tags out."
        )
    negative = [name for name, row in rows.items() if set(row.tags) & set(none)]
    return known, (
        *findings,
        *about(
            negative,
            severity="note",
            code="background",
            message=f"{path}: {some(len(negative), 'picture')} tagged {listed(none)}, which is no class of the model: "
            "taken as negatives.",
            cure="None needed, if that means that a picture shows none of the classes; else leave it out.",
        ),
        *about(
            without,
            code="pictures_without_row",
            message=f"{some(len(without), 'picture')} without {'tags' if path.is_dir() else 'a row'} in {path}, "
            "predicted as if nothing were known.",
            cure="Add a row for each, with an empty cell if it shows no class.",
        ),
        *about(
            unused,
            severity="note",
            code="rows_without_picture",
            message=f"{some(len(unused), row_word)} of {path} {'not' if path.is_dir() else 'without a picture'} in the "
            "sources.",
            cure="Correct the names if their pictures are there.",
        ),
    )


def _pictures_of(rows: Mapping[str, KnownTags], pictures: Sequence[NamedPicture]) -> dict[str, NamedPicture]:
    """The picture of each name: the one that is its file, else the one that is called so."""
    folders: dict[Path, Path] = {}

    def place(path: Path) -> Path:
        if path.parent not in folders:
            folders[path.parent] = path.parent.resolve()
        return folders[path.parent] / path.name

    by_place = {place(picture.path): picture for picture in pictures}
    of_rows = {name: by_place.get(place(row.path)) for name, row in rows.items() if row.path is not None}
    found = {name: picture for name, picture in of_rows.items() if picture is not None}
    taken = {picture.path for picture in found.values()}
    rest = [picture for picture in pictures if picture.path not in taken]
    return found | called({name: row.where for name, row in rows.items() if name not in found}, rest)


def _check_out(
    out: Path, formats: Sequence[OutputFormat], classes: Sequence[str], pictures: Sequence[NamedPicture]
) -> tuple[Finding, ...]:
    """What is said of files in OUT that an earlier call has written, and that this one does not replace.

    Refused are files that would be lost (a picture, the masks and classes of a data set), and files of an earlier call
    with other classes: classes.txt would name their labels wrongly.
    """
    results = dict.fromkeys(result for name in formats for result in RESULTS[name])
    made = {result.replace("NAME", picture.name) for result in results for picture in pictures}
    root = out.resolve()
    for path in (picture.path.resolve() for picture in pictures):
        if path.is_relative_to(root) and path.relative_to(root).as_posix() in made:
            raise FileExistsError(f"--out {out}: {path} is one of the pictures to predict. Choose another folder")
    if not is_predicted(out):
        places = ["classes.txt", "scores.csv", *dict.fromkeys(map(place_of, results))]
        if foreign := [place for place in places if (out / place).exists()]:
            raise FileExistsError(
                f"--out {out} holds {', '.join(foreign)}, not written by predict (there is no {out / MANIFEST}). "
                "Choose another folder, so that nothing is lost"
            )
        return ()
    patterns = {result.replace("NAME", "**/*") for each in RESULTS.values() for result in each}
    files = (path for pattern in sorted(patterns) for path in sorted(out.glob(pattern)) if path.is_file())
    names = (path.relative_to(out).as_posix() for path in files if not path.name.startswith("."))
    left = [name for name in names if name not in made]
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
        "and scores.csv does not list them.",
        cure="If they should not be mixed, remove them or choose another --out.",
    )


def remove_parts(out: Path) -> None:
    """Remove files that a killed process has not written to the end."""
    for place in (*RESULT_PLACES, HIDDEN_MASKS):
        for path in out.glob(f"{place}/**/.*.part.*"):
            path.unlink(missing_ok=True)
