"""The register's file in somebody else's hands: rows, tables and bytes that palace never writes.

Whatever is done to it, its palace is opened, and who works here is what the journal says: nobody
has got a right, and nobody has lost one.
"""

import sqlite3
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

from palace.engine.stores.register import TABLES, TOKEN, WORKSPACE
from palace.protocol.resolver import readable, writable
from tests.security.source import Source
from tests.security.targets.records import scratch
from tests.support.disks.memory import Disk, all_kept
from tests.support.stores.registers import OLD, SHA, Life, awake, opened_whole, token, workspace

DRIVES = (
    "palace.engine.stores.register",
    "palace.engine.stores.rows",
    "palace.engine.durability.reconciliation",
    "palace.protocol.resolver",
)
FILE = "palace.sqlite3"
VALUES: tuple[Any, ...] = (
    *(None, 0, 1, -1, 2**63 - 1, 0.5, float("inf"), b"", b"workspace:me", "", "[]", "[", "{}"),
    *("workspace:me", "workspace:lead", "workspace:coder", "me", "lead", "coder", "active"),
    *("removed", "\0", "x" * 5000, "[" * 2000, '["a"]', SHA, "cd" * 32, "custom:x"),
)
COLUMNS = {
    table: tuple(row)
    for table, row in (("workspace", workspace(OLD)), ("token", token()), ("audit", {"id": ""}))
}
STATEMENTS = (
    *("DROP TABLE {t}", "DELETE FROM {t}", "ALTER TABLE {t} ADD COLUMN more TEXT DEFAULT 'x'"),
    "ALTER TABLE {t} RENAME TO other; CREATE VIEW {t} AS SELECT * FROM other",
    "CREATE TABLE o AS SELECT * FROM {t}; DROP TABLE {t}; ALTER TABLE o RENAME TO {t}",
    "CREATE TRIGGER g AFTER INSERT ON {t} BEGIN INSERT OR IGNORE INTO {t} ({c}) VALUES ({v}); END",
    "CREATE TRIGGER g AFTER DELETE ON {t} BEGIN INSERT OR IGNORE INTO {t} ({c}) VALUES ({v}); END",
    "CREATE TRIGGER g BEFORE DELETE ON {t} BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER g BEFORE INSERT ON {t} BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE UNIQUE INDEX g ON {t} (rowid IS NULL)",
    "DROP TABLE {t}; CREATE TABLE {t} ({c}, CHECK ({c} IS NULL))",
    "DROP TABLE {t}; CREATE TABLE {t} ({c} PRIMARY KEY) WITHOUT ROWID",
    "UPDATE {t} SET {c} = CAST(x'ff' AS TEXT)",
    "PRAGMA user_version = 99",
    "PRAGMA encoding = 'UTF-16'; VACUUM",
    "PRAGMA journal_mode = WAL; DELETE FROM {t}",
)


def one(data: bytes) -> None:
    source = Source(data)
    files, disk = _written()
    with scratch() as base:
        root = Path(base) / "palace"
        root.mkdir()
        for name, content in files.items():
            (root / name).write_bytes(content)
        _attack(root / FILE, source)
        heir = opened_whole(disk.power_cut(all_kept), root, epoch=2)
        _check(heir)
        heir.call("t:1", (WORKSPACE, "workspace:more", workspace("workspace:more", parent="lead")))
        assert "team:lead" in readable(heir.register.tree(), "more")
        _check(opened_whole(heir.disk.power_cut(all_kept), root, epoch=3), more=True)


@cache
def _written() -> tuple[dict[str, bytes], Disk]:
    """Return the files of a palace with a lead, a coder and a token, and its journal's disk."""
    with scratch() as base:
        life = awake(Disk(), Path(base) / "palace")
        coder = workspace("workspace:coder", parent="lead")
        life.call("s:0", (WORKSPACE, OLD, workspace(OLD)), (WORKSPACE, "workspace:coder", coder))
        life.call("s:1", (TOKEN, SHA, token()))
        return {path.name: path.read_bytes() for path in life.root.iterdir()}, life.disk


def _attack(file: Path, source: Source) -> None:
    for _ in range(1 + source.below(3)):
        if source.byte() % 8 == 0:
            _damage_bytes(file, source)
            continue
        with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as connection, connection:
            _change(connection, source)


def _damage_bytes(file: Path, source: Source) -> None:
    content = bytearray(file.read_bytes() if file.exists() else b"")
    for _ in range(1 + source.below(4)):
        at = source.below(len(content) + 1)
        content[at : at + 1] = source.raw()[:8]
    file.write_bytes(
        content[: source.below(len(content) + 1)] if source.byte() % 4 == 0 else content
    )


def _change(connection: sqlite3.Connection, source: Source) -> None:
    table = source.pick(tuple(COLUMNS))
    columns = COLUMNS[table]
    if source.byte() % 3 == 0:
        made = {"t": table, "c": source.pick(columns), "v": source.pick(("NULL", "'workspace:me'"))}
        connection.executescript(source.pick(STATEMENTS).format(**made))
    elif source.byte() % 2:
        values = [source.pick(VALUES) for _ in columns]
        marks = ", ".join("?" for _ in columns)
        names = ", ".join(columns)
        connection.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", values)
    else:
        connection.execute(f"UPDATE {table} SET {source.pick(columns)} = ?", [source.pick(VALUES)])


def _check(life: Life, *, more: bool = False) -> None:
    tree = life.register.tree()
    assert set(tree.workspaces) == {"lead", "coder", *(("more",) if more else ())}
    assert readable(tree, "coder") == ("workspace:coder", "team:lead", "org:lead")
    assert writable(tree, "coder") == ("workspace:coder", "team:lead")
    assert tree.tokens == {SHA: "lead"}
    found = {(kind, ident): row for (kind, ident), row in life.contents.items()}
    memory = {
        (table.kind, ident): row
        for table in TABLES
        for ident, row in life.register.rows(table.kind).items()
    }
    assert {entity: row for entity, row in found.items() if entity in memory} == memory
    assert len(found) == len(memory), "file and memory say the same"
