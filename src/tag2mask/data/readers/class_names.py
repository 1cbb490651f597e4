"""Findings on the names of classes: names that are several tags, none, or one tag twice. Imports no torch."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

from tag2mask.base.spelling import is_background, twin_key
from tag2mask.data.findings import Finding, about, are, some

_LISTS = (",", "|", ";", "，", "、", "；", "،")
"""Marks that stand between tags and hardly ever in one."""
_WORDS = re.compile(r"\s+(?:and|or|with|und|oder|mit|et|ou|avec|y|o|con|e|og|och|en|i)\s+", re.IGNORECASE)
"""Words that stand between two names; like all other marks they may belong to a name, which counts as several tags
where each part is a tag by itself."""
_WRAPPED = re.compile(r"[\[({<].*[\])}>]|[\"'`“”„‘’«»].+[\"'`“”„‘’«»]", re.DOTALL)
_EXCEL_ERROR = re.compile(r"#(?:N/A|[A-Z0/]{3,}[!?])")
_UNKNOWN = frozenset(
    (
        *("null", "nan", "n/a", "na", "n.a", "-", "--", "?", "unknown", "undefined", "void", "ignore", "false"),
        *("unlabeled", "unlabelled", "untagged", "no tag", "no tags", "no label", "no labels"),
    )
)
"""What people write for "not known", in lower case with blanks for `_` and `-`."""
_NONE = frozenset(
    (
        *("none", "nil", "nothing", "empty", "no", "no class", "no object", "no objects", "no finding", "no findings"),
        *("none of the above", "bg", "negative", "negatives", "neg"),
        *("free", "good", "ok", "okay", "normal", "clean", "healthy", "intact", "undamaged", "flawless", "defectless"),
        *("non defective", "not defective"),
    )
)
"""What people write for "none of the classes", or call a thing on which there is nothing to find; as `_UNKNOWN`."""
_NO_DEFECT = re.compile(
    r"(?:no|without|zero) ?(defect|damage|fault|error|flaw)s?|(defect|damage|fault|error|flaw)s? ?free"
)
_MOST_LINES = 30
"""So many classes are written out as lines of classes.txt."""


def name_findings(classes: Sequence[str], chosen_in: Path | None = None) -> tuple[Finding, ...]:
    """Findings on a list of classes, in its order; `chosen_in` is a classes.txt that may leave some of them out."""
    return (*_joined(classes), *_nothing(classes, chosen_in), *_numbers(classes), *_spellings(classes))


def background_finding(tags: Iterable[tuple[str, Sequence[str]]]) -> tuple[Finding, ...]:
    """Findings on pictures that have the tag `background`, of the name and the tags of each picture."""
    marked = [(name, all(map(is_background, each))) for name, each in tags if any(map(is_background, each))]
    alone = [name for name, has_no_other in marked if has_no_other]
    together = [name for name, has_no_other in marked if not has_no_other]
    told = f"; on {some(len(together), 'picture')} with other tags it says nothing" if together else ""
    return about(
        [*together, *alone],
        severity="note",
        code="background",
        message=f"The tag background is no class: {are(len(alone), 'picture')} tagged so alone and negative{told}.",
        cure="None needed, if background means that a picture shows none of the classes; else rename the tag.",
    )


def _joined(classes: Sequence[str]) -> tuple[Finding, ...]:
    """Classes that are made of others, or look like a list."""
    found: dict[str, str] = {}
    known = {name.casefold() for name in classes}
    signs = dict.fromkeys(letter for name in classes for letter in name if not letter.isalnum())
    for mark in (*_LISTS, *(each for each in signs if each not in _LISTS), ""):
        parts = {name: _parts(name, mark) for name in classes if mark in name and name not in found}
        parts = {name: each for name, each in parts.items() if len(each) > 1 or (each and mark in _LISTS)}
        often = Counter(part for each in parts.values() for part in set(each))
        orders = Counter(tuple(sorted(each)) for each in parts.values())
        for name, each in parts.items():
            elsewhere = all(part in known or (often[part] > 1 and mark == "/") for part in each)
            if mark in _LISTS or elsewhere or orders[tuple(sorted(each))] > 1:
                found[name] = mark
    for name in classes:
        if name not in found and _WRAPPED.fullmatch(name):
            found[name] = ""
    marks = [mark for mark, _ in Counter(filter(None, found.values())).most_common()]
    option = "Write"
    if marks:
        mark = "," if marks[0] == "," else f"'{marks[0]}'"  # as a shell takes it
        option = f"--tag-separator {mark} where tags are cells of a table or text; else write"
    return about(
        [name for name in classes if name in found],
        code="joined_classes",
        message=f"{some(len(found), 'class')} named like several tags at once, or in brackets or quotes, each a "
        "class of its own.",
        cure=f"{option} each tag by itself. Keep the names if they are meant so.",
    )


def _parts(name: str, mark: str) -> list[str]:
    """The parts of a name between marks; "" stands for `_WORDS`."""
    return [part.strip().casefold() for part in (name.split(mark) if mark else _WORDS.split(name)) if part.strip()]


def _nothing(classes: Sequence[str], chosen_in: Path | None) -> tuple[Finding, ...]:
    none = frozenset(names_of_nothing(classes))
    names = [name for name in classes if name in none or _means_unknown(name)]
    others = [name for name in classes if name not in names]
    cure = "Leave the tag away, or call it background, where a picture shows none of the classes;"
    if chosen_in is not None and none and others:
        lines = ", ".join(others) if len(others) <= _MOST_LINES else f"the {len(others)} other classes"
        cure = (
            f"Where such a picture shows none of the other classes it is a negative: write those into {chosen_in}, one "
            f"per line ({lines});"
        )
    return about(
        names,
        code="empty_classes",
        message=f"{some(len(names), 'class')} named as if there were nothing to find, and learnt like any other.",
        cure=f"{cure} leave pictures out whose tags are not known.",
    )


def names_of_nothing(classes: Sequence[str]) -> list[str]:
    """The classes named as if there were nothing to find, as `free`, `No Defect`, `none`: their pictures are negatives.

    What all names begin with does not matter: MT_Free beside MT_Crack.
    """
    first, last = (min(classes), max(classes)) if len(classes) > 1 else ("", "")
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    start = max(map(shared.rfind, " _-")) + 1
    return [name for name in classes if _means_none(name) or _means_none(name[start:])]


def _means_none(name: str) -> bool:
    words, bare = _words(name)
    return (
        bool({words, bare} & _NONE)
        or bool(_NO_DEFECT.fullmatch(bare))
        or is_background(words.replace(" ", ""))
        or bare.startswith("background ")
    )


def _means_unknown(name: str) -> bool:
    words, bare = _words(name)
    return bool({words or name, bare} & _UNKNOWN) or bool(_EXCEL_ERROR.fullmatch(name))


def _words(name: str) -> tuple[str, str]:
    """A name in lower case with blanks for `_` and `-`, and the same without marks around it."""
    words = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
    return words, words.strip("#?!.*()[]<>{} ")


def _numbers(classes: Sequence[str]) -> tuple[Finding, ...]:
    are_numbers = all(re.fullmatch(r"[+-]?\d+(?:\.\d+)?", name) for name in classes)
    return about(
        classes if are_numbers else (),
        severity="note",
        code="numbered_classes",
        message=f"{are(len(classes), 'class')} called by a number and nothing else.",
        cure="None needed, if each number is a class; where one means none of them, call it background.",
    )


def _spellings(classes: Sequence[str]) -> tuple[Finding, ...]:
    same: defaultdict[str, list[str]] = defaultdict(list)
    for name in classes:
        same[twin_key(name) or name].append(name)
    names = [" / ".join(each) for each in same.values() if len(each) > 1]
    return about(
        names,
        code="spellings",
        message=f"{are(len(names), 'class')} spelt in more than one way, each way a class of its own.",
        cure="Write each class in one way everywhere.",
    )
