"""The memory that clients make the broker keep: half lines, and replies unread or orphaned.

Each connection has limits of its own, and hundreds of them are too much together.  So what all of
them hold is measured with each tick of the clock; beyond the limit the party that holds most loses
its largest holding, by name, until it is kept.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import attrs

from palace.broker.sessions import Sessions
from palace.broker.telemetry.telemetry import Telemetry
from palace.protocol.budget import Budget

BYTES_MAX = 256 << 20

logger = logging.getLogger("palace.broker")


class BufferHolder(Protocol):
    """What keeps bytes for a client: a connection."""

    @property
    def held_bytes(self) -> int: ...

    def close(self) -> None:
        """Cut it, and keep nothing more."""
        ...


@attrs.frozen(eq=False)
class _Holding:
    party: str
    size: int
    drop: Callable[[], None]


@attrs.define(eq=False, kw_only=True)
class ClientMemory:
    """What all clients of one owner hold; a connection is to be watched from begin to end."""

    sessions: Sessions
    telemetry: Telemetry
    budget: Budget = attrs.field(factory=lambda: Budget("client_bytes", BYTES_MAX))
    _holders: dict[BufferHolder, str] = attrs.field(factory=dict)

    def watch(self, holder: BufferHolder, party: str) -> None:
        self._holders[holder] = party

    def forget(self, holder: BufferHolder) -> None:
        self._holders.pop(holder, None)

    def look(self) -> None:
        """Measure; take from the party that holds most while all hold more than they may."""
        holdings = self._holdings()
        held: dict[str, int] = {}
        for holding in holdings:
            held[holding.party] = held.get(holding.party, 0) + holding.size
        self.budget.measure(held)
        while loser := self.budget.loser():
            largest = max((h for h in holdings if h.party == loser), key=lambda h: h.size)
            holdings.remove(largest)
            self._drop(largest)

    def _holdings(self) -> list[_Holding]:
        found = [
            _Holding(party, size, holder.close)
            for holder, party in self._holders.items()
            if (size := holder.held_bytes)
        ]
        found += [
            _Holding(session.party, size, session.machine.drop_kept)
            for session in self.sessions
            if (size := session.machine.kept_bytes)
        ]
        return found

    def _drop(self, holding: _Holding) -> None:
        text = (
            f"{holding.party} had the broker keep {holding.size >> 20} MiB that it doesn't read or "
            f"doesn't end, and all clients may have {self.budget.limit >> 20} MiB: dropped"
        )
        logger.warning("%s", text)
        self.telemetry.note_error(text)
        holding.drop()
        self.budget.give_back(holding.party, holding.size)
        self.budget.note_shed(holding.party)
