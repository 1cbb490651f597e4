"""Findings on a data set: what is left out of it or may be a mistake, counted and named.

Readers put findings into `PictureSet.findings`; `tag2mask check` adds those that need a look at every picture.
Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
MOST_NAMES = 20
"""So many names are kept per finding; `count` says how many there are."""
MOST_FILES = 8
"""So many names of a finding are shown as pictures on the page."""
_LOGGED_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to know about a data set."""

    severity: Severity
    """error: training would be pointless. warning: the result will suffer. note: good to know."""
    code: str
    """Its kind, for programs, such as `near_duplicates`; docs/check.md lists them."""
    message: str
    cure: str
    names: tuple[str, ...] = ()
    """Pictures, classes or groups of them: the first `MOST_NAMES`."""
    count: int = 0
    """How many there are in all."""
    files: tuple[tuple[Path, ...], ...] = field(default=(), repr=False)
    """Pictures behind the first names, for the page; not in `as_dict`."""

    def as_dict(self) -> dict[str, Any]:
        """JSON values, without `files`."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "files"}
        return values | {"names": list(self.names)}


def log_findings(findings: Iterable[Finding], log: logging.Logger) -> None:
    """A line per finding, with the first names and the cure; notes as information, the others as warnings."""
    for each in findings:
        names = ", ".join(each.names[:_LOGGED_NAMES]) + (" ..." if each.count > _LOGGED_NAMES else "")
        level = logging.INFO if each.severity == "note" else logging.WARNING
        log.log(level, "%s%s %s", each.message, f" ({names})" if names else "", each.cure)


def warned(findings: Iterable[Finding]) -> str:
    """The warnings as sentences to be added to an error that they may be the cause of."""
    return "".join(f" {each.message} {each.cure}" for each in findings if each.severity == "warning")


def about(
    names: Sequence[str],
    files: Sequence[tuple[Path, ...]] = (),
    *,
    code: str,
    message: str,
    cure: str,
    severity: Severity = "warning",
    count: int = 0,
) -> tuple[Finding, ...]:
    """One finding that names `names` and counts them, or says `count` where they are only the first; else none."""
    if not names:
        return ()
    return (
        Finding(
            severity=severity,
            code=code,
            message=message,
            cure=cure,
            names=tuple(names[:MOST_NAMES]),
            count=count or len(names),
            files=tuple(files[:MOST_FILES]),
        ),
    )


def some(count: int, word: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{count} {word}{'' if count == 1 else 's' if not word.endswith('s') else 'es'}"


def are(count: int, what: str) -> str:
    """`1 class is`, `2 classes are`."""
    return f"{some(count, what)} {'is' if count == 1 else 'are'}"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
