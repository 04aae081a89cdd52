"""Changing a text by splices, so that exactly this can be changed back."""

from collections.abc import Iterable

import attrs


@attrs.frozen(kw_only=True)
class Splice:
    """At offset `at`, `removed` gives way to `inserted`.

    In a sequence each offset is one in the text that the splices before it have left.
    """

    at: int
    removed: str = ""
    inserted: str = ""


class Unreadable(ValueError):
    """A text that can't be parsed, or not be changed by a program; says in which line and why."""

    def __init__(self, text: str, at: int, reason: str) -> None:
        self.line = text.count("\n", 0, at) + 1
        self.reason = reason
        super().__init__(f"line {self.line}: {reason}")


def in_order(splices: Iterable[Splice]) -> list[Splice]:
    """Return splices of one and the same text as a sequence: the last place first."""
    return sorted(splices, key=lambda splice: -splice.at)


def apply(text: str, splices: Iterable[Splice]) -> str:
    """Return the changed text; raises ValueError where it isn't the one that was meant."""
    for splice in splices:
        text = _exchange(text, splice.at, splice.removed, splice.inserted)
    return text


def undo(text: str, splices: Iterable[Splice]) -> str:
    """Return the text before `apply`."""
    for splice in reversed(tuple(splices)):
        text = _exchange(text, splice.at, splice.inserted, splice.removed)
    return text


def undo_elsewhere(text: str, splices: Iterable[Splice]) -> str | None:
    """Take splices back from a text that has changed around them; None where they aren't found."""
    for splice in reversed(tuple(splices)):
        if not splice.inserted or text.count(splice.inserted) != 1:
            return None
        text = text.replace(splice.inserted, splice.removed)
    return text


def _exchange(text: str, at: int, old: str, new: str) -> str:
    if text[at : at + len(old)] != old:
        raise ValueError(f"other text than expected at offset {at}")
    return text[:at] + new + text[at + len(old) :]


def newline_of(text: str) -> str:
    """Return how lines end in a text."""
    end = text.find("\n")
    return "\r\n" if end > 0 and text[end - 1] == "\r" else "\n"


def indent_at(text: str, at: int) -> str:
    """Return the white space that the line of an offset begins with."""
    start = text.rfind("\n", 0, at) + 1
    end = start
    while end < len(text) and text[end] in " \t":
        end += 1
    return text[start : min(end, at)]


def begins_line(text: str, at: int) -> bool:
    """Tell whether there is nothing but white space before an offset in its line."""
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t")
