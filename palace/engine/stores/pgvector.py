"""The drawers of the backend pgvector as a projection: tables of a PostgreSQL server.

Tables are read and written here on a session of its own, which PostgreSQL keeps apart from stock's.

What tells one state of them from others is what the server says of its own transactions, so that
nothing has to be read at an opening but what has changed.  A row holds the number of the
transaction that wrote it: rows with a number that was not over when the fingerprint was taken were
written since, and where a row has gone, their count tells.  The numbers are those of one history.
A server whose copy was put back, or whose replica took over, has another one, though it may go on
counting from there: what it lacks was lost.
"""

import functools
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import attrs

from palace.engine.stores.drawers import COLLECTION, PGVECTOR, PREFIX, RecordPayload
from palace.engine.stores.pgvector_fence import Fence, Owner, fence_of, fences_at
from palace.engine.stores.pgvector_session import Server, let_in
from palace.engine.stores.pgvector_tables import (
    RECORD,
    WORDS,
    Clock,
    PgCollection,
    Table,
    Target,
    can_be_stored,
    clock_of,
    count_of,
    create_table,
    delete_records,
    drop_table,
    ids_of,
    ids_since,
    ids_there,
    ids_where,
    is_marked,
    mark,
    page_of,
    put_records,
    records_of,
    rename_table,
    tables_of,
)
from palace.engine.stores.projection import BATCH, Change, Unshared, in_batches
from palace.journal.record import Entity, JsonObject, Payload
from palace.journal.tail import Touched
from palace.protocol.errors import StoreUnavailable

if TYPE_CHECKING:
    from palace.engine.stores.pgvector_session import Session

NAMES = ("mempalace_drawers", "mempalace_closets")  # whose tables' names may not tell them
_COMPARABLE = 1 << 31  # transactions, after which a row's number may stand for a later one

logger = logging.getLogger("palace.engine")
_NO_CLOCK = Clock("", "", "", 0, 0)


@attrs.define
class Known:
    """A collection: its table, and how many records it has."""

    table: Table
    records: int


@attrs.define(eq=False)
class PgVector(Unshared):
    """All collections of one palace.  Threads share one, under `lock`.

    Methods raise StoreUnavailable where the server can't be reached, or refuses; a session that the
    server has ended is opened anew, once.
    """

    root: str
    target: Target
    name: str = PGVECTOR
    palace: str = ""  # its identity: what a journal says of another one's tables is not of these
    lock: threading.RLock = attrs.field(factory=threading.RLock)
    drops: int = 0
    _known: dict[str, Known] = attrs.field(factory=dict)  # by name
    _names: dict[str, str] = attrs.field(factory=dict)  # of collections, by that of their table
    _clock: Clock = _NO_CLOCK
    fence: Fence | None = attrs.field(init=False)
    _server: Server = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # Those which only palace knows of are made by whoever holds the palace's directory.
        is_known = self.target.config is not None
        target = self.target
        self.fence = fence_of(target.dsn, target.prefix, self.root) if is_known else None
        self._server = Server(target.dsn, self.fence)
        for name in NAMES:
            self.note_name(self.target.table(name), name)

    @property
    def path(self) -> str:
        """Return the file by which stock knows that a palace is in these tables."""
        return f"{self.root}/pgvector_backend.json"

    def close(self) -> None:
        """End the session; what is called afterwards opens another one."""
        self._server.close()

    # The right to write.

    def claim(self) -> None:
        """Have the right to write the tables, in a new epoch; raises StoreOwned."""
        if self.fence is not None:
            self._server.run(self.fence.take)
            self.fence.keeper = self._server  # whose session would end with this store

    def admit(self, session: "Session") -> None:
        """Let a session that stock has opened write; raises StoreUnavailable."""
        let_in(session, self.fence)

    def lost(self) -> str:
        """Return why this process may not write any longer, "" where it may."""
        return self.fence.lost if self.fence is not None else ""

    def owner(self) -> Owner | None:
        """Return whose the tables are, or were last; None where nobody ever asked for them."""
        fence = self.fence
        return None if fence is None else self._server.run(fence.owner)

    def kinds(self) -> tuple[str, ...]:
        return (COLLECTION, *(PREFIX + name for name in self._known))

    def owns(self, kind: str) -> bool:
        return kind == COLLECTION or kind.startswith(PREFIX)

    # Reading and writing past the journal.

    def read(self, kind: str, ids: Iterable[str]) -> dict[str, Payload]:
        wanted = [ident for ident in ids if can_be_stored(ident)]
        if not wanted:
            return {}
        if kind == COLLECTION:
            return {name: model for name in wanted if (model := self._collection(name))}
        return self._server.run(lambda session: self._read_records(session, kind, wanted))

    def _read_records(self, session: "Session", kind: str, ids: list[str]) -> dict[str, Payload]:
        table = self._table_there(session, kind)
        if table is None:
            return {}
        found: dict[str, Payload] = {}
        for part in in_batches(ids):
            found.update(cast("Iterable[tuple[str, Payload]]", records_of(session, table, part)))
        return found

    def _collection(self, name: str) -> PgCollection | None:
        table = self._server.run(lambda session: self._find(session, name))
        return None if table is None else {"dimension": table.dimension}

    def scan(self, kind: str) -> Iterator[tuple[str, Payload]]:
        if kind == COLLECTION:
            yield from self.read(COLLECTION, self._all_names()).items()
            return
        yield from cast("Iterator[tuple[str, Payload]]", self._scan(kind, RECORD))

    def scan_documents(self, kind: str) -> Iterator[tuple[str, RecordPayload]]:
        yield from self._scan(kind, WORDS)

    def _scan(self, kind: str, columns: str) -> Iterator[tuple[str, RecordPayload]]:
        """Yield records in pages: no transaction stays open, which would keep old rows there."""
        last: str | None = None
        while True:
            page = self._server.run(
                functools.partial(self._page, kind=kind, columns=columns, last=last)
            )
            yield from page
            if len(page) < BATCH:
                return
            last = page[-1][0]

    def _page(
        self, session: "Session", *, kind: str, columns: str, last: str | None
    ) -> list[tuple[str, RecordPayload]]:
        table = self._table_there(session, kind)
        return [] if table is None else page_of(session, table, columns, last)

    def rows(self) -> Iterator[tuple[str, str, JsonObject]]:
        """Yield (collection, id, record) for all that is there, whoever has it open."""
        for name in self._all_names():
            for ident, record in self._scan(PREFIX + name, RECORD):
                yield name, ident, {**record}

    def ids(self, kind: str) -> list[str]:
        if kind == COLLECTION:
            return self._all_names()

        def listed(session: "Session") -> list[str]:
            table = self._table_there(session, kind)
            return [] if table is None else ids_of(session, table)

        return self._server.run(listed)

    def ids_where(self, kind: str, where: JsonObject | None) -> list[str]:
        """Return the ids of the records that stock deletes for a filter."""

        def chosen(session: "Session") -> list[str]:
            table = self._table_there(session, kind)
            return [] if table is None else ids_where(session, table, where)

        return self._server.run(chosen)

    def count(self, kind: str) -> int:
        if kind == COLLECTION:
            return len(self._known)
        known = self._known.get(kind.removeprefix(PREFIX))
        return 0 if known is None else known.records

    def write(self, kind: str, changes: Mapping[str, Payload]) -> None:
        if kind == COLLECTION:
            models = cast("Mapping[str, PgCollection | None]", changes)
            self._server.transact(lambda session: self._write_collections(session, models))
        else:
            records = cast("Mapping[str, RecordPayload | None]", changes)
            self._server.transact(lambda session: self._write_records(session, kind, records))
        self.wrote()
        if kind == COLLECTION:
            self._mark()

    def _mark(self) -> None:
        if self.target.config is not None and not is_marked(self.path):
            mark(self.root, self.target)

    def _write_collections(
        self, session: "Session", models: Mapping[str, PgCollection | None]
    ) -> None:
        for name, model in models.items():
            if model is None:
                drop_table(session, self._table_of(name))
            elif self._find(session, name) is None:
                create_table(session, self._table_of(name), model.get("dimension"))

    def _write_records(
        self, session: "Session", kind: str, records: Mapping[str, RecordPayload | None]
    ) -> None:
        kept = {ident: record for ident, record in records.items() if record is not None}
        table = self._table_there(session, kind)
        if table is None:
            if kept:
                raise LookupError(f"no collection {kind.removeprefix(PREFIX)}")
            return
        delete_records(session, table, [ident for ident in records if ident not in kept])
        put_records(session, table, kept)

    def make(self) -> None:
        """Make the store where there is none yet: its tables come with their first records.

        What a rebuild that was killed has left where new ones are made is dropped.
        """
        if self.target.config is None:
            self._server.transact(self._drop_all)
        else:
            self._server.run(clock_of)

    def _drop_all(self, session: "Session") -> None:
        for _, table in self._list(session):
            drop_table(session, table.name)

    def mark_again(self) -> None:
        """Let stock find tables whose mark in the palace's directory was lost."""
        if self._all_names():
            self._mark()

    def put_in_place(self, made: "PgVector", aside: str) -> None:
        """Let the tables of `made` take the place of this palace's, in one transaction.

        These go aside under a number.  Where it is "" they are dropped, and so are all that went
        aside before.
        """
        wanted = [kind for kind in made.kinds() if kind != COLLECTION]

        def swap(session: "Session") -> None:
            new = made._list(session)  # noqa: SLF001
            if wanted and not new:
                # The server has ended the session after all was done; else somebody dropped them.
                if len(self._list(session)) < len(wanted):
                    raise StoreUnavailable(
                        f"The tables {made.target.prefix}_*, which were made to take the place of "
                        f"{self.target.prefix}_*, are gone. Nothing was replaced; ask again."
                    )
                return
            old = self.target.aside(aside)
            for name, table in self._list(session):
                if aside:
                    rename_table(session, table.name, old.table(name))
                else:
                    drop_table(session, table.name)
            for name in () if aside else self.target.tables_aside(session):
                drop_table(session, name)
            for name, table in new:
                rename_table(session, table.name, self.target.table(name))

        self._server.transact(swap)

    def put_aside(self, number: str) -> None:
        """Rename this palace's tables to where old ones go, in one transaction."""
        old = self.target.aside(number)

        def rename(session: "Session") -> None:
            for name, table in self._list(session):
                rename_table(session, table.name, old.table(name))

        self._server.transact(rename)

    # Collections and their tables.

    def note_name(self, table: str, collection: str) -> None:
        """Note which collection a table is of, as its name may not tell."""
        if self.target.table(collection) == table:
            self._names.setdefault(table, collection)

    def name_of(self, dsn: str, table: str) -> str | None:
        """Return the name of a table's collection, None where it is not this palace's."""
        return self._names.get(table) if dsn == self.target.dsn else None

    def knows(self, name: str) -> bool:
        """Tell whether there is a collection of this name, as far as this process has seen."""
        return name in self._known

    def _table_of(self, name: str) -> str:
        return self.target.table(name)

    def _table_there(self, session: "Session", kind: str) -> str | None:
        """Return the name of a kind's table, None where there is none."""
        found = self._find(session, kind.removeprefix(PREFIX))
        return None if found is None else found.name

    def _find(self, session: "Session", name: str) -> Table | None:
        wanted = self._table_of(name)
        tables = tables_of(session, wanted, [wanted])
        return next((table for table in tables if table.name == wanted), None)

    def _all_names(self) -> list[str]:
        return [name for name, _ in self._server.run(self._list)]

    def _list(self, session: "Session") -> list[tuple[str, Table]]:
        """Return this palace's collections with their tables."""
        found: list[tuple[str, Table]] = []
        for table in tables_of(session, f"{self.target.prefix}_", list(self._names)):
            name = self._names.get(table.name) or self.target.collection(table.name)
            if name is not None:
                self.note_name(table.name, name)
                found.append((name, table))
        return found

    # What it looks like.

    def applied(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.kind == COLLECTION:
                self._note_collection(change.id)
                continue
            known = self._known[change.kind.removeprefix(PREFIX)]
            known.records += (change.after is not None) - (change.before is not None)

    def _note_collection(self, name: str) -> None:
        known = self._server.run(lambda session: self._look_at(session, name))
        if known is None:
            self.drops += self._known.pop(name, None) is not None
        elif name not in self._known:
            self._known[name] = known

    def _look_at(self, session: "Session", name: str) -> Known | None:
        table = self._find(session, name)
        return None if table is None else Known(table, count_of(session, table.name))

    def wrote(self) -> None:
        """Note that something was written, by stock or past it: the server has counted on."""
        now = self._server.run(clock_of)
        # The server's history is the one in which this store was opened: what another one lacks is
        # found at the next opening.
        then = self._clock
        self._clock = now._replace(server=then.server, timeline=then.timeline)

    def fingerprint(self) -> JsonObject:
        return {
            **self._clock._asdict(),
            "prefix": self.target.prefix,
            "palace": self.palace,
            "collections": {
                name: [known.table.number, known.records] for name, known in self._known.items()
            },
        }

    def read_fingerprint(self) -> JsonObject:
        # The clock first: what is committed after it counts as written since.
        self._clock = self._server.run(clock_of)
        self.recount()
        return self.fingerprint()

    def recount(self) -> None:
        def counted(session: "Session") -> dict[str, Known]:
            tables = self._list(session)
            return {name: Known(table, count_of(session, table.name)) for name, table in tables}

        self._known = self._server.run(counted)

    def was_replaced(self, baseline: JsonObject) -> bool:
        # A deletion has a number, too: where none was given since, nothing was deleted.
        return (
            not self._is_same_history(baseline)
            or self._clock.next <= baseline["next"]
            or any(
                name not in self._known or self._known[name].table.number != entry[0]
                for name, entry in baseline["collections"].items()
            )
        )

    def is_older(self, baseline: JsonObject) -> bool:
        is_same = self._clock.server == baseline["server"]
        return bool(is_same and self._clock.next < baseline["next"])

    def is_of(self, baseline: "Mapping[str, object] | None") -> bool:
        """Tell whether these are the tables that a journal with such a baseline is of."""
        told = (baseline or {}).get(self.name)
        now = self._server.run(clock_of)
        ours = {
            "palace": self.palace,
            "prefix": self.target.prefix,
            "server": now.server,
            "database": now.database,
        }
        return isinstance(told, dict) and ours.items() <= told.items()

    def check_place(self, baseline: JsonObject) -> None:
        """Raise StoreUnavailable where the journal's tables are others than the settings'.

        Opened so, a palace would look empty, and be written there anew.
        """
        now = self._server.run(clock_of)
        then = [baseline.get(name) for name in ("server", "database", "prefix")]
        if baseline.get("palace") != self.palace:
            return  # it was restored, and has no tables yet
        if then == [now.server, now.database, self.target.prefix]:
            return
        raise StoreUnavailable(
            f"The settings name tables {self.target.prefix}_* in the database {now.database} of "
            f"the PostgreSQL server {now.server}, and the journal of {self.root} is of a palace "
            f"in tables {then[2]}_* in {then[1]} of {then[0]}. Nothing was changed. Name those "
            "(MEMPALACE_PGVECTOR_DSN, MEMPALACE_PGVECTOR_NAMESPACE). If the palace is to be here "
            "from now on, make its tables from the journal: palace stop --hold; palace rebuild "
            "--partial; palace start"
        )

    def _is_same_history(self, baseline: JsonObject) -> bool:
        then = (baseline["server"], baseline["timeline"])
        return then == (self._clock.server, self._clock.timeline)

    def suspects(self, baseline: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        """Look for rows written since the base that aren't ours, and for missing ones."""
        passed = self._clock.next - baseline["oldest"]
        if not self._is_same_history(baseline) or not 0 <= passed < _COMPARABLE:
            return True
        then = {name: entry[0] for name, entry in baseline["collections"].items()}
        ours = {ident for kind, ident in touched if kind == COLLECTION}
        now = {name: known.table.number for name, known in self._known.items()}
        if any(now.get(name) != then.get(name) for name in {*now, *then} if name not in ours):
            return True
        return any(self._differs(name, baseline, touched) for name in now)

    def _differs(self, name: str, baseline: JsonObject, touched: Mapping[Entity, Touched]) -> bool:
        table = self._known[name].table.name
        ours = {ident: was for (kind, ident), was in touched.items() if kind == PREFIX + name}
        if set(self._server.run(lambda s: ids_since(s, table, baseline["oldest"]))) - ours.keys():
            return True
        before = baseline["collections"].get(name, [0, 0])[1]
        then = sum(was.baseline is not None for was in ours.values())
        now = len(self._server.run(lambda s: ids_there(s, table, list(ours))))
        return bool(before - then != self._known[name].records - now)


def release_tables(root: str, *, settled: bool | None) -> None:
    """Give up the right to write, as far as this process has it for the palace in a directory.

    `settled`: its journal has nothing left to make or to take back, None where nobody has looked.
    Sessions are ended.
    """
    for fence in fences_at(root):
        server = fence.keeper or Server(fence.dsn, fence)
        if fence.epoch and not fence.lost:
            try:
                server.run(functools.partial(fence.release, settled=settled), writes=True)
                continue
            except StoreUnavailable as error:
                logger.warning("whose the tables %s_* are stays as it was: %s", fence.prefix, error)
        fence.release(None, settled=False)
