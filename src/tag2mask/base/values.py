"""Equality of results that hold arrays. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


class Value:
    """A base of dataclasses (with `eq=False`) of which two are equal when all their fields are, arrays by content."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self is other or all(
            equal(getattr(self, each.name), getattr(other, each.name))
            for each in dataclasses.fields(self)  # type: ignore[arg-type]  # dataclasses all
            if each.compare
        )

    __hash__ = None  # type: ignore[assignment]  # arrays can be changed


def equal(one: Any, two: Any) -> bool:
    """Whether two values are the same; NaN equals NaN."""
    if one is two:
        return True
    if isinstance(one, np.ndarray) or isinstance(two, np.ndarray):
        a, b = np.asarray(one), np.asarray(two)
        both_float = all(each.dtype.kind in "fc" for each in (a, b))
        return type(one) is type(two) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=both_float)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(equal(value, two[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and type(one) is type(two):
        return len(one) == len(two) and all(map(equal, one, two))
    if isinstance(one, float) and isinstance(two, float) and one != one:
        return two != two
    return bool(one == two)
