"""What the commands share: results, misuse, and tyro, which is used in this package only."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import tyro

from tag2mask.cli.examples import EXAMPLES
from tag2mask.config.formats import DataOptions

if TYPE_CHECKING:
    from tag2mask.data.findings import Finding

Result = tuple[dict[str, Any], list[str], int]
"""The object for --json, the lines for people, the exit code."""
Verb = Callable[[Sequence[str]], Result]
"""A command: its arguments to its result; the first line of its docstring is its help."""
CRFPreset = Literal["inference", "aaai_inference"]
ALL_OPTIONS = "--help-all"
"""The help with every option; --help shows the main ones."""
MAIN_OPTIONS = "These are the main options; tag2mask {} --help-all lists every one."
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
        shown = _main_reading(name, command) if {"--help", "-h"} & set(rest) else command
        result: Result = parsed(name, shown, rest, prog=f"tag2mask {name}", config=_TYRO)
        return result

    run.__doc__ = command.__doc__
    return run


def _suppressed(kind: Any) -> Any:
    return Annotated[kind, tyro.conf.Suppress]


def with_main_options(options: type[Any], main: frozenset[str]) -> type[Any]:
    """The dataclass `options` with all but the main fields hidden; their defaults stay."""
    kinds = get_type_hints(options, include_extras=True)
    hidden: list[tuple[str, Any, Any]] = []
    for each in dataclasses.fields(options):
        default = None if each.default is dataclasses.MISSING else each.default  # the commands give every value
        if each.name not in main:
            hidden.append((each.name, _suppressed(kinds[each.name]), dataclasses.field(default=default)))
    return dataclasses.make_dataclass(options.__name__, hidden, bases=(options,), frozen=True, kw_only=True)


def _main_reading(name: str, command: Callable[..., Result]) -> Callable[..., Result]:
    """The command as its short help shows it: of the options of its parameter `reading` only the format."""
    parameters = inspect.signature(command, eval_str=True).parameters
    if "reading" not in parameters:
        return command
    kind = with_main_options(DataOptions, frozenset(("data_format",)))

    def shown(**values: Any) -> Result:
        return command(**values)

    first, _, rest = (command.__doc__ or "").partition("\n")
    shown.__doc__ = f"{first}\n\n    {MAIN_OPTIONS.format(name)}\n{rest}"
    kept = [
        each.replace(annotation=kind, default=kind()) if each.name == "reading" else each
        for each in parameters.values()
    ]
    shown.__signature__ = inspect.Signature(kept, return_annotation=Any)  # type: ignore[attr-defined]
    shown.__annotations__ = {each.name: each.annotation for each in kept}
    return shown


def parsed(name: str, command: Callable[..., Any], rest: Sequence[str], **options: Any) -> Any:
    """What `command` gives for the arguments `rest` of the verb `name`; its help ends with examples."""
    words = ["--help" if word == ALL_OPTIONS else word for word in rest]
    try:
        return tyro.cli(command, args=words, **options)
    except SystemExit as stop:
        if not stop.code:  # after --help
            print("\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[name])]))
        raise


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """A line per finding: what was left out, and what to do about it."""
    return [f"{each.severity}: {each.message} {each.cure}" for each in findings]


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
