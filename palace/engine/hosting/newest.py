"""The newest of many rows, found by looking at as few as possible.

Chroma sorts nothing, and what it filters costs it the more, the more it lets through; but rows of
some span of time it finds by an index.  So spans are looked at, the latest first and each longer
than the one before, of all memories at first and then of those alone that are wanted.

Pure but for the rows, which are handed in.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Protocol

import attrs

ROWS_MAX = 512  # of one look
FIRST_S, GROWTH = 60, 16
DAY_S = 86_400
LOOKS = 5  # at all rows: about three days
FAR_S = 1 << 40  # later than all that is dated

Row = tuple[str, Mapping[str, object]]


@attrs.frozen
class Span:
    """From `start` on and before `end`, in whole seconds since 1970."""

    start: int
    end: int


class Read(Protocol):
    def __call__(self, span: Span | None, most: int, *, filtered: bool) -> list[Row]:
        """Return at most so many rows of a span, None for any; `filtered`: wanted ones alone."""
        ...


@attrs.frozen(kw_only=True)
class Looking:
    """`within` is where wanted rows can be; `enough` tells whether these rows will do."""

    read: Read
    is_wanted: Callable[[Row], bool]
    enough: Callable[[list[Row]], bool]
    within: Span

    def newest(self, now_s: int) -> list[Row]:
        """Return wanted rows, in no order: all that are newer than the oldest of them."""
        found: list[Row] = []
        end = self._recent(self._last(now_s), found)
        if self.enough(found) or end <= self.within.start:
            return found
        rows = self.read(None, ROWS_MAX + 1, filtered=True)
        if len(rows) <= ROWS_MAX:
            return list(filter(self.is_wanted, rows))
        for span in self._spans(end, end):
            self._look_within(span, found)
            if self.enough(found):
                break
        return found

    def _last(self, now_s: int) -> int:
        """Return a second after which there is no row, by looks at one: the last one's if it's old.

        Where nothing was stored for weeks, spans that begin now would be empty, or all too long.
        """
        old, new = self.within.start, min(now_s, self.within.end)
        if self._is_any(Span(new - DAY_S, self.within.end)):
            return now_s
        while new - old > FIRST_S:
            middle = (old + new) // 2
            if self._is_any(Span(middle, new)):
                old = middle
            else:
                new = middle
        return new

    def _is_any(self, span: Span) -> bool:
        return bool(self.read(span, 1, filtered=False))

    def _recent(self, now_s: int, found: list[Row]) -> int:
        """Add what is wanted of the latest rows; return before which second none was seen."""
        end = self.within.end
        for span in islice(self._spans(end, now_s), LOOKS):
            rows = self.read(span, ROWS_MAX + 1, filtered=False)
            if len(rows) > ROWS_MAX:
                break
            found += filter(self.is_wanted, rows)
            end = span.start
            if self.enough(found):
                break
        return end

    def _spans(self, end: int, now_s: int) -> Iterator[Span]:
        """Yield spans before `end`, the latest first, each longer than the one before."""
        if end > now_s:  # a clock that was put back has dated some in the future
            yield Span(max(now_s, self.within.start), end)
            end = now_s
        length = FIRST_S
        while end > self.within.start:
            start = max(self.within.start, end - length)
            yield Span(start, end)
            end, length = start, length * GROWTH

    def _look_within(self, span: Span, found: list[Row]) -> None:
        """Add what is wanted of a span, the latest first, until it is enough."""
        waiting = [span]
        while waiting and not self.enough(found):
            one = waiting.pop()
            rows = self.read(one, ROWS_MAX + 1, filtered=True)
            middle = (one.start + one.end) // 2
            # Of one second any will do: nobody can tell which came first.
            if len(rows) > ROWS_MAX and middle > one.start:
                waiting += [Span(one.start, middle), Span(middle, one.end)]
            else:
                found += filter(self.is_wanted, rows)
