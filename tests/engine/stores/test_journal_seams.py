"""Whatever changes a palace is in its journal: after each call both say the same.

One hosted engine goes through the whole corpus and through every tool that changes something; each
of its calls is held against the raw stores at once (tests/support/engines/observer.py).
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from palace.engine.stores.chroma_seam import SLICE
from palace.engine.stores.drawers import COLLECTION
from palace.engine.stores.journalled import JOURNALLED
from palace.engine.stores.projection import same
from palace.protocol.tools import TOOLS, Kind
from tests.engine.test_conformance import _furnish
from tests.support.calls.corpus import SENSIBLE
from tests.support.calls.mutations import MUTATIONS, CallContext, make_project
from tests.support.calls.transcript import run_calls
from tests.support.engines.observer import Observer, payloads, records_since
from tests.support.engines.probe import Probe
from tests.support.faults.killing import assert_vectors_are_right
from tests.support.processes.clients import Site
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.engine, pytest.mark.process]

MUTATING = sorted(name for name, tool in TOOLS.items() if tool.kind is Kind.MUTATION)
CALM: dict[str, list[str]] = {"suspects": [], "words": []}


# Every tool.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Site:
    return make_site(tmp_path_factory.mktemp("seams"), model_home)


@pytest.fixture(scope="module")
def history(place: Site) -> Iterator[Observer]:
    """A palace in which every tool has been called; it was closed, killed and opened between."""
    root = place.palace.parent
    observer = Observer(Probe(place.environ(), place.palace))
    kept = _furnish(root)
    run_calls(observer, SENSIBLE, kept)
    for number, (tool, mutation) in enumerate(MUTATIONS.items()):
        context = CallContext(observer, f"n1x{number}z", root)
        arguments = mutation.prepare(context)
        observer.tool(tool, **arguments)
    _remine(observer, root)
    _change_what_was_mined(observer, root)
    yield observer
    observer.probe.end()


def _remine(observer: Observer, root: Path) -> None:
    """Mine a directory again of which one file has changed and another is gone."""
    project = make_project(root, "n1x100z")
    observer.tool("mine", source=str(project), wing="again")
    (project / "README.md").write_text("The seals have moved on, says Ada Lovelace.\n" * 20)
    (project / "src" / "seals.py").unlink()
    os.utime(project / "README.md", (1_600_000_000.123456, 1_600_000_000.654321))
    observer.tool("mine", source=str(project), wing="again")
    assert observer.tool("sync", project_dir=str(project), wing="again", apply=True)["success"]


def _change_what_was_mined(observer: Observer, root: Path) -> None:
    """A drawer that has closets takes them with it."""
    project = make_project(root, "n1x101z")
    observer.tool("mine", source=str(project), wing="indexed")
    drawers = observer.tool("list_drawers", wing="indexed", limit=10)["drawers"]
    first, second, third = (drawer["drawer_id"] for drawer in drawers[:3])
    assert observer.tool("update_drawer", drawer_id=first, content="n1x101z otherwise")["success"]
    assert observer.tool("delete_drawer", drawer_id=second)["success"]
    assert observer.tool("delete_drawers", drawer_ids=[third])["deleted"] == 1


def test_table_names_every_tool_that_changes_a_palace() -> None:
    assert sorted(JOURNALLED) == sorted([*MUTATING, "mempalace_follow_tunnels"])


@pytest.mark.parametrize("tool", TOOLS)
def test_journal_and_stores_say_the_same_after_each_call(history: Observer, tool: str) -> None:
    assert history.calls[tool], "nobody has called it"
    assert history.wrong[tool] == []


@pytest.mark.parametrize("tool", TOOLS)
def test_tool_journals_what_the_table_says(history: Observer, tool: str) -> None:
    told = set(JOURNALLED.get(tool, ()))

    assert history.kinds[tool] <= told
    assert told <= history.kinds[tool] | {COLLECTION}  # somebody else may have made it


def test_palace_that_is_opened_again_is_as_it_was_left(
    history: Observer, place: Site, tmp_path: Path
) -> None:
    looks = history.probe.ask("looks")
    history.probe.leave()
    with Probe(place.environ(), place.palace) as probe:
        assert probe.opening == CALM
        assert probe.ask("looks") | {"files": None} == looks | {"files": None}
        assert probe.ask("drift") == []
        probe.kill()
    with Probe(place.environ(), place.palace) as probe:
        assert probe.opening == CALM
        probe.leave()
    done = place.run("doctor", "--drift")
    assert done.returncode == 0, done.stdout
    assert_vectors_are_right(place, tmp_path)


# Chroma's own methods, in collections of made vectors.

SIZE = 8
EMPTY: dict[str, Any] = {"document": None, "metadata": None}
HUGE = "A long sentence about nothing at all, and then another. " * 40_000


def made(number: int) -> list[float]:
    """Return a vector that isn't normalised."""
    rng = random.Random(number)
    return [rng.uniform(-3, 3) for _ in range(SIZE)]


def one(ident: str, number: int, **members: Any) -> dict[str, Any]:
    """Return the arguments for one record."""
    named = {"document": "documents", "metadata": "metadatas", "uri": "uris"}
    return {"ids": [ident], "embeddings": [made(number)]} | {
        named[member]: [value] for member, value in members.items()
    }


def many(**last: Any) -> dict[str, Any]:
    """Return the arguments for so many records that they are written in slices, `a` the first."""
    count = 2 * SLICE + 3
    given: dict[str, Any] = {
        "ids": ["a", *(f"r{number}" for number in range(1, count))],
        "embeddings": [made(number) for number in range(count)],
        "documents": [f"Text {number}" for number in range(count)],
        "metadatas": [{"n": number} for number in range(count)],
    }
    for column, value in last.items():
        given[column][-1] = value
    return given


Step = tuple[str, dict[str, Any]]
BASE: Step = ("add", one("a", 1, document="A", metadata={"n": 1, "s": "x", "b": True, "f": 1.5}))
# What is asked of a collection in turn, and what its record `a` must hold then (None: is absent).
STEPS: dict[str, tuple[list[Step], Any]] = {
    "add": ([BASE], {"n": 1, "s": "x", "b": True, "f": 1.5}),
    "add-existing": ([BASE, ("add", one("a", 2, metadata={"n": 2}))], BASE[1]["metadatas"][0]),
    "upsert-merges": (
        [BASE, ("upsert", one("a", 2, metadata={"n": 2, "t": "new"}))],
        {"n": 2, "s": "x", "b": True, "f": 1.5, "t": "new"},
    ),
    "upsert-vector": ([BASE, ("upsert", one("a", 2))], BASE[1]["metadatas"][0]),
    "upsert-none": (
        [BASE, ("upsert", one("a", 2, metadata={"n": None, "s": "y"}))],
        {"s": "y", "b": True, "f": 1.5},
    ),
    "update-none": (
        [BASE, ("update", {"ids": ["a"], "metadatas": [{"n": None, "b": None}]})],
        {"s": "x", "f": 1.5},
    ),
    "update-all-none": (
        [BASE, ("update", {"ids": ["a"], "metadatas": [dict.fromkeys("nsbf")]})],
        None,
    ),
    "update-vector": ([BASE, ("update", one("a", 3))], BASE[1]["metadatas"][0]),
    "update-document": (
        [BASE, ("update", one("a", 3, document="B"))],
        BASE[1]["metadatas"][0],
    ),
    "int-to-float": (
        [BASE, ("update", {"ids": ["a"], "metadatas": [{"n": 1.0}]})],
        {"n": 1.0, "s": "x", "b": True, "f": 1.5},
    ),
    "int-to-bool": (
        [BASE, ("update", {"ids": ["a"], "metadatas": [{"n": True, "b": 1}]})],
        {"n": True, "s": "x", "b": 1, "f": 1.5},
    ),
    "numbers": (
        [("add", one("a", 1, metadata={"m": 2**63 - 1, "l": -(2**63), "h": 1e300, "z": -0.0}))],
        {"m": 2**63 - 1, "l": -(2**63), "h": 1e300, "z": -0.0},
    ),
    "integer-too-large": ([("add", one("a", 1, metadata={"m": 2**63}))], {"m": float(2**63)}),
    "not-a-number": (
        [BASE, ("update", {"ids": ["a"], "metadatas": [{"f": float("nan"), "n": float("inf")}]})],
        {"s": "x", "b": True},
    ),
    "lists": ([("add", one("a", 1, metadata={"l": ["x", "y"], "n": [1, 2]}))], ...),
    "unicode": (
        [("add", one("a", 1, document="Ünï \U0001f419 \t\n\r", metadata={"schlüssel": "Привет"}))],
        {"schlüssel": "Привет"},
    ),
    "nul": ([("add", one("a", 1, document="a\0b", metadata={"k": "a\0b"}))], {"k": "a\0b"}),
    "empty": ([("add", one("a", 1, document="", metadata={"k": ""}))], {"k": ""}),
    "bare": ([("add", one("a", 1))], None),
    "big": ([("add", one("a", 1, document=HUGE, metadata={"k": HUGE}))], {"k": HUGE}),
    "uri": (
        [
            ("add", one("a", 1, uri="file:///x")),
            ("upsert", one("a", 2, uri="file:///y", metadata={"k": 1})),
        ],
        {"k": 1},
    ),
    "zero-vector": ([("add", {"ids": ["a"], "embeddings": [[0.0] * SIZE]})], None),
    "update-absent": ([("update", one("a", 1, document="A"))], ...),
    "delete": ([BASE, ("delete", {"ids": ["a"]})], ...),
    "delete-absent": ([BASE, ("delete", {"ids": ["b", "c"]})], BASE[1]["metadatas"][0]),
    "delete-both": ([BASE, ("delete", {"ids": ["a", "b"]})], ...),
    "delete-where": (
        [BASE, ("add", one("b", 2, metadata={"n": 2})), ("delete", {"where": {"n": 2}})],
        BASE[1]["metadatas"][0],
    ),
    "delete-where-nothing": ([BASE, ("delete", {"where": {"n": 9}})], BASE[1]["metadatas"][0]),
    "delete-where-document": (
        [BASE, ("delete", {"where_document": {"$contains": "A"}})],
        ...,
    ),
    "delete-ids-where": (
        [BASE, ("delete", {"ids": ["a"], "where": {"n": 2}})],
        BASE[1]["metadatas"][0],
    ),
    "slices": ([("add", many())], {"n": 0}),
    "slices-upsert": (
        [
            BASE,
            ("upsert", many()),
            ("update", many(documents="B")),
        ],
        {"n": 0, "s": "x", "b": True, "f": 1.5},
    ),
    "refused-in-the-last-slice": (
        [BASE, ("upsert", many(documents="\ud800"))],
        BASE[1]["metadatas"][0],
    ),
    "refused-size": ([BASE, ("upsert", one("a", 2) | {"embeddings": [[1.0]]})], ...),
    "refused-twice": ([("add", {"ids": ["a", "a"], "embeddings": [made(1), made(2)]})], ...),
    "refused-surrogate": ([BASE, ("upsert", one("a", 2, document="\ud800"))], ...),
}
SPACES = ("cosine", "l2")


@pytest.fixture(scope="module")
def collections(place: Site, model_home: Path) -> Iterator[Probe]:
    """A palace of its own, with a collection for each case, which the cases then fill."""
    site = make_site(place.home.parent / "raw", model_home)
    with Probe(site.environ(), site.palace) as probe:
        yield probe


def read_both(probe: Probe, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a collection as Chroma reads it back, and as the journal knows it."""
    return probe.ask("read_back", collection=name), payloads(probe.palace, f"chroma:{name}")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", STEPS)
def test_record_is_journalled_as_chroma_reads_it_back(
    collections: Probe, case: str, space: str
) -> None:
    steps, expected = STEPS[case]
    name = f"{case}-{space}"
    collections.ask("make_collection", name=name, metadata={"hnsw:space": space})
    for method, arguments in steps:
        refused = collections.on_collection(name, method, **arguments)
        assert bool(refused) == (case.startswith("refused") and (method, arguments) == steps[-1])

        there, told = read_both(collections, name)
        assert there.keys() == told.keys()
        assert [i for i in there if not same(there[i], told[i])] == []

    if expected is not ...:
        record = told["a"]
        assert json.dumps(record["metadata"], sort_keys=True) == json.dumps(
            expected, sort_keys=True
        )
        if space == "l2":
            assert there["a"]["vector"] == told["a"]["vector"], "nothing is normalised here"


def test_batch_is_journalled_in_one_piece_before_it_is_made(collections: Probe) -> None:
    collections.ask("make_collection", name="batch")
    since = 1 + records_since(collections.palace, 1)[-1].seq
    members = {"ids": ["a", "b", "c"], "embeddings": [made(1), made(2), made(3)]}
    collections.on_collection("batch", "add", **members, documents=["A", "B", "C"])

    records = records_since(collections.palace, since)
    assert [(r.action, r.id, r.step) for r in records[:-1]] == [("put", i, 1) for i in "abc"]
    assert records[-1].action == "unit"
    assert len({record.key for record in records}) == 1


def test_change_that_changes_nothing_is_not_journalled(collections: Probe) -> None:
    collections.ask("make_collection", name="same")
    collections.on_collection("same", "add", **one("a", 1, document="A", metadata={"n": 1}))
    before = records_since(collections.palace, 1)[-1].seq
    collections.on_collection("same", "upsert", **one("a", 1, document="A", metadata={"n": 1}))
    collections.on_collection("same", "delete", ids=["b"])

    assert records_since(collections.palace, before + 1) == []


def test_collection_that_is_dropped_takes_its_records_along(collections: Probe) -> None:
    """Chroma takes their numbers back as well, which must not look like an older store."""
    collections.ask("make_collection", name="dropped")
    collections.on_collection("dropped", "add", **one("a", 1))
    collections.ask("drop_collection", name="dropped")

    assert payloads(collections.palace, "chroma:dropped") == {}
    assert "dropped" not in payloads(collections.palace, COLLECTION)


def test_palace_of_made_records_is_opened_again_as_it_was_left(
    collections: Probe, place: Site
) -> None:
    """Also Chroma's count of what it was told, on which noticing others rests."""
    collections.ask("make_collection", name="last")
    collections.on_collection("last", "add", **one("a", 1))
    looks = collections.ask("looks")
    collections.kill()
    home = {"HOME": str(place.home.parent / "raw" / "home")}
    with Probe(place.environ() | home, collections.palace) as probe:
        assert probe.opening["suspects"] == []
        assert not [line for line in probe.opening["words"] if "lost by" in line]
        assert probe.ask("looks") == looks
        assert [entry for entry in probe.ask("drift") if entry[0] != "file"] == []
