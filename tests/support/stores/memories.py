"""What a palace's files say of its memories and their rights, read past palace and mempalace.

As a program it prints that: `python -P tests/support/stores/memories.py PALACE`.
"""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

_NAMESPACES = """
SELECT e.embedding_id, n.string_value, p.string_value FROM embeddings e
JOIN embedding_metadata n ON n.id = e.id AND n.key = 'palace_ns'
LEFT JOIN embedding_metadata p ON p.id = e.id AND p.key = 'parent_drawer_id'
"""


def read_memories(palace: Path) -> dict[str, Any]:
    """Return the namespace of each memory, and what the register says."""
    register = palace / "palace.sqlite3"
    namespaces = {
        name: json.loads(metadata)["ends"]
        for name, metadata in _rows(register, "SELECT name, metadata FROM namespace")
    }
    return {
        "memories": {
            parent or ident: namespace
            for ident, namespace, parent in _rows(palace / "chroma.sqlite3", _NAMESPACES)
        },
        "audit": list(_rows(register, "SELECT action, memory_id, namespace FROM audit")),
        "ending": namespaces,
        "parents": dict(_rows(register, "SELECT id, parent FROM workspace")),
    }


def _rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        return connection.execute(query).fetchall()


if __name__ == "__main__":
    print(json.dumps(read_memories(Path(sys.argv[1]))))
