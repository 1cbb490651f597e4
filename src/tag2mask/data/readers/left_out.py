"""Findings on pictures and labels that are left out of a data set, or may be taken for something else.

One rule for every format: pictures that nobody labelled, pictures that no annotation lists, labels of shapes beside
image tags, tags that are no class. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from tag2mask.base.spelling import class_name, class_names, is_background
from tag2mask.config.formats import DataOptions
from tag2mask.data.dataset import DataError
from tag2mask.data.findings import Finding, Severity, about, some
from tag2mask.data.storage.tables import TagTable

_MOST_LABELS = 8


@dataclass(frozen=True)
class Unlabeled:
    """How pictures that nobody labelled look in a format, and what its own tools do with them."""

    lacks: str
    """What they do not have, as in `label file`."""
    auto: Literal["negative", "skip"]
    empty: str = ""
    """How the format says that a picture shows none of the classes; "" where it cannot say so."""
    usual: float = 0.1
    """Share of the pictures up to which it is no reason for a warning."""
    labels: str = ""
    """What labels are in the format, where that is easily mistaken."""


class Kinds(NamedTuple):
    """Both kinds of labels of a picture."""

    picture: str
    tags: tuple[str, ...]
    shapes: tuple[str, ...]

    def taken(self, use_shapes: bool) -> tuple[str, ...]:
        """Those that are its tags; of the other kind, `background` alone says something of a picture without shapes."""
        return (self.shapes or tuple(filter(is_background, self.tags))) if use_shapes else self.tags


def is_skipped(how: Unlabeled, options: DataOptions) -> bool:
    """Whether pictures that nobody labelled are left out, and not negatives."""
    return (how.auto if options.unlabeled == "auto" else options.unlabeled) == "skip"


def unlabeled(
    how: Unlabeled, names: Sequence[str], total: int, source: object, options: DataOptions
) -> tuple[Finding, ...]:
    """Findings on the pictures `names` of `total` that nobody labelled: none, or one finding."""
    skipped = is_skipped(how, options)
    common = options.unlabeled == "auto" and len(names) > how.usual * total
    if skipped:
        cure = f"Label them{how.labels}; --unlabeled negative takes them as pictures that show none of the classes."
    else:
        cure = f"--unlabeled skip leaves them out, which is right where nobody has looked at them{how.empty}."
    return about(
        () if options.tags_from == "masks" and not skipped else names,
        severity="warning" if common else "note",
        code="unlabeled",
        message=f"{source}: {len(names)} of {some(total, 'picture')} without {how.lacks}: "
        f"{'left out' if skipped else 'taken as negatives'}.",
        cure=cure,
    )


def unlisted(paths: Mapping[str, Path], root: Path, source: object, *, usual: bool = False) -> tuple[Finding, ...]:
    """Findings on picture files below `root`, by their names, that no annotation lists."""
    return about(
        list(paths),
        [(path,) for path in paths.values()],
        severity="note" if usual else "warning",
        code="unlisted",
        message=f"{some(len(paths), 'picture')} below {root} not in {source}: not used.",
        cure="Nothing, if they are not meant to be; else add them there.",
    )


def other_tags(
    tags: Iterable[Sequence[str]], classes: Sequence[str], source: object, *, chosen: bool
) -> tuple[Finding, ...]:
    """Findings on tags that are none of `classes`.

    Args:
        tags: Tags of each picture; background is not one of them.
        classes: The class list.
        source: Where the tags come from.
        chosen: Whether classes.txt has chosen the classes; else the format's own list lacks the tags.
    """
    known = frozenset(classes)
    counts = Counter(tag for each in tags for tag in set(each) if tag not in known)
    return about(
        [f"{tag}: {some(count, 'picture')}" for tag, count in counts.most_common()],
        severity="note" if chosen else "warning",
        code="other_tags",
        message=f"{source}: {some(len(counts), 'tag')} left out, as {'classes.txt' if chosen else 'its class list'} "
        f"does not name {'it' if len(counts) == 1 else 'them'}: {counted(counts)}.",
        cure="Nothing, if that is meant; else add the class to "
        f"{'classes.txt' if chosen else f'the labels in {source}'}.",
    )


def same_name(names: Iterable[tuple[object, str]], source: object) -> tuple[Finding, ...]:
    """Findings on several numbers of a class list (`names`: number, name) that bear one name."""
    by_name: dict[str, list[object]] = {}
    for number, name in names:
        by_name.setdefault(class_name(name), []).append(number)
    twins = [f"{name}: {', '.join(map(str, numbers))}" for name, numbers in by_name.items() if len(numbers) > 1]
    return about(
        twins,
        code="same_name",
        message=f"{source}: {some(len(twins), 'class name')} stands for several numbers ({'; '.join(twins[:3])}): "
        "one class each.",
        cure="Nothing, if they are the same; else give each its own name.",
    )


def other_columns(table: TagTable) -> tuple[Finding, ...]:
    """Findings on columns of a table that are not used."""
    return about(
        table.ignored,
        severity="note",
        code="other_columns",
        message=f"{table.path}: {some(len(table.ignored), 'column')} beside file_name and tags: not used.",
        cure="None needed, if all classes are in the column tags; splits are folders or lists (docs/data.md).",
    )


def without_picture(names: Sequence[str], what: str, source: object) -> tuple[Finding, ...]:
    """Findings on annotations, `what` as in `label file`, whose picture is not there."""
    return about(
        names,
        code="without_picture",
        message=f"{source}: {some(len(names), what)} without a picture: not used.",
        cure="Add the pictures, give both the same name, or remove them.",
    )


def tags_or_shapes(pictures: Sequence[Kinds], source: object, options: DataOptions) -> tuple[bool, tuple[Finding, ...]]:
    """Whether the labels of shapes are the tags, and findings on the kind that is left out.

    Shapes are taken where they are asked for, or where no picture at all has a tag of its own but `background`. Where
    masks give the tags, this is only about the class list.

    Raises:
        DataError: shapes are asked for, and there is none.
    """
    pictures = [Kinds(name, class_names(tags), class_names(shapes)) for name, tags, shapes in pictures]
    tagged = [each for each in pictures if not all(map(is_background, each.tags))]
    shaped = [each for each in pictures if each.shapes]
    if options.tags_from == "masks":
        return bool(shaped and not tagged), ()
    of_tags, of_shapes = (Counter(label for each in pictures for label in set(each[kind])) for kind in (1, 2))
    there = (
        f"{source}: {len(tagged)} of {some(len(pictures), 'picture')} with image tags ({counted(of_tags)}), "
        f"{len(shaped)} with shapes ({counted(of_shapes)})"
    )
    names_tagged, names_shaped = ([each.picture for each in some_of] for some_of in (tagged, shaped))
    if options.tags_from == "shapes":
        if not shaped:
            raise DataError(f"{source} has no shape with a label. Leave --tags-from shapes out to take the image tags.")
        return True, _both(f"{there}: the image tags are left out, as asked.", names_tagged)
    if shaped and not tagged:
        return True, about(
            names_shaped,
            severity="note",
            code="shapes_as_tags",
            message=f"{source} has no image tags: the labels of its shapes are taken as tags.",
            cure="Nothing, if the shapes show all that is in the pictures.",
        )
    lost = [each.picture for each in shaped if not set(each.shapes) <= set(each.tags)]
    if not lost:
        return False, _both(f"{there}: they agree, and the image tags are taken.", names_shaped)
    message = (
        f"{there}: the image tags are taken, and the shapes are left out, though {len(lost)} of these pictures have "
        "shapes of classes that they are not tagged with."
    )
    return False, _both(message, lost, "Take the labels of the shapes instead with --tags-from shapes.")


def _both(message: str, names: Sequence[str], cure: str = "") -> tuple[Finding, ...]:
    severity: Severity = "warning" if cure else "note"
    return about(names, severity=severity, code="both_kinds", message=message, cure=cure or "None needed.")


def counted(counts: Counter[str]) -> str:
    """`cat 5, dog 2`, the most frequent first."""
    most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    more = f" and {len(most) - _MOST_LABELS} more" if len(most) > _MOST_LABELS else ""
    return ", ".join(f"{label} {count}" for label, count in most[:_MOST_LABELS]) + more
