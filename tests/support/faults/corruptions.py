"""A palace with some of everything, and the ways in which its stores can be damaged."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.calls.mutations import make_project
from tests.support.engines.probe import Probe

MADE = 700
SIZE = 32
SECRET = "The spare key lies under the seventh flowerpot, behind the greenhouse."
LONG_SECRET = "\n\n".join(
    f"Step {n} of the recipe that nobody may know: {n * n}." for n in range(60)
)


def made_vectors() -> list[list[float]]:
    rng = random.Random(7)
    return [[rng.gauss(0, 1) for _ in range(SIZE)] for _ in range(MADE)]


def fill(probe: Probe, root: Path) -> dict[str, str]:
    """File every kind of entity; return the ids of some."""
    probe.tool("mine", source=str(make_project(root, "n1x1z")), wing="mined")
    where = {"wing": "home", "room": "garden"}
    ids = {
        name: probe.tool("add_drawer", content=content, **where)["drawer_id"]
        for name, content in (("secret", SECRET), ("long", LONG_SECRET))
    }
    alike = probe.tool("add_drawer", content=f"Somebody told me: {SECRET} Really!", **where)
    ids["alike"] = alike["drawer_id"]
    for number in range(20):
        probe.tool("add_drawer", wing="w", room=f"r{number % 3}", content=f"Otter {number} dives.")
    probe.tool("diary_write", agent_name="ada", entry="A day like others.")
    probe.tool("kg_add", subject="Ada", predicate="counts", object="otters")
    probe.tool(
        "kg_supersede", subject="Ada", predicate="counts", old_object="otters", new_object="seals"
    )
    probe.tool(
        "create_tunnel", source_wing="w", source_room="r0", target_wing="home", target_room="garden"
    )
    patch = {"content": "--- a\n+++ b\n@@ -1 +1 @@\n-1\n+2\n", "from_agent": "ada", "stream": "s"}
    probe.tool("patch_submit", **patch)
    probe.ask("make_collection", name="made", metadata={"hnsw:space": "cosine"})
    vectors = made_vectors()
    for start in range(0, MADE, 100):
        numbers = range(start, start + 100)
        probe.on_collection(
            "made",
            "upsert",  # stock's `add` finds no table of a second collection of pgvector's
            ids=[f"made-{n}" for n in numbers],
            embeddings=[vectors[n] for n in numbers],
            documents=[f"made document {n}" for n in numbers],
            metadatas=[{"n": n, "odd": n % 2 == 1, "third": n / 3} for n in numbers],
        )
    probe.on_collection("made", "delete", ids=["made-13"])
    for ident, parent in (("lead", ""), ("coder", "lead"), ("gone", "coder")):
        probe.owner("workspace_add", id=ident, parent=parent, cwd=f"/srv/{ident}")
    probe.owner("workspace_move", id="gone", parent="lead")
    probe.owner("workspace_remove", id="gone")
    probe.owner("remote_add", name="desk", address="/srv/desk")
    return ids


# Damage.


def segments_of(palace: Path) -> list[Path]:
    return [path for path in palace.iterdir() if path.is_dir() and path.name.count("-") == 4]


def drawers_of(palace: Path) -> Path:
    """Return the database of drawers, of whichever backend."""
    names = ("chroma.sqlite3", "sqlite_exact.sqlite3", "pgvector_backend.json", "milvus.db")
    return next(palace / name for name in names if (palace / name).exists())


def no_segments(palace: Path) -> None:
    for path in segments_of(palace):
        shutil.rmtree(path)


def damaged_segments(palace: Path) -> None:
    """Write garbage into each file of each segment, and leave one file out."""
    for path in segments_of(palace):
        for number, file in enumerate(sorted(path.iterdir())):
            file.unlink() if number == 1 else file.write_bytes(b"\xff\x00garbage" * 64)


def no_small_file(palace: Path) -> None:
    """Remove a file that stock writes once; which ones there are depends on the backend."""
    names = ("mempalace_embedder.json", "replica.json")
    next(palace / name for name in names if (palace / name).exists()).unlink()


def inside_drawers(palace: Path) -> str:
    """Return the database of drawers, or the largest file of it where it is a directory."""
    files = [path for path in palace.glob("milvus.db/**/*") if path.is_file()]
    largest = max(files, key=lambda path: (path.stat().st_size, path), default=drawers_of(palace))
    return str(largest.relative_to(palace))


def no_drawers(palace: Path) -> None:
    drawers = drawers_of(palace)
    shutil.rmtree(drawers) if drawers.is_dir() else drawers.unlink()


def garbage_in_drawers(palace: Path) -> None:
    garbage_in(inside_drawers(palace))(palace)


def torn_drawers(palace: Path) -> None:
    torn(inside_drawers(palace))(palace)


def no(name: str) -> Callable[[Path], object]:
    return lambda palace: (palace / name).unlink()


def garbage_in(name: str) -> Callable[[Path], object]:
    return lambda palace: (palace / name).write_bytes(b"not what it was" * 999) and None


def torn(name: str) -> Callable[[Path], object]:
    def tear(palace: Path) -> None:
        data = (palace / name).read_bytes()
        half = len(data) // 2
        (palace / name).write_bytes(data[:half] + bytes(len(data) - half))

    return tear


DAMAGES: dict[str, Callable[[Path], object]] = {
    "segments": no_segments,
    "in-segments": damaged_segments,
    "drawers": no_drawers,
    "in-drawers": garbage_in_drawers,
    "half-drawers": torn_drawers,
    "graph": no("knowledge_graph.sqlite3"),
    "in-graph": garbage_in("knowledge_graph.sqlite3"),
    "log": no("logstream.sqlite3"),
    "in-log": garbage_in("logstream.sqlite3"),
    "register": no("palace.sqlite3"),
    "in-register": garbage_in("palace.sqlite3"),
    "candidates": no("candidates.sqlite3"),
    "in-candidates": garbage_in("candidates.sqlite3"),
    "tunnels": no("../tunnels.json"),
    "in-hallways": garbage_in("../hallways.json"),
    "head": no("journal/HEAD.json"),
    "in-head": garbage_in("journal/HEAD.json"),
    "file": no_small_file,
}
CHOICES = [
    (),
    ("segments",),
    ("in-segments",),
    ("drawers",),
    ("half-drawers", "graph"),
    ("segments", "drawers", "graph", "log", "register", "candidates", "tunnels", "head", "file"),
    (
        *("in-segments", "in-drawers", "in-graph", "in-log", "in-register", "in-candidates"),
        *("in-hallways", "in-head"),
    ),
]
# Of one thing, only one kind of damage.
EXCLUSIVE = [{"drawers", "in-drawers", "half-drawers"}, {"segments", "in-segments"}]
EXCLUSIVE += [{name, f"in-{name}"} for name in ("graph", "log", "register", "candidates", "head")]
