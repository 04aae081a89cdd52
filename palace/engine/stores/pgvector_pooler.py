"""Poolers between palace and PostgreSQL, and whether a lock of the database holds behind them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from palace.protocol.errors import StoreUnavailable
from palace.protocol.wire import whole_number

if TYPE_CHECKING:
    import psycopg

    from palace.engine.stores.pgvector_session import Session

PROBES = 10
PROBE_S = 2.0


def said_by(session: "Session", query: str, values: list[object]) -> object:
    row = session.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def refuse_pooler(session: "Session", dsn: str) -> bool:
    """Tell whether there is a pooler; refuse one that lends a session for a transaction alone.

    A lock there holds nothing.

    A server says at the beginning which of its processes serves a session, and says so again when
    it is asked; a pooler says a number of its own.  Where it keeps one process for us, no other
    session ever gets that one, and we get no other.
    """
    ours = said_by(session, "SELECT pg_backend_pid()", [])
    if ours == session.info.backend_pid:
        return False
    with ExitStack() as probes:
        for _ in range(PROBES):
            pid = probes.enter_context(_probe(dsn))
            if pid is None:
                break  # none is free, and ours would have been
            if pid == ours:
                raise lends_sessions()
        for _ in range(PROBES):  # others may have had ours just then
            if said_by(session, "SELECT pg_backend_pid()", []) != ours:
                raise lends_sessions()
    return True


def lends_sessions() -> StoreUnavailable:
    return StoreUnavailable(
        "Between palace and PostgreSQL is a pooler that lends its sessions for single "
        "transactions, so that no lock holds there, and two palaces could write at once. Nothing "
        "was changed. Connect to PostgreSQL itself, or let the pooler keep a session for each "
        "client (PgBouncer: pool_mode = session)"
    )


@contextmanager
def _probe(dsn: str) -> Iterator[int | None]:
    """Yield which process of the server serves another session, None where none is free.

    It is in a transaction until the block ends, so that no other session is lent the same one.
    """
    import select  # where there is a pooler alone

    import psycopg

    with psycopg.connect(dsn, connect_timeout=2) as session:
        link = session.pgconn
        link.send_query(b"BEGIN; SELECT pg_backend_pid()")
        until_s = time.monotonic() + PROBE_S
        while link.is_busy():
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([session.fileno()], [], [], left_s)[0]:
                break
            link.consume_input()
        yield None if link.is_busy() else _pid_in(session)
        link.finish()


def _pid_in(session: "psycopg.Connection") -> int | None:
    """Return the number that a session's queries, which are over, have found."""
    found = None
    while (result := session.pgconn.get_result()) is not None:
        if result.ntuples:
            found = whole_number((result.get_value(0, 0) or b"0").decode())
    return found
