"""The lines of `palace feed`, whichever way they come: a header, items, an end that counts them.

A feed that has no end broke off: what came before counts, and the next one goes on from there.

Rule for this file: pure.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from palace.protocol.decoding import decode_json_once, is_number
from palace.protocol.federation import (
    NUMBER_MAX,
    Item,
    Unacceptable,
    item_fields,
    read_item,
)
from palace.protocol.weight import VALUES_MAX, has_too_many_values
from palace.protocol.wire import identity_of

VERSION = 1
LINE_BYTES_MAX = 4 << 20  # a drawer's largest text, with each character of it escaped
ORIGINS_MAX = 64


@attrs.frozen(kw_only=True)
class Header:
    """Whose feed it is; `was` are the identities that this palace had before."""

    palace: str
    was: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class End:
    """So many items were told; `more`: there are others after the last one's position."""

    items: int
    damaged: int = 0
    more: bool = False


def header_line(header: Header) -> bytes:
    """Return the first line of a feed."""
    return _line({"feed": VERSION, "palace": header.palace, "was": list(header.was)})


def item_line(item: Item) -> bytes:
    """Return the line of an item."""
    return _line(item_fields(item))


def end_line(end: End) -> bytes:
    """Return the last line of a feed."""
    return _line({"end": end.items, "damaged": end.damaged, "more": end.more})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def read_lines(lines: Iterable[bytes]) -> Iterator[Header | Item | End]:
    """Yield what a feed's lines say; raises Unacceptable for lines that no feed has."""
    many = -1
    for line in lines:
        fields = _decoded(line)
        if many < 0:
            yield _header(fields)
        elif "end" in fields:
            yield _end(fields, many)
            return
        else:
            yield read_item(fields)
        many += 1
    raise Unacceptable("it broke off in the middle" if many >= 0 else "it says nothing")


def _decoded(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_BYTES_MAX:
        raise Unacceptable(f"a line of it has more than {LINE_BYTES_MAX >> 20} MiB")
    if has_too_many_values(line):
        raise Unacceptable(f"a line of it has more than {VALUES_MAX} values")
    try:
        fields = decode_json_once(line)
    except ValueError:
        raise Unacceptable("a line of it is no JSON") from None
    if not isinstance(fields, dict):
        raise Unacceptable("a line of it is no object")
    return fields


def _header(fields: dict[str, Any]) -> Header:
    if fields.get("feed") != VERSION:
        raise Unacceptable(f"it is no feed of version {VERSION}")
    was = fields.get("was")
    if not isinstance(was, list) or len(was) > ORIGINS_MAX:
        raise Unacceptable("its palace was no list of others before")
    return Header(palace=_identity(fields.get("palace")), was=tuple(map(_identity, was)))


def _identity(given: object) -> str:
    found = identity_of(given.encode()) if isinstance(given, str) and given.isascii() else None
    if not found:
        raise Unacceptable("it is of no palace")
    return found


def _end(fields: dict[str, Any], many: int) -> End:
    told, damaged, more = fields["end"], fields.get("damaged"), fields.get("more")
    if told != many or not is_number(damaged, NUMBER_MAX) or not isinstance(more, bool):
        raise Unacceptable("its end says something else than what came before")
    assert isinstance(damaged, int)
    return End(items=many, damaged=damaged, more=more)
