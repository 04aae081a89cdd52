"""Ways in which a palace's stores come to harm while nothing has them open.

Each takes the directory of a palace that corruptions.py has filled; `DAMAGES` names all of them,
with the store that it harms.
"""

import os
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

Damaging = Callable[[Path], None]


def index_of(palace: Path, collection: str = "made") -> Path:
    """Return the directory of a collection's index; that of `made` has been written to disk."""
    query = """
    SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection
    WHERE s.scope = 'VECTOR' AND c.name = ?
    """
    with closing(sqlite3.connect(f"file:{palace}/chroma.sqlite3?mode=ro", uri=True)) as connection:
        return palace / str(connection.execute(query, [collection]).fetchone()[0])


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


def index_gone(palace: Path) -> None:
    shutil.rmtree(index_of(palace))


def index_put_aside(palace: Path) -> None:
    """Do what stock does with an index that it distrusts."""
    index = index_of(palace)
    index.rename(f"{index}.drift-20260101-000000")


def index_emptied(palace: Path) -> None:
    for path in index_of(palace).iterdir():
        os.truncate(path, 0)


def binaries_emptied(palace: Path, collection: str = "made") -> None:
    for path in index_of(palace, collection).glob("*.bin"):
        os.truncate(path, 0)


def index_file_gone(palace: Path, name: str) -> None:
    (index_of(palace) / name).unlink()


def index_file_cut(palace: Path, name: str) -> None:
    cut(index_of(palace) / name)


def links_overwritten(palace: Path) -> None:
    overwrite(index_of(palace) / "data_level0.bin", 4, b"\xff" * 64)


def links_zeroed(palace: Path) -> None:
    overwrite(index_of(palace) / "data_level0.bin", 0, bytes(132))


def vectors_overwritten(palace: Path) -> None:
    overwrite(index_of(palace) / "data_level0.bin", 132, b"\x41" * 1500)


def vectors_mixed_up(palace: Path) -> None:
    """Let each element have its neighbour's vector: the files are as whole as before."""

    def mix(data: bytearray, count: int, size: int, label: int, vector: int) -> None:
        vectors = [data[n * size + vector : n * size + label] for n in range(count)]
        for number, other in enumerate([*vectors[1:], vectors[0]]):
            data[number * size + vector : number * size + label] = other

    _change_elements(palace, mix)


def links_to_themselves(palace: Path) -> None:
    """Let each element lead to itself alone: the files are whole, and nothing is found."""

    def cut_off(data: bytearray, count: int, size: int, _label: int, _vector: int) -> None:
        for number in range(count):
            struct.pack_into("<HHI", data, number * size, 1, 0, number)

    _change_elements(palace, cut_off)


def _change_elements(palace: Path, change: Callable[[bytearray, int, int, int, int], None]) -> None:
    path = index_of(palace) / "data_level0.bin"
    header = (index_of(palace) / "header.bin").read_bytes()
    data = bytearray(path.read_bytes())
    change(data, *struct.unpack_from("=QQQQ", header, 20))
    path.write_bytes(data)


def header_zeroed(palace: Path) -> None:
    overwrite(index_of(palace) / "header.bin", 0, bytes(100))


def older_index(palace: Path) -> None:
    """Let the index know less than the rows, as one that was put back from a copy does."""
    import pickle

    path = index_of(palace) / "index_metadata.pickle"
    known = pickle.loads(path.read_bytes())
    for ident in list(known["id_to_label"])[:20]:
        known["label_to_id"].pop(known["id_to_label"].pop(ident))
    path.write_bytes(pickle.dumps(known, protocol=4))


def database_cut(palace: Path) -> None:
    cut(palace / "chroma.sqlite3")


def pages_zeroed(palace: Path) -> None:
    overwrite(palace / "chroma.sqlite3", 2 * 4096, bytes(4 * 4096))


def pages_overwritten(palace: Path) -> None:
    path = palace / "chroma.sqlite3"
    overwrite(path, path.stat().st_size // 3, bytes(range(256)) * 80)


def no_database(palace: Path) -> None:
    (palace / "chroma.sqlite3").write_bytes(b"this was a database once\n" * 4000)


def gone(palace: Path, name: str) -> None:
    (palace / name).unlink()


def emptied(palace: Path, name: str) -> None:
    os.truncate(palace / name, 0)


def file_cut(palace: Path, name: str) -> None:
    cut(palace / name)


def other_shape(palace: Path, name: str) -> None:
    (palace / name).write_text('{"version": 2}\n')


def forged(name: str, *statements: str) -> Damaging:
    """Return what writes to a database what SQLite takes and its programs never write."""

    def forge(palace: Path) -> None:
        with closing(sqlite3.connect(palace / name)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    return forge


# A table that is one no longer, one that takes nothing, and a row that does more than be there.
_VIEW = ("ALTER TABLE workspace RENAME TO w", "CREATE VIEW workspace AS SELECT * FROM w")
_SHUT = ("DROP TABLE token", "CREATE TABLE token (sha256, CHECK (sha256 IS NULL))")
_TRIGGER = (
    "CREATE TRIGGER t AFTER INSERT ON workspace BEGIN INSERT INTO workspace (id) VALUES (NULL); END"
)
_WORDS = "embedding_fulltext_search"
GRAPH, REGISTER = "knowledge_graph.sqlite3", "palace.sqlite3"
CANDIDATES = "candidates.sqlite3"
TUNNELS, HALLWAYS = "../tunnels.json", "../hallways.json"

INDEX: dict[str, Damaging] = {
    "index-gone": index_gone,
    "index-put-aside": index_put_aside,
    "index-emptied": index_emptied,
    "binaries-emptied": binaries_emptied,
    "data-cut": partial(index_file_cut, name="data_level0.bin"),
    "lengths-cut": partial(index_file_cut, name="length.bin"),
    "levels-gone": partial(index_file_gone, name="link_lists.bin"),
    "header-gone": partial(index_file_gone, name="header.bin"),
    "header-zeroed": header_zeroed,
    "labels-cut": partial(index_file_cut, name="index_metadata.pickle"),
    "labels-gone": partial(index_file_gone, name="index_metadata.pickle"),
    "links-overwritten": links_overwritten,
    "links-zeroed": links_zeroed,
    "vectors-overwritten": vectors_overwritten,
    "older-index": older_index,
}
# The index of words, each with the database as whole as SQLite can tell before 3.44.
WORDS: dict[str, Damaging] = {
    "words-gone": forged("chroma.sqlite3", f"DELETE FROM {_WORDS}_data"),
    "words-cut": forged(
        "chroma.sqlite3",
        f"UPDATE {_WORDS}_data SET block = x'00' WHERE id = (SELECT max(id) FROM {_WORDS}_data)",
    ),
    "words-no-pages": forged("chroma.sqlite3", f"DELETE FROM {_WORDS}_idx"),
    "words-no-sizes": forged("chroma.sqlite3", f"DROP TABLE {_WORDS}_docsize"),
    "words-of-fewer": forged("chroma.sqlite3", f"DELETE FROM {_WORDS} WHERE rowid % 3 = 0"),
    "words-of-others": forged(
        "chroma.sqlite3",
        f"UPDATE {_WORDS} SET string_value = 'other words' WHERE rowid % 5 = 0",
    ),
}
DATABASE: dict[str, Damaging] = {
    "database-cut": database_cut,
    "pages-zeroed": pages_zeroed,
    "pages-overwritten": pages_overwritten,
    "no-database": no_database,
    "database-gone": partial(gone, name="chroma.sqlite3"),
    "database-emptied": partial(emptied, name="chroma.sqlite3"),
}
BESIDE: dict[str, tuple[str, Damaging]] = {
    "graph-gone": ("graph", partial(gone, name=GRAPH)),
    "graph-emptied": ("graph", partial(emptied, name=GRAPH)),
    "graph-cut": ("graph", partial(file_cut, name=GRAPH)),
    "graph-bytes": (
        "graph",
        forged(GRAPH, "INSERT INTO entities (id, name) VALUES ('x', x'00ff')"),
    ),
    "graph-no-text": (
        "graph",
        forged(GRAPH, "UPDATE entities SET name = CAST(x'ff' AS TEXT)"),
    ),
    "graph-no-key": ("graph", forged(GRAPH, "UPDATE triples SET id = NULL WHERE rowid = 1")),
    "log-bytes": (
        "logstream",
        forged("logstream.sqlite3", "UPDATE events SET body = x'00'"),
    ),
    "register-bytes": (
        "register",
        forged(REGISTER, "UPDATE workspace SET id = x'00' WHERE rowid = 1"),
    ),
    "register-no-key": (
        "register",
        forged(REGISTER, "UPDATE workspace SET id = NULL WHERE rowid = 1"),
    ),
    "register-view": ("register", forged(REGISTER, *_VIEW)),
    "register-shut": ("register", forged(REGISTER, *_SHUT)),
    "register-trigger": ("register", forged(REGISTER, _TRIGGER)),
    "log-cut": ("logstream", partial(file_cut, name="logstream.sqlite3")),
    "log-gone": ("logstream", partial(gone, name="logstream.sqlite3")),
    "register-gone": ("register", partial(gone, name=REGISTER)),
    "register-emptied": ("register", partial(emptied, name=REGISTER)),
    "register-cut": ("register", partial(file_cut, name=REGISTER)),
    "candidates-gone": ("candidates", partial(gone, name=CANDIDATES)),
    "candidates-emptied": ("candidates", partial(emptied, name=CANDIDATES)),
    "candidates-cut": ("candidates", partial(file_cut, name=CANDIDATES)),
    "candidates-no-key": ("candidates", forged(CANDIDATES, "UPDATE remote SET name = NULL")),
    "tunnels-gone": ("tunnels", partial(gone, name=TUNNELS)),
    "tunnels-cut": ("tunnels", partial(file_cut, name=TUNNELS)),
    "tunnels-emptied": ("tunnels", partial(emptied, name=TUNNELS)),
    "tunnels-other": ("tunnels", partial(other_shape, name=TUNNELS)),
    "hallways-gone": ("hallways", partial(gone, name=HALLWAYS)),
    "hallways-cut": ("hallways", partial(file_cut, name=HALLWAYS)),
    "hallways-other": ("hallways", partial(other_shape, name=HALLWAYS)),
    "embedder-cut": ("files", partial(file_cut, name="mempalace_embedder.json")),
    "replica-cut": ("files", partial(file_cut, name="replica.json")),
    "replica-gone": ("files", partial(gone, name="replica.json")),
    "embedder-gone": ("files", partial(gone, name="mempalace_embedder.json")),
}
DAMAGES: dict[str, tuple[str, Damaging]] = {
    **{name: ("chroma", damage) for name, damage in {**INDEX, **WORDS, **DATABASE}.items()},
    **BESIDE,
}
