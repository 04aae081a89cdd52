"""One session with a PostgreSQL server: opened when it is needed, and again where it was ended.

What a server or its driver says may quote the connection string, and with it a password: none of
that is passed on.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import attrs

from palace.protocol.errors import ConfigError, StoreUnavailable

T = TypeVar("T")
CONNECT_S = 10  # unless the connection string says another time
STATEMENT_S = 300  # which the longest of ours, a count of all rows, doesn't take
# A peer that is gone without a word is noticed within half a minute: libpq's seconds, and ms.
ALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_TCP = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}
LOCK_S = 10  # for which a write waits for what another session holds


class Rows(Protocol):
    """What a query has found."""

    def fetchone(self) -> tuple[object, ...] | None: ...

    def __iter__(self) -> Iterator[tuple[object, ...]]: ...


class Cursor(Protocol):
    def executemany(self, query: object, values: Sequence[object]) -> None: ...


class Info(Protocol):
    """What psycopg knows of a connection."""

    @property
    def backend_pid(self) -> int: ...

    def get_parameters(self) -> dict[str, str]: ...


class Session(Protocol):
    """psycopg's connection, as far as it is used here."""

    autocommit: bool

    @property
    def closed(self) -> bool: ...

    @property
    def info(self) -> Info: ...

    def fileno(self) -> int: ...

    def execute(self, query: object, values: Sequence[object] = ...) -> Rows: ...

    def cursor(self) -> AbstractContextManager[Cursor]: ...

    def transaction(self) -> AbstractContextManager[object]: ...

    def close(self) -> None: ...


class Gate(Protocol):
    """Who may write: it raises StoreUnavailable where a session may not, and psycopg's errors."""

    def enter(self, session: Session) -> None: ...


@attrs.define(eq=False)
class Server:
    """A server as one palace uses it.  Threads share its session; it ends with this object.

    `fence` is the right to write: asked for where something is written, None where nobody else
    can know of these tables.
    """

    dsn: str = attrs.field(repr=False)
    fence: "Gate | None" = None
    _lock: threading.RLock = attrs.field(factory=threading.RLock)
    _session: Session | None = None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the session; what is asked afterwards opens another one."""
        with self._lock:
            session, self._session = self._session, None
            if session is not None:
                session.close()

    def run(self, act: Callable[[Session], T], *, writes: bool = False) -> T:
        """Return what `act` makes of the session; a statement alone is a transaction by itself.

        It is called once more where the server has ended the session, as a restart does.  What it
        writes then is the same once more: whether the first time was committed doesn't matter.
        Raises StoreUnavailable where the server can't be reached, or refuses, and where it
        `writes` and another palace has the right to: StoreOwned.
        """
        import psycopg

        with self._lock:
            for is_last in (False, True):
                session = self._opened()
                try:
                    if self.fence is not None and writes:
                        self.fence.enter(session)
                    return act(session)
                except psycopg.Error as error:
                    if is_last or not session.closed:
                        raise _refused(error) from None
        raise AssertionError("the second time returns or raises")

    def transact(self, act: Callable[[Session], T]) -> T:
        """Return what `act` makes of the session in one transaction; else as `run`."""

        def whole(session: Session) -> T:
            with session.transaction():
                return act(session)

        return self.run(whole, writes=True)

    def _opened(self) -> Session:
        if self._session is None or self._session.closed:
            self._session = _open(self.dsn)
        return self._session


def let_in(session: Session, gate: Gate | None) -> None:
    """Let a session that somebody else has opened write; raises StoreUnavailable."""
    import psycopg

    try:
        _look_alive(session)
        before, session.autocommit = session.autocommit, True  # each look sees what is there then
        if gate is not None:
            gate.enter(session)
        session.autocommit = before
    except (psycopg.Error, OSError) as error:
        raise _refused(error) from None


def _look_alive(session: Session) -> None:
    """Have the system notice a peer that is gone, where its connection string doesn't say when."""
    said = session.info.get_parameters()
    with socket.socket(fileno=os.dup(session.fileno())) as connection:
        if connection.family == socket.AF_UNIX:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, option in _TCP.items():
            number = getattr(socket, option, None)  # not every system has all of them
            if number is not None and name not in said:
                connection.setsockopt(socket.IPPROTO_TCP, number, ALIVE[name])


def _open(dsn: str) -> Session:
    import psycopg

    try:
        session: Session = psycopg.connect(**_options(dsn), autocommit=True)
        # A session that the server has not missed yet may hold what a write of ours waits for.
        session.execute(f"SET lock_timeout = '{LOCK_S}s'")
        session.execute(f"SET statement_timeout = '{STATEMENT_S}s'")
    except psycopg.Error as error:
        raise StoreUnavailable(
            f"PostgreSQL, which keeps this palace's drawers, can't be reached: {_said(error)}. "
            "Nothing was changed. See that it runs, and who may connect to it; then ask again."
        ) from None
    return session


def _options(dsn: str) -> Mapping[str, object]:
    """Return what a connection string says; ConfigError where that can't be what was meant.

    A password with a sign of a URI's in it ends early, and the rest of it becomes host or port.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(dsn)
        options: dict[str, object] = {"connect_timeout": CONNECT_S, **ALIVE, **given}
    except psycopg.Error:
        options = {"host": "@"}
    ports = str(options.get("port", "")).replace(",", "")
    if "@" in str(options.get("host", "")) or (ports and not ports.isdecimal()):
        raise ConfigError(
            "The connection string of PostgreSQL (MEMPALACE_PGVECTOR_DSN, or pgvector_dsn in "
            "mempalace's config.json) can't be understood. It is a URI, such as "
            "postgresql://user@host:5432/database; signs of a password that mean something in a "
            "URI are written with a % there. Nothing was changed."
        )
    return options


def _refused(error: Exception) -> StoreUnavailable:
    """Return what the server's refusal means for a palace."""
    from psycopg import errors

    if isinstance(error, errors.ReadOnlySqlTransaction):
        why = "it is read-only, as a replica is. Name the server that may be written"
    elif isinstance(error, errors.UndefinedObject | errors.FeatureNotSupported):
        why = (
            f"{_said(error)}. mempalace needs the extension vector there; let the database's owner "
            "install pgvector, and CREATE EXTENSION vector"
        )
    else:
        why = f"{_said(error)}. Its log says more"
    return StoreUnavailable(f"PostgreSQL, which keeps this palace's drawers, refuses: {why}.")


def _said(error: Exception) -> str:
    """Return what was the matter, in one line without what it quotes of rows."""
    first = (str(error).strip() or type(error).__name__).partition("\n")[0]
    return first.rstrip(".")
