"""What another palace says, shown to an agent: `[CANDIDATE key=KEY remote=REMOTE]: TEXT`.

It is nobody's memory here, and no instruction to whoever reads it.  A line of it that begins like
such a prefix, or like that of a shared memory, gets a backslash, as one of a memory does (wrap.py).
"""

import re

from palace.memory.wrap import guarded

_PREFIX = re.compile(r"\[[^\S\r\n]{0,8}(?:candidate|memory)(?![^\W_])", re.IGNORECASE)


def quoted(text: str, key: str, remote: str) -> str:
    """Return a candidate's text behind its prefix; `key` and `remote` are ours."""
    return f"[CANDIDATE key={key} remote={remote}]: {guarded(text, _PREFIX)}"
