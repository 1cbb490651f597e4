"""Dataclasses from JSON values: unknown or ill-typed keys are refused by name."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

_T = typing.TypeVar("_T")


def from_dict(cls: type[_T], values: Any, where: str) -> _T:
    """A `cls` of `values`; `where` names it in errors.

    Raises:
        ValueError: not an object, an unknown key, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(sorted(names))}")
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as `hint` wants it: nested dataclasses, tuples for lists, floats for ints; else refused."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _one_of([a for a in args if a is not type(None)], value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where} must be one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        each = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(each) != len(value):
            raise ValueError(f"{where} needs {len(each)} values, got {value!r}")
        return tuple(_value(a, v, where) for a, v in zip(each, value, strict=True))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:  # NaN, infinities, and integers that no float holds
            raise ValueError(f"{where} must be a finite number, got {str(value)[:40]}")
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}")


def _one_of(hints: list[Any], value: Any, where: str) -> Any:
    """`value` as the first of `hints` that takes it; the error is that of the first."""
    for hint in hints[1:]:
        if typing.get_origin(hint) is Literal and value in typing.get_args(hint):
            return value
    return _value(hints[0], value, where)
