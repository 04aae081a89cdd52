"""Memories of others, marked as such: `[MEMORY id=ID scope=SCOPE ns=NS]: CONTENT`.

Whoever reads a shared memory must see where it begins and whose it is.  A prefix alone could be
forged by a line of the content, so a line that begins like one, to whatever reads it, gets a
backslash; one that begins with backslashes before it gets one more, so that nothing is lost.
"""

import re

from palace.memory.views import view_of
from palace.protocol.errors import InvalidMemory
from palace.protocol.policy import DECREED
from palace.protocol.workspaces import ORG, PLUGIN, checked_namespace

ID_CHARS_MAX = 128

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*+")
_PREFIX = re.compile(r"\[[^\S\r\n]{0,8}memory(?![^\W_])", re.IGNORECASE)


def checked_id(text: object) -> str:
    """Return a memory's id; raises InvalidMemory for what is none."""
    if not isinstance(text, str) or len(text) > ID_CHARS_MAX or not _ID.fullmatch(text):
        raise InvalidMemory(
            f"a memory's id must be 1 to {ID_CHARS_MAX} ASCII letters, digits, '_', '.', ':' and "
            "'-', and begin with a letter or a digit. Leave it out to have one made"
        )
    return text


def is_wrapped(namespace: str, which: str) -> bool:
    """Tell whether memories of a namespace that isn't one's own are marked; `which` is a setting's.

    Marked is what an organisation's root decrees, or a program from elsewhere has stored, and by
    default whatever else is shared.
    """
    return which != DECREED or namespace.partition(":")[0] in (ORG, PLUGIN)


def wrap(content: str, ident: str, namespace: str) -> str:
    """Return a memory's content behind its prefix.

    Raises InvalidMemory for an id that is none, WorkspaceRefused for such a namespace.
    """
    scope = checked_namespace(namespace).partition(":")[0].upper()
    return f"[MEMORY id={checked_id(ident)} scope={scope} ns={namespace}]: {guarded(content)}"


def guarded(content: str, prefix: re.Pattern[str] = _PREFIX) -> str:
    """Return a content with a backslash before whatever reads like such a prefix."""
    pieces: list[str] = []
    done = 0
    for place in prefixes_in(content, prefix):
        pieces += (content[done:place], "\\")
        done = place
    pieces.append(content[done:])
    return "".join(pieces)


def prefixes_in(content: str, prefix: re.Pattern[str] = _PREFIX) -> list[int]:
    """Return where brackets stand that a reader may take for those of a prefix, in order.

    They are the first thing on a line but for blanks and backslashes, or hidden characters stand
    before them: some of these move a terminal's cursor to where the line begins.
    """
    view = view_of(content)
    places = []
    for found in prefix.finditer(view.text):
        before = found.start()
        while before and _passed_over(view.text[before - 1]):
            before -= 1
        place, _ = view.span(found.start(), found.end())
        _, shown = view.span(before - 1, before) if before else (0, 0)
        hidden = place - shown > found.start() - before
        if not before or view.text[before - 1] in "\r\n" or hidden:
            places.append(place)
    return places


def _passed_over(character: str) -> bool:
    return character == "\\" or (character.isspace() and character not in "\r\n")
