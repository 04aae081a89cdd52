"""On whose behalf a record was written: what the payload of an outcome or a unit says in `by`.

`{"client": "claude-code 2.1", "workspace": "", "n": 17}`: the client as it named itself, the
workspace where there is one, and that author's own running number in this palace.  A record is
*written* by its owner, which its code proves; on whose behalf is only what the client said.
"""

from collections.abc import Mapping

import attrs

from palace.journal.record import JsonObject
from palace.journal.schema import SEQ_MAX, object_of
from palace.protocol.decoding import is_number

NAME_CHARS_MAX = 200
# With a number of their own.  A name is whatever a client says, so that there may be any number of
# them; an author that has written nothing for as many others begins with 1 again.
AUTHORS_MAX = 1000


def _shortened(name: str) -> str:
    return name[:NAME_CHARS_MAX]


@attrs.frozen
class Author:
    """A call's author; both "" where none is known."""

    client: str = attrs.field(default="", converter=_shortened)
    workspace: str = attrs.field(default="", converter=_shortened)

    @property
    def name(self) -> str:
        return self.workspace or self.client


NOBODY = Author()


@attrs.define
class Numbers:
    """Each author's last number, the one that wrote last at the end."""

    last: dict[str, int] = attrs.field(factory=dict)

    def next(self, author: Author) -> JsonObject:
        """Return what the author's next closing record says, {} where none is known."""
        if not author.name:
            return {}
        return {"by": {**attrs.asdict(author), "n": self.last.get(author.name, 0) + 1}}

    def note(self, payload: object) -> None:
        """Take a closing record's payload: the number in it is the author's last."""
        told = told_by(payload)
        if told is None:
            return
        author, number = told
        self.last.pop(author.name, None)
        self.last[author.name] = number
        if len(self.last) > AUTHORS_MAX:
            del self.last[next(iter(self.last))]


def told_by(payload: object) -> tuple[Author, int] | None:
    """Return the author that a record's payload names, and its number; None where it doesn't."""
    by = object_of(object_of(payload).get("by"))
    client, workspace, number = by.get("client"), by.get("workspace"), by.get("n")
    if not isinstance(client, str) or not isinstance(workspace, str) or type(number) is not int:
        return None
    author = Author(client, workspace)
    return (author, number) if author.name and is_number(number, SEQ_MAX) else None


def author_text(payload: Mapping[str, object]) -> str:
    """Return the author that a payload names, as people read it; "" where it names none."""
    told = told_by(payload)
    if told is None:
        return ""
    author, number = told
    through = f" through {author.client}" if author.workspace and author.client else ""
    return f"by {author.name}{through}, its {number}"
