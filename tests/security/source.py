"""What a fuzzer's bytes stand for: choices, texts, JSON values, and how much work may come of them.

Targets read their input front to back through a `Source`, so that a fuzzer which changes a byte
changes one choice, and one that cuts the input off makes the first choice from there on.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")

# Numbers at which readers change their mind.
NUMBERS: tuple[int | float, ...] = (
    *(0, 1, -1, 2, 255, 4096, 2**31 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 10**19, 10**20 - 1),
    *(10**20, 10**40, 1.0, 0.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    "",
    ".",
    "..",
    "../up",
    "/",
    "a/b",
    "\0",
    "\x1b[2J",
    "\ud800",
    "é",
    "\U000e0001",
    "0",
    "x" * 5000,
)
NESTED = (10, 90, 300, 900, 980, 2000)  # levels; the interpreter's limit lies between the last ones


class Source:
    """Choices out of bytes; once they are used up each choice is its first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1; at most 65,536 of them are told apart."""
        if limit <= 256:
            return self.byte() % max(1, limit)
        return (self.byte() << 8 | self.byte()) % limit

    def pick(self, options: Sequence[Item]) -> Item:
        return options[self.below(len(options))]

    def raw(self) -> bytes:
        """Return up to 255 bytes; the first says how many."""
        size = self.byte()
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        found, self._at = self._data[self._at :], len(self._data)
        return found

    def text(self) -> str:
        kind = self.byte()
        if kind < len(TEXTS):
            return TEXTS[kind]
        return self.raw().decode("utf-8", "replace")

    def json(self, depth: int = 3) -> Any:
        """Return a JSON value."""
        kind = self.below(12 if depth else 8)
        if kind < 3:
            return (None, False, True)[kind]
        if kind < 5:
            return self.pick(NUMBERS)
        if kind < 7:
            return self.text()
        if kind == 7:
            return self._nested()
        if kind < 10:
            return [self.json(depth - 1) for _ in range(self.below(5))]
        return {self.text(): self.json(depth - 1) for _ in range(self.below(5))}

    def _nested(self) -> Any:
        value: Any = 0
        is_list = self.byte() % 2
        for _ in range(self.pick(NESTED)):
            value = [value] if is_list else {"a": value}
        return value


class TooManySteps(AssertionError):
    """Work has grown out of proportion to the input."""


@contextmanager
def steps_at_most(limit: int) -> Iterator[None]:
    """Fail once this thread has made more than `limit` calls, built-in ones included."""
    left = limit

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        if event in ("call", "c_call"):
            left -= 1
            if left < 0:
                sys.setprofile(before)
                raise TooManySteps(f"more than {limit} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
