"""What another palace says in a feed: it is taken as what it is, refused, or stops in the middle.

Whatever it says: what was decided here stays, the cursor never goes back, and what is kept is what
drawers and facts are made of, within its bounds.
"""

from collections.abc import Iterator
from contextlib import suppress

from palace.client.feeds.pieces import lines_of
from palace.protocol.federation import (
    BATCH_OFFERS,
    DRAWER,
    START,
    Item,
    Offer,
    Place,
    Position,
    Unacceptable,
    Version,
    accepted,
    fold,
    read_content,
)
from palace.protocol.feed_lines import LINE_BYTES_MAX, End, Header, item_line, read_lines
from tests.support.machines.puller import Puller

DRIVES = ("palace.protocol.federation", "palace.protocol.feed_lines", "palace.client.feeds.pieces")
PIECE = 97
OURS = (DRAWER, "ours")
_CONTENT = {"text": "what was accepted", "wing": "w", "room": "r"}


def one(data: bytes) -> None:
    """Pull what a feed of these bytes says."""
    puller = _puller()
    before = puller.candidates[OURS]
    pieces = (data[at : at + PIECE] for at in range(0, len(data), PIECE))
    with suppress(Unacceptable):
        for batch in puller.read(_items(lines_of(pieces, LINE_BYTES_MAX))):
            assert len(batch.offers) <= BATCH_OFFERS
    now = puller.candidates[OURS]
    assert (now.decided, now.local) == (before.decided, before.local)
    assert puller.place.position.version >= START.version
    for (kind, _), found in puller.candidates.items():
        if found.says is not None:
            assert read_content(kind, dict(found.says)) == found.says


def _puller() -> Puller:
    """Return a palace that has accepted one candidate."""
    at = Position(version=Version(1, 1), writer="w", origin="o")
    known = fold(None, Offer(kind=DRAWER, ident="ours", at=at, says=_CONTENT))
    assert known is not None
    return Puller(place=Place(), candidates={OURS: accepted(known, "drawer_w_r_1")})


def _items(lines: Iterator[bytes]) -> Iterator[Item]:
    for said in read_lines(lines):
        if isinstance(said, Header | End):
            continue
        assert next(_again(said)) == said
        yield said


def _again(item: Item) -> Iterator[Header | Item | End]:
    head = b'{"feed": 1, "palace": "%b", "was": []}' % (b"0b" * 16)
    found = read_lines([head, item_line(item)])
    next(found)
    yield from found
