"""What the fields of a config say of themselves, and configs from JSON values."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tag2mask.base.options import for_reader

_T = typing.TypeVar("_T")


def setting(default: Any, **marks: Any) -> Any:
    """A field of a config with what else is to be known of it, said here alone.

    `within`: the interval that holds its numbers, as "[0, 1)". `option=False`: no command offers it, only presets and
    config.json set it. `tag_phase=VALUE`: the tag phase does not read it, and its own settings have VALUE there
    (`tag_phase_settings`).
    """
    return dataclasses.field(default=default, metadata=marks)


def unread_by_tags(default: Any, **marks: Any) -> Any:
    """A field that the tag phase does not read; other marks as of `setting`."""
    return setting(default, tag_phase=default, **marks)


def path_field(default: Any, **marks: Any) -> Any:
    """A field that names a folder or file: made absolute when a run begins, and left out of what is published.

    `words` are values that are no path; `split=True`: the name of a split, or a list file; `moves=True`: a run may go
    on where the same files lie elsewhere. Other marks as of `setting`.
    """
    return setting(default, path=True, **marks)


class Settings:
    """Base of the configs: a number that is not finite, or not `within` what its field says, is refused."""

    PREFIX: ClassVar[str] = "--"
    """What stands before the name of a field in messages."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value, within = getattr(self, each.name), each.metadata.get("within")
            name = self.PREFIX + (each.name.replace("_", "-") if "--" in self.PREFIX else each.name)
            numbers = [n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, float)]
            require(all(map(math.isfinite, numbers)), f"{name} must be a finite number, got {value}")
            if within is not None and isinstance(value, (int, float)):
                require(_holds(within, value), f"{name} must {_wording(within, value)}, got {value}")


def require(ok: bool, message: str) -> None:
    """Refuse a setting; the message names options, and arguments to Python users."""
    if not ok:
        raise ValueError(for_reader(message))


def _holds(within: str, value: float) -> bool:
    """Whether an interval in the usual notation holds a number."""
    low, high = map(float, within[1:-1].split(","))
    return low <= value <= high and (within[0] == "[" or value > low) and (within[-1] == "]" or value < high)


def _wording(within: str, value: float) -> str:
    low, high = within[1:-1].split(", ")
    if high == "inf":
        return f"be greater than {low}" if within[0] == "(" else f"be {low} or more"
    return f"be {low} to {high}" if isinstance(value, int) else f"lie in {within}"


def tag_phase_settings(config: _T) -> _T:
    """`config` with what its tag phase does not read at one value: equal settings train equal tag phases."""
    changes = {}
    for each in dataclasses.fields(config):  # type: ignore[arg-type]
        value = each.metadata.get("tag_phase", getattr(config, each.name))
        changes[each.name] = tag_phase_settings(value) if dataclasses.is_dataclass(value) else value
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def from_dict(cls: type[_T], values: Any, where: str) -> _T:
    """A `cls` of `values`; `where` names it in errors.

    Keys of older versions, which `cls.REMOVED` lists, may have the one value that still means the same.

    Raises:
        ValueError: not an object, an unknown key, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object, got {type(values).__name__}")
    removed: Mapping[str, Any] = getattr(cls, "REMOVED", {})
    for key in removed.keys() & values.keys():
        if values[key] != removed[key]:
            raise ValueError(
                f"{where}.{key} is no setting any more; only {removed[key]!r} is read, not {values[key]!r}"
            )
    values = {key: value for key, value in values.items() if key not in removed}
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
        first, *others = [a for a in args if a is not type(None)]
        if any(value in typing.get_args(a) for a in others if typing.get_origin(a) is Literal):
            return value
        return _value(first, value, where)  # an error is that of the first type
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
