"""`GET /palace/v1/feed`, over TLS: what a share's token opens, and nothing else does.

The journal is read as `palace feed` reads it, without the engine and without a lock, in a thread
and piece by piece: what a client doesn't take is not read.  A page ends after so many offers, and
says whether there are more; what is told as a whole is one page, however long it is.
"""

import logging
from collections.abc import Iterator
from functools import partial
from urllib.parse import parse_qsl

import attrs
import trio

from palace.broker.http.exchange import Exchange, Refused
from palace.broker.places import Place, Places
from palace.broker.state import BrokerState
from palace.journal.offering import Scope, offers
from palace.journal.origin import earlier_palaces
from palace.kernel.kernel import Kernel
from palace.ownership.book import Watched, whose_token
from palace.ownership.share_book import Share, read_shares, shares_path
from palace.protocol.budget import Budget
from palace.protocol.decoding import decode_json_once
from palace.protocol.errors import RemoteRefused
from palace.protocol.federation import START, Gap, Offer, Position, Unacceptable, read_position
from palace.protocol.feed_lines import End, Header, end_line, header_line, item_line
from palace.protocol.keyring import ANYBODYS, Keyring

LINES = "application/x-ndjson"
PAGE_OFFERS = 1000
PIECE_BYTES = 65_536
QUERY_CHARS_MAX = 4096
AT_ONCE = 16  # pages
READ_AT_ONCE = 2  # pieces, one of a share's: a journal is read with the interpreter's lock held
RETRY_S = "5"

logger = logging.getLogger("palace.http")


@attrs.define(eq=False, kw_only=True)
class Feeds:
    """One palace's shares; `directory` is where their book is kept, "" for nowhere."""

    journal: str
    palace: str
    directory: str
    kernel: Kernel
    keys: Keyring = ANYBODYS
    places: Places = attrs.field(factory=lambda: Places(Budget("feed_pages", AT_ONCE, reserve=1)))
    _book: Watched[Share] = attrs.field(init=False)
    _readers: trio.CapacityLimiter = attrs.field(
        factory=partial(trio.CapacityLimiter, READ_AT_ONCE)
    )
    _turns: dict[str, trio.Lock] = attrs.field(factory=dict)  # by share

    def __attrs_post_init__(self) -> None:
        self._book = Watched(
            path=shares_path(self.directory) if self.directory else "",
            read=partial(read_shares, self.directory, self.palace, self.kernel),
            kernel=self.kernel,
            note=partial(logger.warning, "%s"),
        )

    @classmethod
    def of(cls, state: BrokerState) -> "Feeds":
        """Return what is shared of the palace that a broker serves."""
        services = state.services
        memory = services.ownership.memory
        keys = memory.keys.ring if memory is not None and memory.keys is not None else ANYBODYS
        made = cls(
            journal=services.ownership.paths.journal,
            palace=services.ownership.palace_id,
            directory=services.guests_directory,
            kernel=services.kernel,
            keys=keys,
        )
        state.telemetry.budgets.append(made.places.budget)
        return made

    def share(self, shown: bytes) -> Share | None:
        """Return the share whose token an Authorization header shows."""
        kind, _, token = shown.decode("latin-1").partition(" ")
        return whose_token(token, self._book.look()) if kind == "Bearer" else None

    def is_known(self, shown: bytes) -> bool:
        return self.share(shown) is not None

    async def serve(self, exchange: Exchange) -> None:
        """Answer a request; raises Refused and Gone."""
        if exchange.header("origin"):
            raise Refused(403, "Pages are not served.")
        shown = exchange.header("authorization").encode("latin-1")
        share = self.share(shown)
        if share is None:
            text = "Show a share's token (palace share new); no other counts here."
            raise Refused(401, text, www_authenticate="Bearer")
        exchange.connection.admit()
        if exchange.method != "GET":
            raise Refused(405, "This path takes GET.", allow="GET")
        await exchange.body(0)
        since = _since(exchange)
        place = self._enter(share, exchange)
        try:
            await self._send(exchange, share, shown, self._pieces(share, since))
        finally:
            self.places.leave(place)

    def _enter(self, share: Share, exchange: Exchange) -> Place:
        """Take a place for a page, of a share that holds much more if there is no other.

        Raises Refused.
        """
        party = f"share {share.name}"
        if not self.places.budget.has_room(party):
            raise Refused(503, f"{AT_ONCE} feeds are read now. Ask again.", retry_after=RETRY_S)
        return self.places.enter(party, exchange.connection.close)

    async def _send(
        self, exchange: Exchange, share: Share, shown: bytes, pieces: Iterator[bytes]
    ) -> None:
        """Send a page; one that can't be told to its end has none, and so is noticed."""
        read = partial(self._read, share, pieces)
        try:
            piece = await read()
        except (RemoteRefused, OSError) as problem:
            logger.warning("the share %s can't be read: %s", share.name, problem)
            text = "The journal here is not whole: see palace doctor there."
            raise Refused(409, text) from None
        await exchange.start_stream(LINES, cache_control="no-store")
        try:
            while piece and self.share(shown) == share:  # not revoked meanwhile
                await exchange.frame(piece)
                piece = await read()
        except (RemoteRefused, OSError) as problem:
            logger.warning("the share %s can't be read further: %s", share.name, problem)
        await exchange.last_event(b"")

    async def _read(self, share: Share, pieces: Iterator[bytes]) -> bytes:
        """Return the next piece, b"" at the end; whoever has one token waits for its own turn."""
        async with self._turns.setdefault(share.name, trio.Lock()):
            return await trio.to_thread.run_sync(partial(next, pieces, b""), limiter=self._readers)

    def _pieces(self, share: Share, since: Position) -> Iterator[bytes]:
        piece = b""
        for line in self._lines(share, since):
            piece += line
            if len(piece) >= PIECE_BYTES:
                yield piece
                piece = b""
        yield piece

    def _lines(self, share: Share, since: Position) -> Iterator[bytes]:
        was = earlier_palaces(self.journal, self.palace, self.kernel, self.keys)
        yield header_line(Header(palace=self.palace, was=was))
        scope, damaged = Scope(wings=share.wings, kinds=share.kinds), list[int]()
        found = offers(self.journal, self.kernel, since, scope, self.keys, told=damaged.append)
        items, is_whole = 0, False
        for item in found:
            items += 1
            is_whole = is_whole or isinstance(item, Gap)
            yield item_line(item)
            if items >= PAGE_OFFERS and not is_whole and isinstance(item, Offer):
                yield end_line(End(items=items, more=True))
                return
        yield end_line(End(items=items, damaged=sum(damaged)))


def _since(exchange: Exchange) -> Position:
    """Return where a page begins; raises Refused."""
    raw = exchange.query.decode("latin-1")
    pairs = parse_qsl(raw, keep_blank_values=True) if len(raw) <= QUERY_CHARS_MAX else [("", "")]
    if not pairs:
        return START
    try:
        ((name, value),) = pairs
        if name != "since":
            raise Unacceptable
        return read_position(decode_json_once(value))
    except ValueError:
        raise Refused(400, "It takes since: a position, as a line of the feed has it.") from None
