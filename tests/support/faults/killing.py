"""Brokers that end themselves at named points, and what has to be true of a palace afterwards."""

import base64
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from tests.support.calls.mutations import CallContext, Mutation, make_project
from tests.support.processes.brokers import make_palace, make_site, status_of, wait_gone, wait_ready
from tests.support.processes.clients import Client, Site, end_brokers
from tests.support.stores.nonces import MARKER, Stores, read_stores

FAILPOINTS = Path(__file__).parent / "failpoints"
POINTS = ("append", "appended", "synced", "apply", "applied", "outcome", "reply")
SUSPICIOUS = ("was changed by another program", "was lost by its store")
UNFINISHED = "was unfinished"

Stage = tuple[str, int]  # a point, and at which of its passes


def is_full() -> bool:
    """Tell whether all combinations are wanted: PALACE_TEST_PROFILE=full."""
    return os.environ.get("PALACE_TEST_PROFILE", "") == "full"


def is_deep() -> bool:
    """Tell whether more is wanted than a person waits for: PALACE_TEST_PROFILE=deep, or full."""
    return is_full() or os.environ.get("PALACE_TEST_PROFILE", "") == "deep"


class Failpoints:
    """Where brokers of a site end themselves (tests/support/faults/failpoints/sitecustomize.py)."""

    def __init__(self, site: Site, directory: Path) -> None:
        directory.mkdir()
        search = [str(FAILPOINTS), os.environ.get("PYTHONPATH", "")]
        site.extra["PYTHONPATH"] = os.pathsep.join(filter(None, search))
        site.extra["PALACEKILLS"] = str(directory)
        self._armed = directory / "armed"
        self._trace = directory / "trace"
        self._tokens = itertools.count()

    def arm(self, *stages: Stage) -> None:
        """Let brokers end themselves at these points, one after the other."""
        lines = [f"{next(self._tokens)} {name} {number}" for name, number in stages]
        new = self._armed.with_name("new")
        new.write_text("\n".join(lines))
        os.rename(new, self._armed)

    def hold(self, point: str, number: int = 1) -> None:
        """Let a broker's thread come to this point and no further."""
        self._armed.write_text(f"held {point} {number}")

    def disarm(self) -> None:
        self._armed.unlink(missing_ok=True)

    def left(self) -> str:
        """Return what is armed and hasn't struck."""
        try:
            return self._armed.read_text()
        except FileNotFoundError:
            return ""

    @contextmanager
    def traced(self) -> Iterator[Counter[str]]:
        """Count the passes of each point; they are there at the end of the block."""
        passes: Counter[str] = Counter()
        self._trace.touch()
        yield passes
        passes.update(self._trace.read_text().split())
        self._trace.unlink()


class Arena:
    """One palace, whose brokers can be ended at any point, and one client; close it.

    Its brokers are those that the client's shim starts.
    """

    def __init__(
        self, root: Path, model_home: Path, settings: str = "", backend: str = "chroma"
    ) -> None:
        self.root = root
        self.site = make_site(root, model_home, backend=backend)
        make_palace(self.site, settings)
        self.failpoints = Failpoints(self.site, root / "kills")
        self._contexts = 0
        self._log_at = 0
        self.client: Client = self.site.shim()

    @property
    def palace(self) -> Path:
        return self.site.palace

    def context(self) -> CallContext:
        """Return the surroundings of a new call."""
        self._contexts += 1
        return CallContext(self.client, f"n{os.getpid()}x{self._contexts}z", self.root)

    def close(self) -> None:
        try:
            self.client.close()
        finally:
            end_brokers(self.root)

    # Killing.

    def assert_all_struck(self) -> None:
        left = self.failpoints.left()
        assert not left, f"the call came to its end without a pass of: {left}"

    def call_and_die(self, mutation: Mutation, arguments: Any, *stages: Stage) -> dict[str, Any]:
        """Call a tool whose brokers end at these points; return the reply of a later one."""
        self.mark_log()
        self.failpoints.arm(*stages)
        reply = self.client.call(f"mempalace_{mutation.tool}", **arguments)
        self.assert_all_struck()
        return reply

    def call_and_maybe_die(
        self, mutation: Mutation, arguments: Any, stage: Stage
    ) -> tuple[dict[str, Any], bool]:
        """Call a tool; return the reply, and whether it came to the point where brokers end."""
        self.mark_log()
        self.failpoints.arm(stage)
        reply = self.client.call(f"mempalace_{mutation.tool}", **arguments)
        struck = not self.failpoints.left()
        self.failpoints.disarm()
        return reply, struck

    def passes(self, mutation: Mutation) -> Counter[str]:
        """Call a tool undisturbed; return how often it passes each point."""
        context = self.context()
        arguments = mutation.prepare(context)
        with self.failpoints.traced() as passes:
            answer = self.client.tool(mutation.tool, **arguments)
        mutation.check(self.stores(), context, answer)
        return passes

    # Looking.

    def stores(self) -> Stores:
        return read_stores(self.palace)

    def entities(self) -> dict[tuple[str, str], Any]:
        """Return all that stands in the stores, in an order of no importance."""
        return stored(self.stores(), files=True)

    def mark_log(self) -> None:
        self._log_at = len(self.site.log())

    def words(self) -> str:
        """Return what brokers have logged since the mark."""
        return self.site.log()[self._log_at :]

    def reopen(self) -> str:
        """End the broker cleanly and open the palace once more; return what that one logged."""
        self.stop()
        self.mark_log()
        self.client.tool("status")
        wait_ready(self.site)
        return self.words()

    def forget_journal(self) -> None:
        """Leave the palace as it was before there were journals; nobody may have it open."""
        shutil.rmtree(self.palace / "journal")

    def stop(self) -> None:
        pid = status_of(self.site)["pid"]
        assert self.site.run("stop").returncode == 0
        wait_gone(pid)


class Arenas:
    """The arena that tests share, since a start costs seconds; one that a test left goes."""

    def __init__(self, root: Path, model_home: Path, backend: str = "chroma") -> None:
        self._root = root
        self._model_home = model_home
        self._backend = backend
        self._count = 0
        self._arena: Arena | None = None
        self._passes: dict[str, Counter[str]] = {}

    def passes(self, arena: Arena, mutation: Mutation) -> Counter[str]:
        """Return how often a tool passes each point, in a palace that isn't empty."""
        if mutation.tool not in self._passes:
            self._passes[mutation.tool] = arena.passes(mutation)
        return self._passes[mutation.tool]

    @contextmanager
    def shared(self) -> Iterator[Arena]:
        """Lend the shared arena; it isn't used again after a failure."""
        arena, self._arena = self._arena or self._with_history(), None
        try:
            yield arena
        except BaseException:
            arena.close()
            raise
        self._arena = arena

    @contextmanager
    def fresh(self) -> Iterator[Arena]:
        """Lend an empty palace that is nobody else's."""
        arena = self._made()
        try:
            yield arena
        finally:
            arena.close()

    @contextmanager
    def furnished(self) -> Iterator[Arena]:
        """Lend a palace like the shared one that is nobody else's."""
        arena = self._with_history()
        try:
            yield arena
        finally:
            arena.close()

    def close(self) -> None:
        if self._arena is not None:
            self._arena.close()

    def _made(self) -> Arena:
        self._count += 1
        root = self._root / str(self._count)
        root.mkdir()
        return Arena(root, self._model_home, backend=self._backend)

    def _with_history(self) -> Arena:
        """Make a palace in which the first calls of each store are history.

        Stock's small files are only looked at when a palace is opened and closed: what the first
        calls make of them would look like somebody else's work after a kill.
        """
        arena = self._made()
        arena.client.tool("add_drawer", wing="w", room="r", content="the first")
        arena.client.tool("mine", source=str(make_project(arena.root, "first")), wing="first")
        arena.client.tool("kg_add", subject="a", predicate="is", object="b")
        arena.client.tool(
            "event_append", type="a.note", stream="s", room="r", from_agent="a", body="first"
        )
        arena.reopen()
        return arena


def assert_calm(words: str) -> None:
    """Assert that an opening of a palace found nothing that palace had not done itself."""
    lines = [line for line in words.splitlines() if any(text in line for text in SUSPICIOUS)]
    assert not lines, lines


def assert_clean(words: str) -> None:
    """Assert that an opening found nothing at all to put right."""
    assert "palace: epoch" in words, "nobody has opened it"
    assert_calm(words)
    assert UNFINISHED not in words


# The journal beside the stores.


def journalled(
    palace: Path, *, files: bool = False, torn: bool = False
) -> dict[tuple[str, str], Any]:
    """Return every live entity as the journal knows it, without vectors.

    `files`: the small files, too, which are only looked at when a palace is opened or closed.
    `torn`: a kill may have come while a record was written.
    """
    state = replay(str(palace / "journal"), Kernel())
    assert torn or not state.broken, state.broken
    found = {}
    for kind, ident in state.live:
        if kind == "file" and not files:
            continue
        payload: Any = state.payload((kind, ident))
        if kind.startswith("chroma:"):
            payload = [payload["document"], rounded(payload["metadata"])]
        elif kind == "chroma-collection":
            payload = None  # Chroma keeps its configuration in its own words
        found[kind, ident] = payload
    return found


def rounded(metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Return metadata without the last bits of its floats, in which Chroma is not exact."""
    return {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in (metadata or {}).items()
    }


_KEYS = {"palace:token": "sha256", "palace:namespace": "name"}


def stored(stores: Stores, *, files: bool = False) -> dict[tuple[str, str], Any]:
    """Return every entity of the raw stores, in the journal's words."""
    found: dict[tuple[str, str], Any] = {}
    for name, records in stores.collections.items():
        found["chroma-collection", name] = None
        for record in records:
            found[f"chroma:{name}", record.id] = [record.document, rounded(record.metadata)]
    for kind, rows in stores.rows.items():
        for row in rows:
            columns = {name: value for name, value in row.items() if name != "rowid"}
            key = columns.get(_KEYS.get(kind, "id"))
            ident = key or json.dumps(list(columns.values()), separators=(",", ":"))
            found[kind, ident] = {"rowid": row["rowid"], "row": columns}
    for kind, entries in stores.lists.items():
        for entry in entries:
            found[kind, entry["id"]] = entry
    for name, data in stores.files.items() if files else ():
        found["file", name] = {"base64": base64.b64encode(data).decode()}
    return found


def assert_journal_is_right(palace: Path, *, files: bool = False, torn: bool = False) -> None:
    """Assert that replaying the journal gives what stands in the raw stores."""
    told = journalled(palace, files=files, torn=torn)
    there = stored(read_stores(palace), files=files)
    more = {
        "in the journal": told.keys() - there.keys(),
        "in the stores": there.keys() - told.keys(),
    }
    assert not any(more.values()), more
    different = {key: (told[key], there[key]) for key in told if told[key] != there[key]}
    assert not different, different


_VECTORS = """
import json, os, sys
import chromadb
from mempalace.backends.milvus import MilvusBackend
from mempalace.backends.pgvector import PgVectorBackend
from mempalace.backends.sqlite_exact import SQLiteExactBackend
found = {}
named = os.environ.get("MEMPALACE_BACKEND")
if named:
    kinds = {"sqlite_exact": SQLiteExactBackend, "pgvector": PgVectorBackend}
    backend = {**kinds, "milvus": MilvusBackend}[named]()
    for name in sys.argv[3:]:
        rows = backend.get_collection(sys.argv[1], name).get(include=["embeddings"])
        found[name] = dict(zip(rows.ids, rows.embeddings))
    json.dump(found, open(sys.argv[2], "w"))
    sys.exit()
client = chromadb.PersistentClient(sys.argv[1])
for name in [collection.name for collection in client.list_collections()]:
    rows = client.get_collection(name, embedding_function=None).get(include=["embeddings"])
    vectors = [[float(number) for number in vector] for vector in rows["embeddings"]]
    found[name] = dict(zip(rows["ids"], vectors))
json.dump(found, open(sys.argv[2], "w"))
"""


def assert_vectors_are_right(site: Site, scratch: Path) -> None:
    """Assert that a store has the journal's vectors; asks a copy, while nobody has it open."""
    copy, found = scratch / "copy", scratch / "vectors.json"
    if (site.palace / MARKER).exists():  # which no copy of the directory is of
        copy = site.palace
    else:
        ignored = ("*.sock", "journal", "milvus_backend.json")  # which says where it was
        shutil.copytree(site.palace, copy, ignore=shutil.ignore_patterns(*ignored))
    names = read_stores(site.palace).collections
    argv = [sys.executable, "-P", "-c", _VECTORS, str(copy), str(found), *names]
    subprocess.run(argv, env=site.environ(), check=True, capture_output=True)
    there = json.loads(found.read_text())
    state = replay(str(site.palace / "journal"), Kernel())
    assert there.keys() == set(state.ids("chroma-collection"))
    for name, vectors in there.items():
        payloads: Iterable[tuple[str, Any]] = state.payloads(f"chroma:{name}")
        told = {ident: payload["vector"] for ident, payload in payloads}
        assert told.keys() == vectors.keys()
        for ident, vector in vectors.items():
            assert _is_near(base64.b64decode(told[ident]), vector), (name, ident)


def _is_near(packed: bytes, vector: list[float]) -> bool:
    """Compare vectors; Chroma normalises what is a unit vector already, to another last bit."""
    numbers = struct.unpack(f"<{len(packed) // 4}f", packed)
    pairs = zip(numbers, vector, strict=True)
    return all(abs(one - other) < 1e-6 for one, other in pairs)
