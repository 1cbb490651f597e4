"""Folders of masks: which file belongs to a picture, which class list to the folder, and what its ids stand for.

Masks travel with their class list, and are matched to another one by name. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from tag2mask.base.spelling import class_name, nfc
from tag2mask.config import BACKGROUND, IGNORE
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError, LabelMap, MaskCodes, Picture, PictureSet, label_codes
from tag2mask.data.findings import Finding, about, some
from tag2mask.data.storage.labelmap import LABELMAP, mask_word, read_labelmap
from tag2mask.data.storage.tables import read_classes, read_json

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The twenty classes of PASCAL VOC; id `i + 1` in its masks."""
VOC_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
"""In folders of these names VOC's classes have VOC's ids; so they have in the archive for VOC's test server."""
PSEUDO_LABELS = "pseudo_labels.json"
_RESULTS = re.compile(r"comp[56]_.+_cls")


def mask_name(name: str) -> str:
    """The name of a picture's mask."""
    return str(PurePosixPath(name).with_suffix(".png"))


@dataclass(eq=False)
class MaskFiles:
    """A folder of masks.

    The mask of sub/a.jpg is sub/a.png. Its suffix may have capital letters, its accents be composed or not;
    sub/a.jpg.png is taken too, which `predict` writes for a.jpg beside a.tif.
    """

    folder: Path

    def find(self, name: str) -> Path | None:
        """The mask of a picture, where there is one."""
        usual = mask_name(name)
        if (path := self.folder / usual).is_file():
            return path
        for other in (usual, f"{name}.png"):
            if (found := self._by_name.get(nfc(other))) is not None:
                return self.folder / found
        return None

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """Files below the folder, by their path with composed accents and the suffix .png in small letters."""
        files = sorted(path for path in self.folder.rglob("*") if not path.name.startswith(".") and path.is_file())
        names = [path.relative_to(self.folder).as_posix() for path in files]
        keys = (f"{name[:-4]}.png" if name.lower().endswith(".png") else name for name in names)
        return dict(zip(map(nfc, keys), names, strict=True))

    def strays(self, names: Iterable[str]) -> list[str]:
        """Files that look like masks and belong to none of the pictures `names` (of all splits)."""
        stems = {nfc(stem) for name in names for stem in _stems(name)}
        companions = (".txt", ".json", ".csv", ".md", ".html")
        return [
            name
            for key, name in self._by_name.items()
            if not name.lower().endswith(companions)
            and not (key.endswith(".png") and {key[:-4], PurePosixPath(key).name[:-4]} & stems)
        ]

    def stray_words(self, names: Iterable[str]) -> str:
        """For the message that a mask is missing: where the masks may be, or which files belong to no picture."""
        if (self.folder / "masks").is_dir():
            return f" (did you mean {self.folder / 'masks'}?)"
        strays = self.strays(names)
        more = " ..." * (len(strays) > 3)
        return f" (these files belong to no picture: {', '.join(strays[:3])}{more})" if strays else ""

    def findings(self, pictures: Sequence[Picture], names: Iterable[str]) -> tuple[Finding, ...]:
        """Findings on files that are no picture's mask though masks are missing, and of masks of two pictures.

        Args:
            pictures: Those of a split.
            names: Pictures of all splits, as far as they are known.
        """
        without = [picture for picture in pictures if picture.mask is None]
        if not without or not self.folder.is_dir():
            return _shared(pictures)
        strays = self.strays(names)
        stray = about(
            strays,
            code="stray_masks",
            message=f"{some(len(without), 'picture')} of {len(pictures)} without a mask, and "
            f"{some(len(strays), 'file')} in {self.folder} that belong to no picture.",
            cure=f"The mask of {without[0].name} would be called {mask_name(without[0].name)}.",
        )
        return (*stray, *_shared(pictures))


def _stems(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    return str(path.with_suffix("")), path.stem, name, path.name


def _shared(pictures: Sequence[Picture]) -> tuple[Finding, ...]:
    owners: dict[Path, list[str]] = {}
    for picture in pictures:
        if picture.mask is not None:
            owners.setdefault(picture.mask, []).append(picture.name)
    shared = [names for names in owners.values() if len(names) > 1]
    example = shared[0][0] if shared else ""
    return about(
        [" and ".join(names) for names in shared],
        code="shared_masks",
        message=f"{some(len(shared), 'mask')} of more than one picture, whose names differ in their suffix only.",
        cure=f"Call the masks after the whole names, as {example}.png for {example}, if the pictures differ.",
    )


def expected_mask(pictures: PictureSet) -> str:
    """A sentence that says what the mask of the first picture would be called; "" where masks cannot be given."""
    name = pictures.pictures[0].name if pictures.pictures else "a.jpg"
    place = {
        "voc": f"{VOC_FOLDERS[0]}/{mask_name(name)}",
        "webdataset": f"a member {PurePosixPath(name).name.partition('.')[0]}.mask.png of its shard",
        "hf-dataset": "",
    }.get(pictures.data_format, f"masks/{mask_name(name)}")
    return f"The mask of {name} would be {place}." if place else ""


@dataclass(frozen=True, kw_only=True)
class MaskList:
    """The class list of a folder of masks."""

    source: str
    """The file that says it, for messages."""
    names: tuple[str, ...]
    """In the order of the list."""
    ids: Mapping[int, str]
    """Class of each id but 0 and 255."""
    colors: LabelMap | None = None

    @property
    def has_own_ids(self) -> bool:
        """Whether the ids are not the positions in the list: those of VOC, or of colors."""
        return self.colors is not None or tuple(self.ids.values()) != self.names


def mask_list(folder: Path, *, beside: bool = True) -> MaskList | None:
    """The class list that goes with a folder of masks: labelmap.txt, classes.txt or pseudo_labels.json; None: none.

    Args:
        folder: The folder.
        beside: Whether a list beside the folder counts as well as one in it: OUT/classes.txt for OUT/masks. A
            labelmap.txt counts either way.

    Raises:
        DataError: a list that cannot be read.
    """
    for path in (folder / LABELMAP, folder.parent / LABELMAP):
        if path.is_file():
            colors = read_labelmap(path)
            return MaskList(source=str(path), names=colors.names, ids=_positions(colors.names), colors=colors)
    is_voc = folder.name in VOC_FOLDERS or _RESULTS.fullmatch(folder.name) is not None
    for place in (folder, folder.parent) if beside else (folder,):
        if (path := place / "classes.txt").is_file():
            names = read_classes(path)
            voc = is_voc and bool(set(names) & set(VOC_CLASSES))
            return MaskList(source=str(path), names=names, ids=_positions(VOC_CLASSES if voc else names))
    if (path := folder / PSEUDO_LABELS).is_file():
        about = read_json(path)
        listed = about.get("classes") if isinstance(about, dict) else None
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise DataError(f"{path} must hold the list `classes`. Write it again with tag2mask pseudo-label.")
        names = tuple(map(class_name, listed))
        return MaskList(source=str(path), names=names, ids=_positions(names))
    if is_voc:
        return MaskList(source=f"the name of {folder}", names=VOC_CLASSES, ids=_positions(VOC_CLASSES))
    return None


def _positions(names: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(names, start=1))


def class_label(name: str, classes: Sequence[str]) -> int | None:
    """The label 1.. of a class by its name; None where the list does not have it."""
    kept = class_name(name)
    return classes.index(kept) + 1 if kept in classes else None


def codes_by_name(ids: Mapping[int, str], classes: Sequence[str]) -> dict[int, int | None]:
    """Label of `classes` of each id of a list; None for a class that it does not have."""
    return {number: class_label(name, classes) for number, name in ids.items()}


def own_codes(
    folder: Path | None, classes: Sequence[str], options: DataOptions, *, usual: Mapping[int, str] | None = None
) -> MaskCodes:
    """What the ids in a data set's own masks stand for.

    Args:
        folder: The folder of its masks, whose own class list, if it has one, decides; None where there are none.
        classes: The data set's classes.
        options: `others`, and `mask_ids`, which goes before everything.
        usual: Class of each id where nothing says otherwise; default the order of `classes`.

    Raises:
        DataError: a list that cannot be read or has no class in common with the data set, or `mask_ids` that are none.
    """
    listed = None if folder is None else mask_list(folder, beside=False)
    if listed is None or (usual is not None and listed.colors is None):
        ids, colors = _positions(classes) if usual is None else usual, None
    else:
        ids, colors = listed.ids, listed.colors
        refuse_foreign_list(listed, classes, "the data set")
    labels = codes_by_name(ids, classes) | parsed_mask_ids(options.mask_ids, classes)
    return MaskCodes.of(labels, others=options.others, colors=colors)


def given_codes(folder: Path, classes: Sequence[str]) -> MaskCodes:
    """What the ids in a folder of masks that teach stand for.

    By name where a class list goes with the masks, which must then have all of `classes`; classes that it has beyond
    are ignored. By position where none does.

    Raises:
        DataError: the list lacks a class, which these masks would teach as background; both lists are named.
    """
    listed = mask_list(folder)
    if listed is None:
        return label_codes(len(classes), others="ignore")
    missing = [name for name in classes if class_label(name, tuple(listed.ids.values())) is None]
    if missing:
        raise DataError(
            f"The masks of {folder} do not know {', '.join(missing)}: by {listed.source} their classes are "
            f"{', '.join(listed.names)}, those of the data set {', '.join(classes)}. Pixels of a class that they do "
            "not know would be taught as background. Make masks of all classes, or correct the list."
        )
    return MaskCodes.of(codes_by_name(listed.ids, classes), others="ignore", colors=listed.colors)


def refuse_foreign_list(listed: MaskList, classes: Sequence[str], whose: str) -> None:
    """Refuse a class list that has nothing in common with another.

    Raises:
        DataError: naming both.
    """
    if not any(class_label(name, classes) for name in listed.ids.values()):
        raise DataError(
            f"No class in common: by {listed.source} the classes of the masks are {', '.join(listed.names)}, those of "
            f"{whose} {', '.join(classes)}. Correct either list."
        )


def parsed_mask_ids(words: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """Label of each id of `--mask-ids`: words like 255=ball; `background` and `ignore` stand for 0 and 255.

    Raises:
        DataError: a word that is none, an id twice, or an unknown class.
    """
    labels: dict[int, int] = {}
    for word in words:
        number, equals, name = word.partition("=")
        if not equals or not number.strip().isdecimal() or len(number.strip()) > 3 or int(number) > IGNORE:
            raise DataError(
                f"--mask-ids takes words like 255={classes[0]}: an id 0 to 255 and its class; got {word!r}."
            )
        label = class_label(name.strip(), classes)
        if label is None:
            label = mask_word(name.strip())
        if label is None:
            raise DataError(
                f"--mask-ids {word}: there is no class {name.strip()!r}; the classes are {', '.join(classes)}, and "
                "background and ignore."
            )
        if labels.setdefault(int(number), label) != label:
            raise DataError(f"--mask-ids gives the id {int(number)} two classes. Leave one out.")
    return labels


def meaning(codes: MaskCodes, classes: Sequence[str]) -> str:
    """What the known ids stand for, in words: `0 background, 1 cat, 2 dog, 255 ignored`."""
    words = {BACKGROUND: "background", IGNORE: "ignored", **_positions(classes)}
    shown = sorted(number for number in codes.known if number == codes.table[number] or codes.table[number] != IGNORE)
    text = [f"{number} {words.get(int(codes.table[number]), '?')}" for number in shown]
    return ", ".join(text if len(text) <= 12 else [*text[:9], "...", *text[-2:]])
