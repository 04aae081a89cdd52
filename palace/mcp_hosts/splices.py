"""Changing a text by splices, so that exactly these changes can be undone."""

from collections.abc import Iterable

import attrs


@attrs.frozen(kw_only=True)
class Splice:
    """At offset `at`, `removed` is replaced by `inserted`.

    In a sequence, each offset refers to the text after the splices before it.
    """

    at: int
    removed: str = ""
    inserted: str = ""


class Unreadable(ValueError):
    """A text that can't be parsed, or can't be edited by a program; has the line and the reason."""

    def __init__(self, text: str, at: int, reason: str) -> None:
        self.line = text.count("\n", 0, at) + 1
        self.reason = reason
        super().__init__(f"line {self.line}: {reason}")

    @property
    def summary(self) -> str:
        """Return in a few words what is wrong, without the reason."""
        return f"can't be parsed (line {self.line})"


def in_order(splices: Iterable[Splice]) -> list[Splice]:
    """Return splices of the same text as a sequence: the last place first."""
    return sorted(splices, key=lambda splice: -splice.at)


def apply(text: str, splices: Iterable[Splice]) -> str:
    """Return the changed text; raises ValueError if it is not the text that the splices fit."""
    for splice in splices:
        text = _exchange(text, splice.at, splice.removed, splice.inserted)
    return text


def undo(text: str, splices: Iterable[Splice]) -> str:
    """Return the text before `apply`."""
    for splice in reversed(tuple(splices)):
        text = _exchange(text, splice.at, splice.inserted, splice.removed)
    return text


def undo_elsewhere(text: str, splices: Iterable[Splice]) -> str | None:
    """Undo splices in a text that has changed around them; None if they aren't found."""
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
    """Return the line ending that a text uses."""
    end = text.find("\n")
    return "\r\n" if end > 0 and text[end - 1] == "\r" else "\n"


def indent_at(text: str, at: int) -> str:
    """Return the indentation of the line that contains an offset."""
    start = text.rfind("\n", 0, at) + 1
    end = start
    while end < len(text) and text[end] in " \t":
        end += 1
    return text[start : min(end, at)]


def begins_line(text: str, at: int) -> bool:
    """Tell whether only white space precedes an offset in its line."""
    return not text[text.rfind("\n", 0, at) + 1 : at].strip(" \t")
