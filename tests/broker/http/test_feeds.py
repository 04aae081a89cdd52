"""Pages of a share: who is told something, how long, and how a page that can't be told ends."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from palace.broker.http.exchange import Exchange, Gone, Refused
from palace.broker.http.feeds import AT_ONCE, PIECE_BYTES, READ_AT_ONCE, RETRY_S, Feeds
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership.book import digest_of
from palace.ownership.share_book import Share, shares_path, write_shares
from palace.protocol.federation import Position
from palace.transport.http import HttpConnection
from tests.support.stores.exporter import IDENTITY, export

TOKEN, OTHER = "5e" * 32, "6f" * 32


@attrs.define
class Asking:
    """A client: `pieces` is what it was sent, and `heard` is called with each, as it comes."""

    token: str = TOKEN
    query: bytes = b""
    pieces: list[bytes] = attrs.field(factory=list)
    heard: Any = None
    status: int = 0

    def exchange(self) -> Exchange:
        scope = {
            "method": "GET",
            "path": "/palace/v1/feed",
            "query_string": self.query,
            "headers": [(b"authorization", f"Bearer {self.token}".encode())],
            "state": {"connection": HttpConnection()},
        }
        return Exchange(scope, self.receive, self.send, Counter())

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.status = message.get("status", self.status)
        if body := message.get("body"):
            self.pieces.append(body)
            if self.heard is not None:
                await self.heard(body)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in b"".join(self.pieces).splitlines()]


@pytest.fixture
def feeds(tmp_path: Path) -> Feeds:
    """A palace of several pieces, and a share of all of it."""
    export(tmp_path / "there", {f"{n}": "x" * 1000 for n in range(4 * PIECE_BYTES // 1000)})
    made = Feeds(
        journal=str(tmp_path / "there" / "journal"),
        palace=IDENTITY,
        directory=str(tmp_path),
        kernel=Kernel(),
    )
    share(made, TOKEN)
    return made


def share(feeds: Feeds, token: str) -> None:
    made = Share(name="all", digest=digest_of(token), wings=(), kinds=("drawer",), since="2026")
    write_shares(feeds.directory, IDENTITY, {made.name: made}, feeds.kernel)


async def test_a_page_comes_in_pieces_and_has_an_end(feeds: Feeds) -> None:
    asking = Asking()
    await feeds.serve(asking.exchange())
    assert asking.status == 200
    assert len(asking.pieces) >= 4
    assert max(map(len, asking.pieces)) < 2 * PIECE_BYTES
    *_, read, end = asking.lines()
    assert (list(read), end["more"]) == (["read"], False)


async def test_a_token_opens_the_share_that_it_was_made_for_and_no_other(feeds: Feeds) -> None:
    export(Path(feeds.journal).parent, {"secret": "of the other share"}, epoch=2, wing="v")
    shares = {
        name: Share(name=name, digest=digest_of(token), wings=(wing,), kinds=("drawer",), since="2")
        for name, token, wing in (("one", TOKEN, "w"), ("other", OTHER, "v"))
    }
    write_shares(feeds.directory, IDENTITY, shares, feeds.kernel)
    wings = {}
    for token in (TOKEN, OTHER):
        asking = Asking(token=token)
        await feeds.serve(asking.exchange())
        said = [line["content"] for line in asking.lines() if line.get("content")]
        wings[token] = {one["wing"] for one in said}
        with pytest.raises(Refused) as refused:  # an address names no share
            await feeds.serve(Asking(token=token, query=b"share=other").exchange())
        assert refused.value.status == 400
    assert wings == {TOKEN: {"w"}, OTHER: {"v"}}


async def test_a_share_that_is_revoked_meanwhile_is_told_no_further(feeds: Feeds) -> None:
    async def revoke(_piece: bytes) -> None:
        share(feeds, OTHER)

    asking = Asking(heard=revoke)
    await feeds.serve(asking.exchange())
    assert len(asking.pieces) == 1
    assert "end" not in asking.lines()[-1]
    with pytest.raises(Refused) as refused:
        await feeds.serve(Asking().exchange())
    assert refused.value.status == 401
    await feeds.serve(Asking(token=OTHER).exchange())


async def test_so_many_are_told_at_once_and_those_who_leave_make_room(feeds: Feeds) -> None:
    told = trio.Event()

    async def wait(_piece: bytes) -> None:
        told.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(feeds.serve, Asking(heard=wait).exchange())
            await told.wait()
            told = trio.Event()
        with pytest.raises(Refused) as refused:
            await feeds.serve(Asking().exchange())
        assert (refused.value.status, refused.value.headers) == (503, {"retry_after": RETRY_S})
        nursery.cancel_scope.cancel()
    await feeds.serve(Asking().exchange())

    async def leave(_piece: bytes) -> None:
        raise Gone

    with pytest.raises(Gone):
        await feeds.serve(Asking(heard=leave).exchange())


async def test_pages_that_one_share_does_not_read_keep_no_other_out(feeds: Feeds) -> None:
    """Of the share that holds most the oldest page is cut, and the share is named."""
    made = {
        name: Share(name=name, digest=digest_of(token), wings=(), kinds=("drawer",), since="2")
        for name, token in (("deaf", TOKEN), ("other", OTHER))
    }
    write_shares(feeds.directory, IDENTITY, made, feeds.kernel)
    held = trio.Event()

    async def wait(_piece: bytes) -> None:
        held.set()
        await trio.sleep_forever()

    exchanges = [Asking(heard=wait).exchange() for _ in range(AT_ONCE)]
    async with trio.open_nursery() as nursery:
        for exchange in exchanges:
            nursery.start_soon(_serve_connected, feeds, exchange)
            await held.wait()
            held = trio.Event()
        asking = Asking(token=OTHER)
        await feeds.serve(asking.exchange())
        assert "end" in asking.lines()[-1]
        cut = [one.connection.connected.cancel_called for one in exchanges]
        assert cut == [True] + [False] * (AT_ONCE - 1)
        assert (feeds.places.budget.shed, feeds.places.budget.last_shed) == (1, "share deaf")
        nursery.cancel_scope.cancel()
    assert feeds.places.budget.held == 0


async def _serve_connected(feeds: Feeds, exchange: Exchange) -> None:
    with exchange.connection.connected:
        await feeds.serve(exchange)


async def test_a_share_has_one_piece_read_at_a_time_and_all_have_a_few(
    feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter's lock is held while a journal is read, and the loop waits for it."""
    count, lock = 3, threading.Lock()
    made = {
        f"s{n}": Share(
            name=f"s{n}", digest=digest_of(f"{n}" * 64), wings=(), kinds=("drawer",), since="2"
        )
        for n in range(count)
    }
    write_shares(feeds.directory, IDENTITY, made, feeds.kernel)
    reading, most = Counter[str](), Counter[str]()
    whole = Feeds._pieces

    def pieces(self: Feeds, share: Share, since: Position) -> Iterator[bytes]:
        found, piece = whole(self, share, since), b"first"
        while piece:
            with lock:
                reading.update((share.name, "all"))
                most["all"] = max(most["all"], reading["all"])
                most["one"] = max(most["one"], reading[share.name])
            piece = next(found, b"")
            time.sleep(0.001)
            with lock:
                reading.subtract((share.name, "all"))
            yield piece

    monkeypatch.setattr(Feeds, "_pieces", pieces)
    async with trio.open_nursery() as nursery:
        for n in range(count * 4):
            nursery.start_soon(feeds.serve, Asking(token=f"{n // 4}" * 64).exchange())
    assert most == {"one": 1, "all": READ_AT_ONCE}


async def test_a_journal_that_is_not_whole_is_told_to_nobody_as_a_whole(
    feeds: Feeds, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    stamp = Stamp(epoch=2, writer="there2", origin=IDENTITY)
    journal = Journal.open(feeds.journal, feeds.kernel, stamp)
    journal.roll()
    journal.close()
    export(there, {"late": "late"}, epoch=3)
    Path(list_segments(feeds.journal, feeds.kernel)[0].path).rename(tmp_path / "kept")
    asking = Asking()
    with pytest.raises(Refused) as refused:
        await feeds.serve(asking.exchange())
    assert (refused.value.status, asking.pieces) == (409, [])
    assert str(there) not in refused.value.text


@pytest.mark.parametrize("book", [b"{}", b"[", b'{"v": 1, "palace_id": "x", "shares": [{}]}'])
async def test_by_a_book_that_is_none_nothing_is_shared(feeds: Feeds, book: bytes) -> None:
    assert feeds.is_known(f"Bearer {TOKEN}".encode())
    Path(shares_path(feeds.directory)).write_bytes(book)
    assert not feeds.is_known(f"Bearer {TOKEN}".encode())
    assert not feeds.is_known(b"")
