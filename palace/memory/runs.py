"""Runs of characters that belong together, each of which is read once.

Rules that look at a text one after another, and again and again, would take time that grows with
its square. So where a run ends is looked for once for each alphabet, and what a rule asks about a
run's characters is asked about its head.
"""

import re
from functools import cache
from typing import NamedTuple

from palace.memory.views import STOP

HEAD_CHARS = 64

ALNUM, WORD, URL, HEX = "A-Za-z0-9", "A-Za-z0-9_", "A-Za-z0-9_-", "0-9a-fA-F"
UPPER, DIGITS = "A-Z0-9", "0-9"
BASE64 = "A-Za-z0-9+/=_.-"
# In these a full stop belongs to a run where the run goes on after it, unlike that of a sentence.
DOTTED, EDGE = "A-Za-z0-9_=-", "A-Za-z0-9_+/=~%-"
UNQUOTED = f"^\\s\"'`<>|,;&(){{}}{STOP}"  # in a value of an assignment without quotes


@cache
def _pattern(alphabet: str) -> re.Pattern[str]:
    if alphabet in (DOTTED, EDGE):
        return re.compile(rf"(?>(?:[{alphabet}]|\.{{1,2}}(?=[{alphabet}]))*)")
    return re.compile(f"[{alphabet}]*+")


class Finding(NamedTuple):
    """A secret: what it is, and where it begins and ends."""

    kind: str
    start: int
    end: int


class Runs:
    """Where the runs of a text end."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._last: dict[str, tuple[int, int]] = {}

    def end(self, alphabet: str, start: int) -> int:
        """Return where a run of an alphabet ends that goes on at `start`; `start` if none does."""
        begin, end = self._last.get(alphabet, (0, 0))
        if not begin <= start < end:
            found = _pattern(alphabet).match(self.text, start)
            end = found.end() if found is not None else start
            self._last[alphabet] = (start, end)
        return end


def has_letters_and_digits(text: str) -> bool:
    """Tell whether the head of a text has both."""
    head = text[:HEAD_CHARS]
    return any(c.isdigit() for c in head) and any(c.isalpha() for c in head)


def is_filler(text: str) -> bool:
    """Tell whether a text's head stands for a secret: `xxxxxxxx`, `****`, `0000-0000`."""
    head = text[:HEAD_CHARS].lower()
    return len(set(head)) < min(5, (len(head) + 1) // 2)


def looks_random(text: str) -> bool:
    """Tell whether the head of a text looks drawn from an alphabet, and not written by somebody."""
    head = text[:HEAD_CHARS]
    if len(head) < 8 or is_filler(head):
        return False
    rises = sum(a.islower() and b.isupper() for a, b in zip(head, head[1:], strict=False))
    return has_letters_and_digits(head) or rises * 6 >= len(head)
