"""Sources that never answer, and such as only take long."""

from collections.abc import Iterator
from threading import Event

import attrs
import pytest

from palace.commands.patience import CountingKernel, in_time


@attrs.define
class Slow:
    """A source that answers until it was asked so often whether it does; then all is there."""

    looks: int
    ready: Event = attrs.field(factory=Event)
    _seen: int = 0

    @property
    def answers(self) -> int:
        self._seen += 1
        if self._seen == self.looks:
            self.ready.set()
        return self._seen

    def items(self) -> Iterator[int]:
        yield 1
        self.ready.wait()
        yield 2


def test_items_and_errors_come_as_they_are_read() -> None:
    def items() -> Iterator[int]:
        yield from range(1000)
        raise ValueError("no more")

    found = []
    with pytest.raises(ValueError, match="no more"):
        found.extend(in_time(items(), CountingKernel()))
    assert list(in_time(iter("abc"), CountingKernel())) == ["a", "b", "c"]


def test_a_source_that_never_answers_is_left() -> None:
    never = Event()

    def items() -> Iterator[int]:
        yield 1
        never.wait()

    found = in_time(items(), CountingKernel(), 0.01)
    assert next(found) == 1
    with pytest.raises(TimeoutError, match="nothing was read of it"):
        next(found)
    never.set()


def test_a_source_that_takes_long_is_waited_for() -> None:
    slow = Slow(5)
    assert list(in_time(slow.items(), slow, 0.01)) == [1, 2]


def test_what_is_not_wanted_any_more_is_read_no_further() -> None:
    ended = Event()

    def items() -> Iterator[int]:
        try:
            yield from range(100_000)
        finally:
            ended.set()

    found = in_time(items(), CountingKernel())
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert ended.wait(60)
