"""The tables of stock's pgvector backend: reading and writing them as stock does.

Each collection is one table: id, document, metadata as JSONB, vector, and when it was written.  The
caller says what is one transaction.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, TypedDict, cast

import attrs

from palace.engine.stores.drawers import RecordPayload, payload, vector_of
from palace.engine.stores.projection import BATCH
from palace.journal.record import JsonObject
from palace.kernel.kernel import Kernel
from palace.protocol.decoding import decode_json
from palace.protocol.errors import ConfigError
from palace.settings.stock_config import read_stock_config

if TYPE_CHECKING:
    from palace.engine.stores.pgvector_session import Session

RECORD = "id, document, metadata::text, vector_send(embedding)"
WORDS = "id, document, metadata::text, NULL::bytea"
_MARK_BYTES_MAX = 65_536
_HEAD_BYTES = 4  # of a vector as pgvector sends it: how many numbers, and a reserve
_XIDS = 1 << 32  # a row holds the lower half of its transaction's number

_CLOCK = """
SELECT coalesce((SELECT system_identifier::text FROM pg_control_system()), ''),
       current_database()::text,
       CASE WHEN pg_is_in_recovery() THEN ''
            ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
       pg_snapshot_xmax(now)::text::bigint, pg_snapshot_xmin(now)::text::bigint
FROM pg_current_snapshot() AS now
"""
_TABLES = """
SELECT c.relname::text, c.oid::bigint,
       substring(format_type(a.atttypid, a.atttypmod) FROM '\\((\\d+)\\)')::int
FROM pg_class c JOIN pg_attribute a
     ON a.attrelid = c.oid AND a.attname = 'embedding' AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p')
      AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND (starts_with(c.relname::text, %s) OR c.relname::text = ANY(%s))
ORDER BY c.oid
"""


class PgCollection(TypedDict):
    """A collection as the journal keeps it: how many numbers its vectors have, None unbounded."""

    dimension: int | None


class Table(NamedTuple):
    """A collection's table; its number tells it from another of the same name."""

    name: str
    number: int
    dimension: int | None


class Clock(NamedTuple):
    """What a server says of itself, of the database and of its transactions.

    `server` and `timeline` name one history: a copy that was put back and a replica that took over
    have another.  `next` is the number of the first transaction that had not ended, and `oldest`
    that of the oldest one that was under way: what was committed later has it or a higher one.
    """

    server: str
    database: str
    timeline: str
    next: int
    oldest: int


@attrs.frozen
class Target:
    """Where a palace's tables are: how their database is reached, and how their names begin.

    `config` is stock's, None for tables that stock doesn't know.
    """

    dsn: str = attrs.field(repr=False)  # it may hold a password
    prefix: str
    config: object = attrs.field(default=None, repr=False)

    @property
    def is_shared(self) -> bool:
        """Tell whether other directories may name the same tables."""
        return bool(getattr(self.config, "shared_namespace", None))

    def made(self, palace: str) -> "Target":
        """Return where a palace makes tables that are to take the place of these.

        Another one may share them, and make its own.
        """
        return Target(self.dsn, f"palace_new_{_digest(self.prefix + palace)}")

    def aside(self, number: str) -> "Target":
        """Return where these go when others take their place."""
        return Target(self.dsn, f"palace_old_{number}_{_digest(self.prefix)}")

    def tables_aside(self, session: "Session") -> list[str]:
        """Return the tables that went aside, under whichever number."""
        ours = re.compile(rf"palace_old_\d+_{_digest(self.prefix)}_")
        found = tables_of(session, "palace_old_", [])
        return [table.name for table in found if ours.match(table.name)]

    def table(self, collection: str) -> str:
        """Return the name of a collection's table."""
        from mempalace.backends.pgvector import _pg_identifier, _slug

        return str(_pg_identifier(f"{self.prefix}_{_slug(collection, 'collection')}"))

    def collection(self, table: str) -> str | None:
        """Return the name of the collection that a table is of, None where it doesn't tell."""
        name = table.removeprefix(f"{self.prefix}_")
        return name if name != table and self.table(name) == table else None


def target_of(root: str, config_dir: str, environ: Mapping[str, str]) -> Target:
    """Return where stock keeps the tables of a palace; raises ConfigError for what it refuses."""
    from mempalace.backends.base import PalaceRef
    from mempalace.backends.pgvector import _DEFAULT_DSN, PgVectorBackend, _PgVectorConfig

    named = read_stock_config(config_dir)

    def said(name: str) -> str:
        variable = environ.get(f"MEMPALACE_PGVECTOR_{name.upper()}")
        return str(variable or named.get(f"pgvector_{name}") or "").strip()

    try:
        config = _PgVectorConfig(
            dsn=said("dsn") or _DEFAULT_DSN,
            namespace=said("namespace") or None,
            shared_namespace=said("shared_namespace") or None,
        )
    except ValueError as error:
        raise ConfigError(f"mempalace's settings of pgvector: {error}") from None
    palace = PalaceRef(id=root, local_path=root)
    prefix = PgVectorBackend()._table_prefix(palace=palace, config=config)  # noqa: SLF001
    return Target(config.dsn, prefix, config)


def is_marked(path: str) -> bool:
    """Tell whether a mark is there whole: stock writes it in place, and may be killed meanwhile."""
    try:
        return isinstance(decode_json(Kernel().read_hint(path, _MARK_BYTES_MAX) or b""), dict)
    except ValueError:
        return False


def mark(root: str, target: Target, directory: str = "") -> None:
    """Have stock know by a file of its own that a palace is in tables, and in which.

    The file is made in `directory`, "" for the palace's own.
    """
    from mempalace.backends.base import PalaceRef
    from mempalace.backends.pgvector import PgVectorBackend

    PgVectorBackend()._write_marker(  # noqa: SLF001
        PalaceRef(id=root, local_path=directory or root), target.config
    )


def can_be_stored(ident: str) -> bool:
    """Tell whether PostgreSQL may have a text like this at all."""
    return "\0" not in ident and not any("\ud800" <= sign <= "\udfff" for sign in ident)


def _digest(prefix: str) -> str:
    return sha256(prefix.encode()).hexdigest()[:16]


def clock_of(session: "Session") -> Clock:
    row = session.execute(_CLOCK).fetchone()
    assert row is not None
    return Clock(*cast("Clock", row))


def tables_of(session: "Session", prefix: str, names: Sequence[str]) -> list[Table]:
    """Return the tables whose names begin with a prefix, or are among these."""
    rows = session.execute(_TABLES, [prefix, list(names)])
    return [Table(*cast("Table", row)) for row in rows]


def create_table(session: "Session", table: str, dimension: int | None) -> None:
    """Make a collection's table as stock does, where there is none."""
    session.execute("CREATE EXTENSION IF NOT EXISTS vector")
    columns = (
        "id text PRIMARY KEY, document text NOT NULL DEFAULT '', "
        "metadata jsonb NOT NULL DEFAULT '{{}}'::jsonb, embedding {}, "
        "updated_at timestamptz"
    )
    from psycopg.sql import SQL, Literal

    vector = SQL("vector")
    if dimension is not None:
        vector = SQL("vector({})").format(Literal(dimension))
    query = _of(table, f"CREATE TABLE IF NOT EXISTS {{table}} ({columns})", vector)
    session.execute(query)


def rename_table(session: "Session", table: str, name: str) -> None:
    from psycopg.sql import Identifier

    session.execute(_of(table, "ALTER TABLE {table} RENAME TO {}", Identifier(name)))


def drop_table(session: "Session", table: str) -> None:
    session.execute(_of(table, "DROP TABLE IF EXISTS {table}"))


def records_of(
    session: "Session", table: str, ids: Sequence[str]
) -> Iterator[tuple[str, RecordPayload]]:
    """Yield records by id."""
    query = _of(table, f"SELECT {RECORD} FROM {{table}} WHERE id = ANY(%s)")
    return map(record_of, session.execute(query, [list(ids)]))


def page_of(
    session: "Session", table: str, columns: str, last: str | None
) -> list[tuple[str, RecordPayload]]:
    """Return a collection's next records behind the one named `last`, in the order of their ids."""
    where, values = ("", []) if last is None else ("WHERE id > %s", [last])
    query = _of(table, f"SELECT {columns} FROM {{table}} {where} ORDER BY id LIMIT {BATCH}")
    return list(map(record_of, session.execute(query, values)))


def ids_of(session: "Session", table: str) -> list[str]:
    return _texts(session, _of(table, "SELECT id FROM {table} ORDER BY id"))


def ids_where(session: "Session", table: str, where: JsonObject | None) -> list[str]:
    """Return the ids of the records that stock deletes for a filter."""
    from mempalace.backends.pgvector import _where_to_sql

    values: list[object] = []
    condition = _where_to_sql(where, values) if where else "TRUE"
    return _texts(session, _of(table, f"SELECT id FROM {{table}} WHERE {condition}"), values)


def ids_since(session: "Session", table: str, since: int) -> list[str]:
    """Return the ids of rows that transactions from number `since` on have written.

    Numbers are compared around the circle, as PostgreSQL compares them: right for as long as fewer
    than 2**31 lie between; beyond that some rows too many are told.
    """
    mask, half = _XIDS - 1, _XIDS >> 1
    age = f"((xmin::text::bigint - %s) & {mask}) < {half}"
    return _texts(session, _of(table, f"SELECT id FROM {{table}} WHERE {age}"), [since & mask])


def ids_there(session: "Session", table: str, ids: Sequence[str]) -> set[str]:
    query = _of(table, "SELECT id FROM {table} WHERE id = ANY(%s)")
    return set(_texts(session, query, [list(ids)]))


def count_of(session: "Session", table: str) -> int:
    row = session.execute(_of(table, "SELECT count(*) FROM {table}")).fetchone()
    assert row is not None
    assert isinstance(row[0], int)
    return row[0]


def delete_records(session: "Session", table: str, ids: Sequence[str]) -> None:
    session.execute(_of(table, "DELETE FROM {table} WHERE id = ANY(%s)"), [list(ids)])


def put_records(session: "Session", table: str, records: Mapping[str, RecordPayload]) -> None:
    """Write whole records, whether they are there or not."""
    from mempalace.backends.pgvector import _json_dumps, _vector_literal

    columns = "id, document, metadata, embedding, updated_at"
    query = _of(
        table,
        f"INSERT INTO {{table}} ({columns}) VALUES (%s, %s, %s::jsonb, %s::vector, now()) "
        "ON CONFLICT (id) DO UPDATE SET document = EXCLUDED.document, "
        "metadata = EXCLUDED.metadata, embedding = EXCLUDED.embedding, "
        "updated_at = EXCLUDED.updated_at",
    )
    rows = [
        (
            ident,
            record["document"] or "",
            _json_dumps(record["metadata"]),
            _vector_literal(vector_of(record)) if record["vector"] else None,
        )
        for ident, record in records.items()
    ]
    with session.cursor() as cursor:
        cursor.executemany(query, rows)


def record_of(row: Sequence[object]) -> tuple[str, RecordPayload]:
    """Return a row's id, and its record."""
    ident, document, metadata, vector = row
    import numpy as np

    sent = vector if isinstance(vector, bytes) else b""
    try:
        said = decode_json(str(metadata))
    except ValueError:
        said = None
    return str(ident), payload(
        str(document),
        said if isinstance(said, dict) else None,
        np.frombuffer(sent[_HEAD_BYTES:], dtype=">f4"),
        None,
    )


def given_record(row: JsonObject) -> tuple[str, RecordPayload]:
    """Return the id and the record that stock makes of what its collection hands it.

    It leaves out what PostgreSQL can't keep; JSONB writes numbers out, so that 1e22 comes back as
    a whole number, and -0.0 as 0.0.
    """
    from mempalace.backends.pgvector import _json_dumps, _strip_nul
    from mempalace.config import strip_lone_surrogates

    text = strip_lone_surrogates(_json_dumps(_strip_nul(row.get("metadata"))))
    metadata = json.loads(text, parse_float=_as_numeric)
    ident, document = (strip_lone_surrogates(_strip_nul(row[key])) for key in ("id", "document"))
    return ident, payload(document, metadata or None, row["embedding"], None)


def _as_numeric(text: str) -> float:
    written = format(Decimal(text), "f")
    return decode_json(written) + 0  # type: ignore[no-any-return]


def _texts(session: "Session", query: object, values: Sequence[object] = ()) -> list[str]:
    # Without values, so that a "%" in a query that has none stands for itself.
    found = session.execute(query, values) if values else session.execute(query)
    return [str(row[0]) for row in found]


def _of(table: str, query: str, *values: object) -> object:
    """Return a query with a table's name in it; what else is in it comes from this file."""
    from psycopg.sql import SQL, Identifier

    return SQL(query).format(*values, table=Identifier(table))
