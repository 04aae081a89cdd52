"""A memory: what a drawer is that belongs to a namespace, and how a drawer says so.

What it belongs to is said by its metadata, never by its wing, which plain tools can name.
"""

import math
from collections.abc import Mapping
from datetime import datetime

import attrs

from palace.memory.expiry import NEVER_S, is_expired, parse_expires_at, until_s, written
from palace.memory.wing import wing_of
from palace.memory.wrap import checked_id
from palace.protocol.errors import InvalidMemory, WorkspaceRefused
from palace.protocol.workspaces import checked_namespace

TOPIC = "topic"  # stock's own word, of diary entries
NAMESPACE, KIND, AT, UNTIL, END, PINNED, BY, PROPAGATION, SOURCE = (
    f"palace_{name}"
    for name in ("ns", "kind", "at", "until", "expires_at", "pin", "by", "propagation", "source")
)
ID_PREFIX = "mem-"  # of all memories and of nothing else: stock's ids begin with "drawer_"

Value = str | int | float | bool | None


@attrs.frozen(kw_only=True)
class Memory:
    """`until` is in seconds since 1970; `expires_at` is the same for people, "" for no end.

    `by` is who stored it (`Principal.signature`), "" for the palace's owner; `topic` is a diary
    entry's, `propagation` what its client says of how it spreads, as JSON; `source` whether an
    agent, a program or a person wrote it, "" where that wasn't said.
    `rows` are the ids of the records that hold it, where it comes from a store; `distance` and
    `similarity` say how near it is to what was asked for, None where nothing was.  What is under
    its id and is no memory has no namespace.
    """

    id: str
    namespace: str
    content: str
    kind: str = "memory"
    until: float = NEVER_S
    expires_at: str = ""
    pinned: bool = False
    topic: str = ""
    propagation: str = ""
    source: str = ""
    by: str = ""
    created_at: str = ""
    distance: float | None = None
    similarity: float | None = None
    rows: tuple[str, ...] = ()

    def is_expired(self, now_s: float) -> bool:
        return is_expired(self.until, now_s)


def metadata_of(memory: Memory) -> dict[str, Value]:
    """Return what a memory's drawer says of it, in stock's words and in palace's."""
    told = {TOPIC: memory.topic, PROPAGATION: memory.propagation, SOURCE: memory.source}
    return {
        **{name: value for name, value in told.items() if value},
        "wing": wing_of(memory.namespace),
        "room": memory.kind,
        "source_file": "",
        "added_by": memory.by or "owner",
        "filed_at": memory.created_at,
        "last_modified": memory.created_at,
        NAMESPACE: memory.namespace,
        KIND: memory.kind,
        AT: second_of(memory.created_at),
        UNTIL: memory.until,
        END: memory.expires_at,
        PINNED: memory.pinned,
        BY: memory.by,
    }


def memory_of(ident: str, content: str, metadata: Mapping[str, Value]) -> Memory:
    """Return a drawer as a memory; one that the gate can't have stored is over.

    Whoever can write the stores can write any metadata, and none may keep what is beside it from
    being shown.
    """
    return Memory(
        id=ident,
        namespace=str(metadata.get(NAMESPACE) or ""),
        content=content,
        kind=str(metadata.get(KIND) or ""),
        until=_until_in(ident, metadata),
        expires_at=str(metadata.get(END) or ""),
        pinned=metadata.get(PINNED) is True,
        topic=str(metadata.get(TOPIC) or ""),
        propagation=str(metadata.get(PROPAGATION) or ""),
        source=str(metadata.get(SOURCE) or ""),
        by=str(metadata.get(BY) or ""),
        created_at=str(metadata.get("filed_at") or ""),
    )


def _until_in(ident: str, metadata: Mapping[str, Value]) -> float:
    until = metadata.get(UNTIL)
    if isinstance(until, bool) or not isinstance(until, int | float) or not math.isfinite(until):
        return 0.0
    try:
        checked_namespace(metadata.get(NAMESPACE))
        checked_id(ident)
    except (InvalidMemory, WorkspaceRefused):
        return 0.0
    return float(until)


def second_of(written_at: str) -> int:
    """Return an instant as memories carry it, in whole seconds since 1970; 0 where none is told."""
    return math.floor(until_s(parse_expires_at(written_at))) if written_at else 0


def moment_text(moment: datetime | None) -> str:
    return "" if moment is None else written(moment)
