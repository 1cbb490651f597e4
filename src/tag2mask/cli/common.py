"""What the commands share: results, misuse, and tyro, which is used in this package only."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tag2mask.cli.examples import EXAMPLES

Result = tuple[dict[str, Any], list[str], int]
"""The object for --json, the lines for people, the exit code."""
Verb = Callable[[Sequence[str]], Result]
"""A command: its arguments to its result; the first line of its docstring is its help."""
CRFPreset = Literal["inference", "aaai_inference"]
ALL_OPTIONS = "--help-all"
"""The help with every option; only `train` and `retrain` have more than --help shows."""
Run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
_TYRO = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def misused(message: str) -> int:
    """Say what is wrong with the command; returns the exit code."""
    print(f"tag2mask: error: {message}\nSee tag2mask --help.", file=sys.stderr)
    return 2


class Misuse(SystemExit):
    """Ends the command with code 2 after saying why."""

    def __init__(self, message: str) -> None:
        super().__init__(misused(message))


def suggest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    """A sentence that names the known word that `word` may stand for, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def verb(name: str, command: Callable[..., Result]) -> Verb:
    """The command `name`: a function whose parameters are the options."""

    def run(rest: Sequence[str]) -> Result:
        result: Result = parsed(name, command, rest, prog=f"tag2mask {name}", config=_TYRO)
        return result

    run.__doc__ = command.__doc__
    return run


def parsed(name: str, command: Callable[..., Any], rest: Sequence[str], **options: Any) -> Any:
    """What `command` gives for the arguments `rest` of the verb `name`; its help ends with examples."""
    words = ["--help" if word == ALL_OPTIONS else word for word in rest]
    try:
        return tyro.cli(command, args=words, **options)
    except SystemExit as stop:
        if not stop.code:  # after --help
            print("\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[name])]))
        raise


def jsonable(value: Any) -> Any:
    """Results as plain JSON values: dataclasses by field, paths as text."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: jsonable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def crf_choice(crf: bool, preset: CRFPreset | None) -> bool | CRFPreset | None:
    """The `crf` argument of the Python functions for --crf and --crf-preset."""
    return preset or (True if crf else None)
