"""What the commands share: a command as a record of its options, its result, and misuse."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, dataclass_transform, get_type_hints

import tyro

from tag2mask.cli.examples import EXAMPLES
from tag2mask.config.formats import DataOptions

if TYPE_CHECKING:
    from tag2mask.data.findings import Finding

Result = tuple[Any, list[str], int]
"""The object for --json, the lines for people, the exit code."""
Verb = Callable[[Sequence[str]], Result]
"""A command: its arguments to its result; the first line of its docstring is its help."""
ALL_OPTIONS = "--help-all"
"""The help with every option; --help shows the main ones."""
MAIN_OPTIONS = "These are the main options; tag2mask {} --help-all lists every one."
Run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, tyro.conf.arg(help="Print one JSON object on stdout and nothing else.")]


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Command:
    """The options of a command, in the order of its help; `_run` does the work. Each is a frozen dataclass.

    The text below a field is its help. A field that is a record of its own, as `DataOptions`, stands for an option per
    field of that record.
    """

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def _run(self) -> Result:
        raise NotImplementedError

    def arguments(self) -> dict[str, Any]:
        """The options as arguments of the public function of this name."""
        given = dict(vars(self))
        inference = given.pop("inference", None)
        del given["json"]
        return given | (inference.asked() if inference is not None else {})


def misused(message: str) -> int:
    """Say what is wrong with the command; returns the exit code."""
    print(f"tag2mask: error: {message}\nSee tag2mask --help.", file=sys.stderr)
    return 2


class Misuse(SystemExit):
    """Ends the command with code 2 after saying why."""

    def __init__(self, message: str) -> None:
        super().__init__(misused(message))


def suggest(word: str, known: Sequence[str]) -> str:
    """A sentence that names the known word that `word` may stand for, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def verb(name: str, kind: type[Command]) -> Verb:
    """The command `name`. Of how a data set is read --help shows the format only, and --help-all everything."""

    def run(rest: Sequence[str]) -> Result:
        command = _as_function(name, kind, short=bool({"--help", "-h"} & set(rest)))
        result: Result = parsed(name, command, rest, prog=f"tag2mask {name}", config=(tyro.conf.FlagCreatePairsOff,))
        return result

    run.__doc__ = kind.__doc__
    return run


def _as_function(name: str, kind: type[Command], *, short: bool) -> Callable[..., Result]:
    """A function whose parameters are the options, those of records too, as tyro takes it."""
    about, parameters = kind.__doc__ or "", []
    records: dict[str, tuple[Any, list[str]]] = {}
    for each in _options(kind):
        record: Any = each.annotation
        if not dataclasses.is_dataclass(record):
            parameters.append(each)
            continue
        inner = _options(record)
        records[each.name] = record, [option.name for option in inner]
        if short and record is DataOptions:
            first, _, more = about.partition("\n")
            about = f"{first}\n\n    {MAIN_OPTIONS.format(name)}\n{more}"
            inner = [one if one.name == "data_format" else _hidden(one) for one in inner]
        parameters += inner

    def command(**values: Any) -> Result:
        made = {name: record(**{one: values.pop(one) for one in names}) for name, (record, names) in records.items()}
        return kind(**values, **made)._run()

    command.__doc__ = about
    command.__signature__ = inspect.Signature(parameters, return_annotation=Any)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _options(kind: Any) -> list[inspect.Parameter]:
    """A parameter for each field that a command can set, with its docstring as help."""
    kinds, told, found = get_type_hints(kind, include_extras=True), field_docstrings(kind), []
    for field in (each for each in dataclasses.fields(kind) if each.init):
        shown = kinds[field.name]
        if field.name in told and not dataclasses.is_dataclass(shown):
            shown = Annotated[shown, tyro.conf.arg(help=told[field.name])]
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        found.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=shown))
    return found


def _hidden(option: inspect.Parameter) -> inspect.Parameter:
    return option.replace(annotation=Annotated[option.annotation, tyro.conf.Suppress])


def field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The text below each field of a dataclass and of those that it extends, as one line."""
    told: dict[str, str] = {}
    for each in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        (definition,) = ast.parse(inspect.getsource(each)).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                told[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(text.value)).split())
    return told


def parsed(name: str, command: Callable[..., Any], rest: Sequence[str], **options: Any) -> Any:
    """What `command` gives for the arguments `rest` of the verb `name`; its help ends with examples."""
    words = ["--help" if word == ALL_OPTIONS else word for word in rest]
    try:
        return tyro.cli(command, args=words, **options)
    except SystemExit as stop:
        if not stop.code:  # after --help
            print("\n".join(["examples:", *(f"  {line}" for line in EXAMPLES[name])]))
        raise


def tell_errors(errors: dict[str, str]) -> None:
    """A line on stderr for each picture that failed."""
    for message in errors.values():
        print(f"tag2mask: error: {message}", file=sys.stderr)


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """A line per finding: what was left out, and what to do about it."""
    return [f"{each.severity}: {each.message} {each.cure}" for each in findings]


def jsonable(value: Any) -> Any:
    """What json.dumps does not know as what it knows: dataclasses by field, paths as text."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "as_dict"):
        return value.as_dict()
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
