"""Ways in which stores lose entries so that their files look whole.

Each takes the directory of a palace that corruptions.py has filled.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.support.faults.damages import GRAPH, REGISTER


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def lose_rows(palace: Path, selected: str) -> None:
    """Delete rows past Chroma, in the tables and not in its index; `selected` is their SELECT."""
    run_sql(
        palace / "chroma.sqlite3",
        f"CREATE TEMP TABLE gone AS {selected}",
        "DELETE FROM embedding_metadata WHERE id IN (SELECT id FROM gone)",
        "DELETE FROM embeddings WHERE id IN (SELECT id FROM gone)",
    )


def lose_drawers(palace: Path) -> None:
    drawers = """
    SELECT e.id FROM embeddings e JOIN segments s ON s.id = e.segment_id
    JOIN collections c ON c.id = s.collection WHERE c.name = 'mempalace_drawers' LIMIT 2
    """
    lose_rows(palace, drawers)


def lose_the_diary(palace: Path) -> None:
    entries = "SELECT id FROM embedding_metadata WHERE key = 'room' AND string_value = 'diary'"
    lose_rows(palace, entries)


def lose_a_collection(palace: Path) -> None:
    of_it = "SELECT id FROM collections WHERE name = 'mempalace_closets'"
    run_sql(
        palace / "chroma.sqlite3",
        f"DELETE FROM segments WHERE collection IN ({of_it})",
        "DELETE FROM collections WHERE name = 'mempalace_closets'",
    )


def lose_a_fact(palace: Path) -> None:
    run_sql(palace / GRAPH, "DELETE FROM triples WHERE rowid = 1")


def lose_somebody(palace: Path) -> None:
    run_sql(palace / GRAPH, "DELETE FROM entities WHERE rowid = 1")


def reset_the_graph(palace: Path) -> None:
    """Put a new, empty file of the same tables in its place."""
    with closing(sqlite3.connect(palace / GRAPH)) as connection:
        tables = [row[0] for row in connection.execute("SELECT sql FROM sqlite_master") if row[0]]
    (palace / GRAPH).unlink()
    run_sql(palace / GRAPH, *tables)


def lose_events(palace: Path) -> None:
    run_sql(palace / "logstream.sqlite3", "DELETE FROM events")


def lose_an_attachment(palace: Path) -> None:
    run_sql(palace / "logstream.sqlite3", "DELETE FROM event_artifacts")


def lose_a_workspace(palace: Path) -> None:
    run_sql(palace / REGISTER, "DELETE FROM workspace WHERE id = 'workspace:lead'")


def lose_tunnels(palace: Path) -> None:
    (palace.parent / "tunnels.json").write_text("[]")


def lose_a_hallway(palace: Path) -> None:
    path = palace.parent / "hallways.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"hallways": told["hallways"][1:]}))


# How it comes about, in which file, and whether another program may have done it on purpose.
LOSSES: dict[str, tuple[Callable[[Path], None], str, bool]] = {
    "drawers": (lose_drawers, "chroma.sqlite3", False),
    "diary": (lose_the_diary, "chroma.sqlite3", False),
    "collection": (lose_a_collection, "chroma.sqlite3", False),
    "fact": (lose_a_fact, GRAPH, False),
    "somebody": (lose_somebody, GRAPH, False),
    "graph": (reset_the_graph, GRAPH, False),
    "events": (lose_events, "logstream.sqlite3", False),
    "attachment": (lose_an_attachment, "logstream.sqlite3", False),
    "workspace": (lose_a_workspace, REGISTER, False),
    "tunnels": (lose_tunnels, "tunnels.json", True),
    "hallway": (lose_a_hallway, "hallways.json", True),
}
