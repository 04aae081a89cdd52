"""A text as its reader sees it, with the way back to where each character stands.

Secrets and forged prefixes are looked for in a view: without characters that show nothing (NUL,
zero-width and bidirectional ones, lone surrogates, combining marks, colours of a terminal), and
with ASCII letters for their full-width and mathematical look-alikes.  The letters of other
alphabets stay what they are.  What is found is replaced in the text itself.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from functools import lru_cache

import attrs

# Stands in a view for what was replaced before.  No rule accepts it, and no letter folds to it.
STOP = "\ue000"
MARKER = re.compile(r"\[REDACTED:[a-z0-9-]{1,24}\]")

_PLAIN = "\\t\\n\\r -~"  # what stays as it is, in a class of a pattern
_IS_PLAIN = re.compile(f"[{_PLAIN}]*+")
# A colour of a terminal ends no word.  Sequences that carry a text keep it: it may be a secret.
_SPECIAL = re.compile(
    rf"(?P<marker>{MARKER.pattern})|(?P<colour>\x1b\[[0-9;:?]{{0,32}}[A-Za-z])|\x1b|[^{_PLAIN}\x1b]++"
)
_LINE_ENDS = frozenset("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
_SHOWN_AS_NOTHING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufffd")
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Mn", "Me"))

_BREAK = r"(?:\\|=)?(?:\r\n?|\n|\\r\\n|\\n|\\r)[ \t]{0,16}+"
_BREAKS = re.compile(f"(?P<one>{_BREAK})(?P<more>(?>(?:{_BREAK})*))")


@attrs.frozen(eq=False)
class View:
    """What is searched: `text`, and where its characters stand in the source.

    `origin` holds an index into the source for each character, None where they are the same;
    `breaks` the places, in ascending order, before which a line break was taken out.
    """

    text: str
    origin: "array[int] | None" = None
    breaks: "array[int]" = attrs.field(factory=lambda: array("l"))

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where a stretch of the view, which isn't empty, begins and ends in the source."""
        if self.origin is None:
            return start, end
        return self.origin[start], self.origin[end - 1] + 1

    def is_break(self, place: int) -> bool:
        """Tell whether a line break was taken out before this place of the view."""
        found = bisect_left(self.breaks, place)
        return found < len(self.breaks) and self.breaks[found] == place

    def breaks_in(self, start: int, end: int) -> "array[int]":
        """Return the breaks within a stretch of the view, but for one at its very beginning."""
        return self.breaks[bisect_right(self.breaks, start) : bisect_left(self.breaks, end)]


@lru_cache(maxsize=4096)
def _folded(character: str) -> str:
    if character in _LINE_ENDS:
        return "\n"
    if character in _SHOWN_AS_NOTHING or unicodedata.category(character) in _HIDDEN_CATEGORIES:
        return ""
    plain = unicodedata.normalize("NFKC", character)
    if plain == STOP:
        return ""
    return plain if plain.isascii() else character


def view_of(text: str) -> View:
    """Return a text as its reader sees it, line by line."""
    matched = _IS_PLAIN.match(text)
    if matched is not None and matched.end() == len(text) and "[REDACTED:" not in text:
        return View(text)
    pieces: list[str] = []
    origin = array("l")
    done = 0
    for found in _SPECIAL.finditer(text):
        start, end = found.span()
        pieces.append(text[done:start])
        origin.extend(range(done, start))
        done = end
        if found["marker"] is not None:
            pieces.append(STOP)
            origin.append(start)
        elif found["colour"] is None:
            for place, shown in enumerate(map(_folded, found.group()), start):
                pieces.append(shown)
                origin.extend([place] * len(shown))
    pieces.append(text[done:])
    origin.extend(range(done, len(text)))
    return View("".join(pieces), origin)


def unwrapped(view: View) -> View | None:
    """Return a view without its single line breaks, None where it has none.

    A break may be written out (a backslash and an n), be marked as soft by a backslash or an equals
    sign before it, and is followed by indentation.  Blank lines stay: nothing is wrapped over them.
    """
    pieces: list[str] = []
    origin, breaks = array("l"), array("l")
    done, length = 0, 0
    for found in _BREAKS.finditer(view.text):
        start, end = found.span()
        pieces.append(view.text[done:start])
        origin.extend(range(done, start))
        length += start - done
        if found["more"]:
            pieces.append("\n")
            origin.append(start)
            length += 1
        else:
            breaks.append(length)
        done = end
    if not breaks:
        return None
    pieces.append(view.text[done:])
    origin.extend(range(done, len(view.text)))
    if view.origin is not None:
        origin = array("l", map(view.origin.__getitem__, origin))
    return View("".join(pieces), origin, breaks)
