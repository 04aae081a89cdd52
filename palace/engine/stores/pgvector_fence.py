"""The right to write a palace's tables, which lies where the tables lie: in their database.

Whoever writes holds a lock of the database, shared with the other sessions of its process, and a
row says in which epoch that is, and whose.  To take the right, a process must hold that lock alone
for a moment, which it gets only once no session of the owner before it is left.  A session of an
owner that lost the right can't commit: it has ended, and what takes its place finds another's name
in the row.  No clock is asked.

| what happens | what follows |
|---|---|
| its owner dies, is cut off, or loses its sessions | the server ends them; the lock is free |
| an owner whose sessions were ended comes again | it goes on, if the row is still its own |
| another one took the right meanwhile, or a replica took over | it writes nothing, and leaves |
| its owner's process is stopped | its sessions live: nobody else gets the right |
| its owner ended in the middle | another palace is refused until that one's journal is settled |

The journal is a file on its owner's machine, and a group of changes may have been left half made:
only that journal can take it back.  So an owner says in the row when it leaves nothing open.
"""

import hashlib
import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple, cast

import attrs

from palace.engine.stores.pgvector_pooler import lends_sessions, refuse_pooler, said_by
from palace.engine.stores.pgvector_session import ALIVE
from palace.engine.stores.pgvector_tables import Clock, clock_of
from palace.kernel.kernel import Kernel
from palace.ownership.record import read_record
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreOwned, StoreUnavailable
from palace.protocol.wire import identity_of
from palace.settings.paths import Paths

if TYPE_CHECKING:
    from palace.engine.stores.pgvector_session import Server, Session

TABLE = "palace_owners"
TABLES_NOTE = "tables.owners"
# For which an owner that is about to end, or was ended, is waited for; seconds.
CLAIM_S = 3.0
POLL_S = 0.05
LOCK_S = 5  # for which a session waits while another process looks whether it may have the right
NOTE_BYTES_MAX = 65_536
NOTED = 64  # owners of this directory that are remembered
# By which a server notices that a machine is gone, as soon as we notice that of a server.
_ALIVE = ("keepalives_idle", "keepalives_interval", "keepalives_count")

# {} is the table, with the name of its schema as the server quotes it.
_CREATE = """
CREATE TABLE {} (
    prefix text PRIMARY KEY,
    epoch bigint NOT NULL,
    incarnation text NOT NULL,
    palace text NOT NULL,
    host text NOT NULL,
    place text NOT NULL,
    urls text[] NOT NULL,
    fingerprint text NOT NULL,
    settled boolean NOT NULL,
    since timestamptz NOT NULL
)
"""
_COLUMNS = (
    "epoch, left(incarnation, 64), left(palace, 64), left(host, 255), left(place, 1024), "
    "urls[1:16], left(fingerprint, 200), settled, to_char(since AT TIME ZONE 'UTC', "
    '\'YYYY-MM-DD"T"HH24:MI:SS"Z"\')'
)
_FIND = """
SELECT quote_ident(current_schema()), to_regclass(quote_ident(current_schema()) || %s) IS NOT NULL
"""
_OWNER = f"SELECT {_COLUMNS} FROM {{}} WHERE prefix = %s"  # noqa: S608 - constants of this file
_CLAIM = """
INSERT INTO {} AS o VALUES (%s, 1, %s, %s, %s, %s, %s, %s, false, now())
ON CONFLICT (prefix) DO UPDATE SET epoch = o.epoch + 1, incarnation = EXCLUDED.incarnation,
    palace = EXCLUDED.palace, host = EXCLUDED.host, place = EXCLUDED.place, urls = EXCLUDED.urls,
    fingerprint = EXCLUDED.fingerprint, settled = false, since = now()
RETURNING epoch
"""
_SETTLE = "UPDATE {} SET settled = true WHERE prefix = %s AND incarnation = %s"
# A server's crash must not forget what was said here, whatever its settings are for the rest.
_DURABLY = "SET LOCAL synchronous_commit = on"
# From where we come: a copy of a whole machine has its directory's note, and lives elsewhere.
_HOLDERS = """
SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted AND pid <> pg_backend_pid()
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND objsubid = 1 AND classid::bigint = %s AND objid::bigint = %s
      AND usename = current_user AND client_addr IS NOT DISTINCT FROM inet_client_addr()
"""
_HELD = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
       AND mode = 'ShareLock' AND objsubid = 1 AND classid::bigint = %s AND objid::bigint = %s
"""


# 0: a socket that is a file needs none of it.
_SOONER = """
SELECT set_config(name, %s::text, false) FROM pg_settings WHERE name = %s AND setting::int > %s
"""


class Owner(NamedTuple):
    """Who has the right to write tables, or had it last; `since` is UTC, `urls` are for guests."""

    epoch: int
    incarnation: str
    palace: str
    host: str
    place: str
    urls: list[str]
    fingerprint: str
    settled: bool
    since: str

    @property
    def name(self) -> str:
        """Name it for people."""
        return f"palace {self.palace[:8] or '(without a name)'} on {self.host}, in {self.place}"

    def public_dict(self) -> dict[str, object]:
        """Return what programs may be told: not by what an owner is recognized."""
        told = self._asdict()
        del told["incarnation"], told["fingerprint"]
        return told


@attrs.define(eq=False)
class Fence:
    """The right of one process to write the tables of one palace; threads share it.

    `enter` is called with each new session, in autocommit, before anything is written in it.
    Methods raise StoreOwned where another palace has the right, and psycopg's errors.  `keeper` is
    whose session is kept open for the lock, until it is released.
    """

    dsn: str = attrs.field(repr=False)
    prefix: str
    root: str
    force: bool = False  # past an owner that ended in the middle
    epoch: int = 0  # 0: this process has not asked for the right yet
    lost: str = ""  # why it has it no longer
    keeper: "Server | None" = None
    _schema: str = ""
    _incarnation: str = ""
    _server: tuple[str, str] = ("", "")  # which, and its timeline
    _found_settled: bool = True  # by whoever had the right before
    _is_released: bool = False
    _sessions: "list[Session]" = attrs.field(factory=list)
    _kernel: Kernel = attrs.field(factory=Kernel)
    _lock: threading.RLock = attrs.field(factory=threading.RLock)

    def take(self, session: "Session") -> None:
        """Have the right from here on, in a new epoch unless this process has it already."""
        with self._lock:
            if self.lost:
                self.epoch, self.lost = 0, ""
            self._is_released = False
            self.enter(session)

    def enter(self, session: "Session") -> None:
        """Let a session write: it holds the lock from here to its end."""
        with self._lock:
            if self.lost or self._is_released:
                raise StoreUnavailable(self.lost or f"{self.prefix}_* were just left by this owner")
            if session in self._sessions:
                return
            for name in _ALIVE:
                session.execute(_SOONER, [ALIVE[name], f"tcp_{name}", ALIVE[name]])
            if self.epoch:
                self._come_again(session)
            else:
                self._claim(session)
            # Which the database's own people see of a session.
            name = f"palace epoch {self.epoch} {self._incarnation}"
            session.execute("SELECT set_config('application_name', %s, false)", [name])
            self._sessions = [one for one in self._sessions if not one.closed] + [session]

    def release(self, session: "Session | None", *, settled: bool | None) -> None:
        """Give the right up, and end all sessions; `take` asks for it anew.

        `settled`: this owner's journal has nothing left to make or to take back; None where it has
        not looked, so that this is as it was found.  `session` has entered, None where none can.
        """
        with self._lock:
            is_settled = self._found_settled if settled is None else settled
            if session is not None and self.epoch and not self.lost and is_settled:
                with session.transaction():
                    session.execute(_DURABLY)
                    session.execute(self._of(_SETTLE), [self.prefix, self._incarnation])
            self.epoch, self.lost, self._is_released, self.keeper = 0, "", True, None
            sessions, self._sessions = self._sessions, []
            for one in sessions:
                one.close()

    def owner(self, session: "Session", *, lock: bool = False) -> Owner | None:
        """Return whose the tables are, or were last, None where nobody ever asked.

        `lock`: it stays so until the transaction ends.
        """
        if not self._is_there(session):
            return None
        query = self._of(_OWNER) + (" FOR SHARE" if lock else "")
        row = self._allowed(session, query, [self.prefix])
        return None if row is None else Owner(*cast("Owner", row))

    def is_ours(self, owner: Owner) -> bool:
        """Tell whether it is an owner of this very directory: this process, or one before it."""
        return [self._here(), owner.incarnation] in self._noted()

    # Asking for it.

    def _claim(self, session: "Session") -> None:
        clock = _clock(session)
        is_pooled = refuse_pooler(session, self.dsn)
        if not self._is_there(session):
            self._make_table(session)
        high, low = self._key()
        self._get_alone(session)
        try:
            with session.transaction():
                claimed = self._claim_row(session)
            # Shared from here on; nobody can have it alone between the two.
            session.execute("SELECT pg_advisory_lock_shared(%s)", [_number(high, low)])
            if is_pooled and not said_by(session, _HELD, [high, low]):
                raise lends_sessions()
        finally:
            if not session.closed:
                session.execute("SELECT pg_advisory_unlock(%s)", [_number(high, low)])
        # Only now: a session that ends in the middle has claimed nothing, and asks once more.
        self._server = (clock.server, clock.timeline)
        self._incarnation, self.epoch, self._found_settled = claimed

    def _claim_row(self, session: "Session") -> tuple[str, int, bool]:
        """Write this owner's name; return it with its epoch, and whether all was settled before."""
        owner = self.owner(session)
        is_ours = owner is not None and self.is_ours(owner)
        if owner is not None and not (owner.settled or is_ours or self.force):
            raise self._unsettled(owner)
        paths = Paths(self.root)
        palace = identity_of(self._kernel.read_hint(paths.palace_id, 200)) or ""
        record = read_record(paths, self._kernel)
        urls = [url for url in record.endpoints if url.startswith("wss:")] if record else []
        incarnation = uuid.uuid4().hex
        # Before the row: an owner that dies between the two finds either of them its own.  And none
        # is left out: a replica that takes over may have lost the last ones.
        self._note([[self._here(), incarnation], *self._noted()])
        session.execute(_DURABLY)
        row = self._allowed(
            session,
            self._of(_CLAIM),
            [
                *(self.prefix, incarnation, palace, self._kernel.host_name(), self.root, urls),
                record.fingerprint if record and urls else "",
            ],
        )
        assert isinstance(row, tuple)
        return incarnation, row[0], owner is None or owner.settled

    def _get_alone(self, session: "Session") -> None:
        """Hold the lock alone: no session that may write is left then.  Waits for CLAIM_S."""
        high, low = self._key()
        until_s = time.monotonic() + CLAIM_S
        while not said_by(session, "SELECT pg_try_advisory_lock(%s)", [_number(high, low)]):
            with session.transaction():
                # Nobody becomes the owner while this is looked at.
                owner = self.owner(session, lock=True)
                if owner is not None and self.is_ours(owner):
                    # This directory's own owner before, whose lock on it is ours now: it is dead,
                    # and the server has not missed it yet.
                    _end_sessions(session, high, low)
            if time.monotonic() >= until_s:
                raise self._owned(owner)
            time.sleep(POLL_S)

    def _come_again(self, session: "Session") -> None:
        """Go on in a new session, if the right is still ours."""
        with session.transaction():
            session.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
            session.execute("SELECT pg_advisory_lock_shared(%s)", [_number(*self._key())])
        clock = _clock(session)
        owner = self.owner(session)
        if (clock.server, clock.timeline) != self._server:
            self.lost = (
                "another PostgreSQL server took the place of the one that this palace's drawers "
                "were in, so that they have to be opened anew: what it lacks is in the journal"
            )
        elif owner is None or owner.incarnation != self._incarnation:
            now = "nobody's" if owner is None else f"those of {owner.name}, since {owner.since}"
            self.lost = f"the tables {self.prefix}_* in PostgreSQL are {now}"
        if self.lost:
            session.close()
            raise StoreUnavailable(self.lost)

    def _key(self) -> tuple[int, int]:
        """Return the two halves of the lock's number, as the server lists them."""
        digest = hashlib.sha256(f"{self._schema}.{TABLE}:{self.prefix}".encode()).digest()
        return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")

    # The table.

    def _of(self, query: str) -> str:
        """Return a query of the table that lies where mempalace's lie."""
        return query.format(f"{self._schema}.{TABLE}")

    def _is_there(self, session: "Session") -> bool:
        row = session.execute(_FIND, [f".{TABLE}"]).fetchone()
        assert row is not None
        self._schema = str(row[0])
        return bool(row[1])

    def _make_table(self, session: "Session") -> None:
        from psycopg import errors

        try:
            session.execute(self._of(_CREATE))
        except (errors.DuplicateTable, errors.DuplicateObject, errors.UniqueViolation):
            return  # another palace has just made it
        except errors.InsufficientPrivilege:
            raise self._not_allowed("can't be made", f"CREATE ON SCHEMA {self._schema}") from None

    def _allowed(self, session: "Session", query: str, values: list[object]) -> object:
        """Return a query's first row; raises StoreUnavailable where this user may not."""
        from psycopg import errors

        try:
            return session.execute(query, values).fetchone()
        except errors.InsufficientPrivilege:
            rights = f"SELECT, INSERT, UPDATE ON {self._of('{}')}"
            raise self._not_allowed("is another user's", rights) from None

    def _not_allowed(self, what: str, rights: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"The table {self._of('{}')} in PostgreSQL, by which palaces know whose tables are "
            f"whose, {what}. Nothing was changed. Let its owner, or the database's, grant it: "
            f"GRANT {rights} TO whoever the connection string names."
        )

    # What is remembered of the owners that this directory had: the right of one that died in the
    # middle is its successor's here, whose journal can settle it, and nobody else's.

    @property
    def _note_path(self) -> str:
        return f"{self.root}/{TABLES_NOTE}"

    def _here(self) -> str:
        """Name this directory: a copy of it, with the note, is another one.

        By the inodes of the directory and of its lock, which is made once.  Not by their file
        system or machine: the one has another number after a start, and a container that has the
        directory calls itself otherwise each time.
        """
        ids = map(self._kernel.file_id, (self.root, Paths(self.root).lock))
        return ":".join("" if one is None else str(one[1]) for one in ids)

    def _noted(self) -> list[list[str]]:
        """Return the owners that are noted, each as where it was and its incarnation."""
        data = self._kernel.read_hint(self._note_path, NOTE_BYTES_MAX)
        try:
            found = decode_json(data or b"[]")
        except ValueError:
            return []
        return [one for one in found if isinstance(one, list)] if isinstance(found, list) else []

    def _note(self, owners: list[list[str]]) -> None:
        self._kernel.write_durable(self._note_path, json.dumps(owners[:NOTED]).encode() + b"\n")

    # Refusals.

    def _owned(self, owner: Owner | None) -> StoreOwned:
        if owner is None:
            return StoreOwned(
                f"Another palace is about to open the tables {self.prefix}_* in PostgreSQL. "
                "Nothing was changed. Ask again."
            )
        way = (
            f"it says that it answers guests at {owner.urls[0]}: make a guest's directory there "
            "(palace expose guest), and name it here (palace own --through DIR)"
            if owner.urls
            else "stop that one (palace stop), or let it answer guests (palace expose)"
        )
        return StoreOwned(
            f"The tables {self.prefix}_* in PostgreSQL are those of {owner.name}, since "
            f"{owner.since} (epoch {owner.epoch}): one palace at a time writes them. Nothing was "
            f"changed. To work through it, {way}; or keep this palace's drawers in tables of its "
            "own (MEMPALACE_PGVECTOR_NAMESPACE).",
            owner=owner.public_dict(),
        )

    def _unsettled(self, owner: Owner) -> StoreOwned:
        return StoreOwned(
            f"The tables {self.prefix}_* in PostgreSQL were last those of {owner.name} (epoch "
            f"{owner.epoch}, {owner.since}), which ended in the middle: its journal may have to "
            "take back or to make what is half done. Nothing was changed. Start it there once "
            "(palace start), and stop it; if that machine is gone for good: palace own --force "
            "takes the tables as they are.",
            owner=owner.public_dict(),
        )


_fences: dict[tuple[str, str, str], Fence] = {}
_fences_lock = threading.Lock()


def fence_of(dsn: str, prefix: str, root: str) -> Fence:
    """Return the one fence of this process for a palace's tables."""
    with _fences_lock:
        return _fences.setdefault((dsn, prefix, root), Fence(dsn, prefix, root))


def fences_at(root: str) -> list[Fence]:
    """Return the fences of this process for the palace in a directory."""
    with _fences_lock:
        return [fence for fence in _fences.values() if fence.root == root]


def _clock(session: "Session") -> Clock:
    clock = clock_of(session)
    if not clock.timeline:
        raise StoreUnavailable(
            "PostgreSQL, which keeps this palace's drawers, refuses: it is read-only, as a replica "
            "is. Nothing was changed. Name the server that may be written."
        )
    return clock


def _number(high: int, low: int) -> int:
    number = high << 32 | low
    return number - (1 << 64) if number >= 1 << 63 else number


def _end_sessions(session: "Session", high: int, low: int) -> None:
    """End the sessions of a dead owner; one that this user may not end is waited for."""
    import psycopg

    for (pid,) in list(session.execute(_HOLDERS, [high, low])):
        try:
            with session.transaction():
                session.execute("SELECT pg_terminate_backend(%s)", [pid])
        except psycopg.errors.InsufficientPrivilege:
            continue
