"""Copies of a palace, with its neighbours and its home, whatever keeps its drawers.

A directory is copied to where a test wants it.  Tables of a server are named by the directory's
path: there the palace itself is put back to what it was when it was kept, and its database, too.
"""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from tests.support.processes.clients import Site
from tests.support.stores.nonces import MARKER

DSN = "MEMPALACE_PGVECTOR_DSN"


@attrs.frozen
class Kept:
    """A palace as it was once, from which copies are made."""

    site: Site

    @classmethod
    def of(cls, site: Site) -> "Kept":
        kept = cls(site)
        if kept.is_on_a_server:
            shutil.copytree(site.palace.parent, kept._store)
            kept._make_database(f"{kept._database}_kept", kept._database)
        return kept

    @property
    def is_on_a_server(self) -> bool:
        return (self.site.palace / MARKER).exists() or DSN in self.site.extra

    def copy_to(self, folder: Path) -> Site:
        """Return a copy; the one before it is gone where it is on a server."""
        if not self.is_on_a_server:
            shutil.rmtree(folder / "store", ignore_errors=True)
            shutil.copytree(self.site.palace.parent, folder / "store")
            palace = folder / "store" / "palace"
            # It says where the palace is, and stock opens none that says another place.
            (palace / "milvus_backend.json").unlink(missing_ok=True)
            return Site(home=self.site.home, palace=palace, extra=self.site.extra)
        shutil.rmtree(self.site.palace.parent)
        shutil.copytree(self._store, self.site.palace.parent)
        self._make_database(self._database, f"{self._database}_kept")
        return self.site

    @property
    def _store(self) -> Path:
        return self.site.palace.parent.with_name("kept")

    @property
    def _database(self) -> str:
        return urlsplit(self.site.extra[DSN]).path.lstrip("/")

    def _make_database(self, name: str, template: str) -> None:
        """Make a database as another one is; nobody may be in either."""
        import psycopg
        from psycopg.sql import SQL, Identifier

        server = self.site.extra[DSN].replace(f"/{self._database}?", "/postgres?")
        with psycopg.connect(server, autocommit=True) as session:
            query = (
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
            )
            session.execute(query, [template])
            for query in (
                "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                "CREATE DATABASE {} TEMPLATE {}",
            ):
                session.execute(SQL(query).format(Identifier(name), Identifier(template)))


def tables_with(site: Site, data: bytes) -> list[str]:
    """Return the tables of a site's database of which a row holds these bytes."""
    dsn = site.extra.get(DSN)
    if dsn is None:
        return []
    import numpy as np
    import psycopg
    from psycopg.sql import SQL, Identifier

    found: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as session:
        named = "SELECT relname::text FROM pg_class JOIN pg_attribute ON oid = attrelid"
        named += " WHERE attname = 'embedding' AND relkind = 'r'"
        for (table,) in session.execute(named).fetchall():
            query = "SELECT concat(id, document, metadata), vector_send(embedding) FROM {}"
            for text, vector in session.execute(SQL(query).format(Identifier(table))):
                numbers = np.frombuffer((vector or b"")[4:], dtype=">f4").astype("<f4").tobytes()
                if data in str(text).encode() or data in numbers:
                    found.append(table)
                    break
    return found
