"""Places within the values of a configuration, and whether two values mean the same."""

import math
from collections.abc import Iterable
from typing import Any, Final

Path = tuple[str, ...]
Place = tuple[str | int, ...]


class _Absent:
    """What is at a place that does not exist."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = _Absent()


def value_at(values: Any, place: Iterable[str | int]) -> Any:
    """Return the value at a place, ABSENT if there is none."""
    for name in place:
        if isinstance(values, dict):
            values = values.get(name, ABSENT)
        elif isinstance(values, list) and isinstance(name, int) and name < len(values):
            values = values[name]
        else:
            return ABSENT
    return values


def set_at(values: Any, place: Place, value: Any) -> None:
    """Set the value at a place whose parent exists."""
    value_at(values, place[:-1])[place[-1]] = value


def remove_at(values: Any, place: Place) -> None:
    """Remove the value at a place that exists."""
    del value_at(values, place[:-1])[place[-1]]


def drop_empty(values: Any, parents: Iterable[Place]) -> None:
    """Remove those of the given objects and arrays that are empty, the innermost first."""
    for parent in reversed(tuple(parents)):
        if value_at(values, parent) in ({}, []):
            remove_at(values, parent)


def same(one: Any, other: Any) -> bool:
    """Compare the values of configurations, where not-a-number equals itself."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return type(one) is type(other) and bool(one == other)
