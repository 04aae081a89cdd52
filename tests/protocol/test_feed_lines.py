"""A feed's lines: what is written is read again, and what breaks off or is none is said."""

import json
from typing import Any

import pytest

from palace.protocol.federation import DRAWER, Gap, Item, Offer, Read, Unacceptable, Whole
from palace.protocol.feed_lines import (
    LINE_BYTES_MAX,
    ORIGINS_MAX,
    End,
    Header,
    end_line,
    header_line,
    item_line,
    read_lines,
)
from tests.protocol.test_federation import content, position

OURS, EARLIER = "0b" * 16, "1c" * 16
HEADER = Header(palace=OURS, was=(EARLIER,))
ITEMS: list[Item] = [
    Offer(kind=DRAWER, ident="a", at=position(1), says=content("one\ntwo \u2028")),
    Read(position(2)),
    Gap(),
    Offer(kind=DRAWER, ident="b", at=position(3), says=None),
    Whole(position(3)),
]
HEAD = {"feed": 1, "palace": OURS, "was": []}
END = {"end": 0, "damaged": 0, "more": False}


def test_what_is_written_is_read_again() -> None:
    end = End(items=len(ITEMS), damaged=2, more=True)
    lines = [header_line(HEADER), *map(item_line, ITEMS), end_line(end)]
    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
    assert list(read_lines(lines)) == [HEADER, *ITEMS, end]
    assert list(read_lines([*lines, b"what is behind the end"])) == [HEADER, *ITEMS, end]


def test_what_breaks_off_is_read_up_to_there() -> None:
    found = read_lines([header_line(HEADER), item_line(ITEMS[0])])
    assert [next(found), next(found)] == [HEADER, ITEMS[0]]
    with pytest.raises(Unacceptable, match="broke off in the middle"):
        next(found)
    with pytest.raises(Unacceptable, match="it says nothing"):
        next(read_lines([]))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([b"Welcome to lab.example.org!"], "no JSON"),
        ([b"[]"], "no object"),
        ([b'{"a": 1, "a": 2}'], "no JSON"),
        ([b" " * (LINE_BYTES_MAX + 1)], "more than 4 MiB"),
        ([b"[" + b"0," * 200_000], "values"),
        ([{"feed": 2}], "no feed of version 1"),
        ([HEAD | {"was": "b"}], "no list of others"),
        ([HEAD | {"was": [OURS] * (ORIGINS_MAX + 1)}], "no list of others"),
        ([HEAD | {"was": [1]}], "of no palace"),
        ([HEAD | {"palace": ""}], "of no palace"),
        ([HEAD | {"palace": "\u00e9" * 32}], "of no palace"),
        ([HEAD | {"palace": "../" * 11}], "of no palace"),
        ([HEAD, HEAD, END], "names nothing"),
        ([HEAD, END | {"end": 1}], "something else"),
        ([HEAD, END | {"damaged": -1}], "something else"),
        ([HEAD, END | {"more": 1}], "something else"),
    ],
)
def test_what_no_feed_says_is_refused(lines: list[Any], why: str) -> None:
    given = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    with pytest.raises(Unacceptable, match=why):
        list(read_lines(given))
