"""Drawers of PostgreSQL by their ids: read by the table's key.

Stock's collection reads the whole table for each of them, and picks out of it: whether a drawer is
there, which each change asks for twice, takes the longer the more drawers there are.  What comes
back is the same, since ids are unique and stock puts its answer into the order of what was asked.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from palace.engine.patches import Patch, need
from palace.engine.stores.pgvector_tables import can_be_stored

if TYPE_CHECKING:
    from palace.engine.stock import JsonObject, Method

NAME = "read_by_ids"


class Client(Protocol):
    """Stock's `_PgVectorClient`, as far as it is used here."""

    def _execute(self, sql: str, params: list[object], *, fetch: bool) -> list[Any] | None: ...


class Collection(Protocol):
    """Stock's `PgVectorCollection`, the same."""

    _client: Client
    _table: str

    def _ensure_open(self) -> None: ...

    def _table_exists(self) -> bool: ...


def patches() -> Iterator[Patch]:
    """Return what reads by ids."""
    from mempalace.backends import pgvector

    quoted: Method = need(pgvector, "_quote_identifier", NAME)
    row_of: Method = need(pgvector._PgVectorClient, "_row", NAME)  # noqa: SLF001

    def reading(stock: "Method") -> "Method":
        def rows(
            collection: Collection,
            *,
            ids: Iterable[object] | None = None,
            where: object = None,
            where_document: object = None,
            with_embedding: bool = False,
        ) -> "list[JsonObject]":
            more = {"where": where, "where_document": where_document}
            if ids is not None and not (where or where_document):
                collection._ensure_open()  # noqa: SLF001
                if collection._table_exists():  # noqa: SLF001
                    return found(collection, ids, with_embedding=with_embedding)
            answer: list[JsonObject] = stock(
                collection, ids=ids, with_embedding=with_embedding, **more
            )
            return answer

        return rows

    def found(
        collection: Collection, ids: Iterable[object], *, with_embedding: bool
    ) -> "list[JsonObject]":
        wanted = sorted({one for one in ids if isinstance(one, str) and can_be_stored(one)})
        if not wanted:
            return []
        columns = "id, document, metadata" + (", embedding" if with_embedding else "")
        query = f"SELECT {columns} FROM {quoted(collection._table)} WHERE id = ANY(%s)"  # noqa: S608, SLF001
        rows = collection._client._execute(query, [wanted], fetch=True)  # noqa: SLF001
        return [
            row_of(row, with_embedding=with_embedding, with_distance=False) for row in rows or []
        ]

    yield Patch(
        name=NAME,
        why="it reads the whole table to find a drawer by its id",
        owner=need(pgvector, "PgVectorCollection", NAME),
        attribute="_rows",
        replace=reading,
    )
