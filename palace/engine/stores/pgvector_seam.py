"""The seam under pgvector: a change is worked out, journalled, and then made.

It lies at the lowest class of stock's backend, through which all collections of a process reach
their server.  That class sends a statement once more where its connection was lost: both times it
says the same, so that it doesn't matter whether the first one was committed.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import attrs

from palace.engine.patches import JOURNAL, Patch, Patches
from palace.engine.stores.drawers import PREFIX
from palace.engine.stores.pgvector import PgVector
from palace.engine.stores.pgvector_tables import given_record
from palace.engine.stores.projection import Change, ChangeJournal
from palace.engine.stores.whole_collections import dropped, note_new
from palace.protocol.errors import StoreUnavailable

Stock = Callable[..., Any]  # a method of stock's, whose arguments and result only pass through
Arguments = Mapping[str, Any]  # of such a method, by name
Changes = Callable[[str, Arguments], list[Change]]  # of a collection


class StockConfig(Protocol):
    dsn: str


class StockClient(Protocol):
    """Stock's `_PgVectorClient`, as far as the seam needs it."""

    _config: StockConfig
    _conn: Any


def pgvector_patches(store: PgVector, journal: ChangeJournal) -> Iterator[Patch]:
    """Return what puts the seam into stock's classes."""
    from mempalace.backends.pgvector import PgVectorBackend, _PgVectorClient

    seam = _Seam(store, journal)
    plan = functools.partial(Patch, name=JOURNAL, owner=_PgVectorClient)
    yield plan(
        why="a new collection is journalled at once afterwards",
        attribute="create_table",
        replace=seam.creating,
    )
    yield fence_patch(store)
    changing = {"upsert_rows": seam.put, "delete_rows": seam.deleted, "drop_table": seam.dropped}
    for name, changes in changing.items():
        replace = functools.partial(seam.changing, changes=changes)
        yield plan(why="what it changes is journalled before", attribute=name, replace=replace)
    yield plan(
        why="a table's name may not tell which collection it is of",
        owner=PgVectorBackend,
        attribute="_table_name",
        replace=seam.naming,
    )


def fence_patch(store: PgVector) -> Patch:
    """Return what has stock's own sessions hold the right to write."""
    from mempalace.backends.pgvector import _PgVectorClient

    return Patch(
        name=JOURNAL,
        why="whoever writes holds the right to",
        owner=_PgVectorClient,
        attribute="_connect",
        replace=functools.partial(_connecting, store),
    )


def fence_off(store: PgVector | None) -> Callable[[], str]:
    """Have the right to write, where there are tables, though nothing is journalled: StoreOwned.

    Returns what tells why that is lost, "" for as long as it isn't.
    """
    if store is None:
        return str
    store.claim()
    Patches().apply([fence_patch(store)])
    return store.lost


def _connecting(store: PgVector, stock: Stock) -> Stock:
    from mempalace.backends.base import BackendError

    @functools.wraps(stock)
    def _connect(client: StockClient) -> Any:
        before = client._conn  # noqa: SLF001
        session = stock(client)
        if session is before or client._config.dsn != store.target.dsn:  # noqa: SLF001
            return session
        try:
            store.admit(session)
        except StoreUnavailable as error:
            client._conn = None  # noqa: SLF001
            session.close()
            raise BackendError(str(error)) from None
        return session

    return _connect


@attrs.frozen
class _Seam:
    """One method for each of stock's, which says what that is about to change."""

    _store: PgVector
    _journal: ChangeJournal

    def changing(self, stock: Stock, *, changes: Changes) -> Stock:
        """Return stock's method with what it changes journalled before."""
        signature = inspect.signature(stock)
        store = self._store

        @functools.wraps(stock)
        def method(client: StockClient, table: str, *args: Any, **options: Any) -> object:
            name = self._name(client, table)
            if name is None:
                return stock(client, table, *args, **options)
            asked = signature.bind(client, table, *args, **options).arguments
            with store.lock:
                note_new(self._store, self._journal, name)
                found = changes(name, asked)

                def make() -> object:
                    made = stock(client, table, *args, **options)
                    store.wrote()
                    return made

                return self._journal.change(store, found, make)

        return method

    def creating(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def create_table(client: StockClient, table: str, dimension: int) -> None:
            stock(client, table, dimension)
            name = self._name(client, table)
            if name is not None:
                with self._store.lock:
                    note_new(self._store, self._journal, name)

        return create_table

    def naming(self, stock: Stock) -> Stock:
        @functools.wraps(stock)
        def table_name(backend: object, *, collection_name: str, **options: Any) -> object:
            table = stock(backend, collection_name=collection_name, **options)
            self._store.note_name(table, collection_name)
            return table

        return table_name

    def _name(self, client: StockClient, table: str) -> str | None:
        return self._store.name_of(client._config.dsn, table)  # noqa: SLF001

    # What each changes.

    def put(self, name: str, asked: Arguments) -> list[Change]:
        new = dict(map(given_record, asked["rows"]))
        kind = PREFIX + name
        old = self._store.read(kind, new)
        return [Change(kind, ident, old.get(ident), {**now}) for ident, now in new.items()]

    def deleted(self, name: str, asked: Arguments) -> list[Change]:
        ids: Sequence[str] | None = asked.get("ids")
        kind = PREFIX + name
        if ids is None:
            ids = self._store.ids_where(kind, asked.get("where"))
        old = self._store.read(kind, ids)
        return [Change(kind, ident, record, None) for ident, record in old.items()]

    def dropped(self, name: str, _asked: Arguments) -> list[Change]:
        return dropped(self._store, name)
