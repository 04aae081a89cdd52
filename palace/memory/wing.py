"""The wing in which a namespace's memories are filed.

A namespace (`team:core`) can be no wing: a wing's name has no colon, at most 128 characters, and a
letter or a digit at both ends. The map is injective, and its wings are reserved: whoever files into
one by a plain tool would have written into a namespace past its rights.
"""

import hashlib
import re

from palace.memory.views import view_of
from palace.protocol.workspaces import checked_namespace

RESERVED = "ns."

_AS_IT_IS = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,58}[a-z0-9])?")
_NO_LETTERS = re.compile(r"\A[\W_]++")
_HASHED = "x"  # begins no id that stands for itself, so that no id is taken for a digest
_HASH_DIGITS = 40


def wing_of(namespace: str) -> str:
    """Return the wing of a namespace, of its own; raises WorkspaceRefused for what is none."""
    kind, _, ident = checked_namespace(namespace).partition(":")
    if ident.startswith(_HASHED) or not _AS_IT_IS.fullmatch(ident):
        ident = _HASHED + hashlib.sha256(ident.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{RESERVED}{kind}.{ident}"


def is_reserved_wing(name: object) -> bool:
    """Tell whether a wing that a plain tool names is, or passes for, that of a namespace.

    Stock strips names, and makes slugs of some: in lower case, and without underscores at the ends.
    """
    if not isinstance(name, str):
        return False
    shown = view_of(name).text.casefold()
    return _NO_LETTERS.sub("", shown, count=1).startswith(RESERVED)
