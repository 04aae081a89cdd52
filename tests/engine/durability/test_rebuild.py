"""Stores from the journal alone: whatever of them is damaged, every entity and vector comes back.

A palace of every kind of entity is made once and copied for each test.  Rebuilding, purging and
reading are asked of one process that stays (tests/support/engines/maintenance.py).
"""

import base64
import json
import os
import shutil
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palace.engine.durability.rebuild import Rebuild
from palace.engine.stores.projection import same
from palace.journal.checkpoint import make_checkpoint
from palace.journal.inspect import read_from
from palace.journal.journal import Journal
from palace.journal.record import OUTCOME, PUT, Draft, Record, Stamp
from palace.journal.replay import newest_checkpoint, no_progress, replay
from palace.journal.segment import list_segments
from palace.kernel.kernel import Kernel
from palace.ownership.keys import ANY_SEQ
from palace.protocol.keyring import Key, Keyring
from tests.support.engines.maintenance import MaintenanceProcess, Refused
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import (
    CHOICES,
    DAMAGES,
    EXCLUSIVE,
    SECRET,
    drawers_of,
    fill,
    made_vectors,
    no_segments,
)
from tests.support.faults.killing import is_full
from tests.support.processes.clients import Site
from tests.support.processes.sites import empty_database, make_site, start_stock
from tests.support.stores.copies import Kept, tables_with
from tests.support.stores.nonces import MARKER, MILVUS_FILES, PGVECTOR_DSN

pytestmark = [pytest.mark.engine, pytest.mark.process]
EACH_BACKEND = True

QUERIES = 20
KINDS = {
    *("chroma-collection", "chroma:made", "chroma:mempalace_closets", "chroma:mempalace_drawers"),
    *("file", "graph:entity", "graph:triple", "hallway", "tunnel"),
    *("log:artifact", "log:attached", "log:event", "palace:workspace", "palace:remote"),
}

Contents = dict[str, dict[str, Any]]


@dataclass
class Master:
    """The palace that is copied, and what is known of it."""

    site: Site
    contents: Contents
    ids: dict[str, str]
    kept: Kept | None = None  # as what copies are made of, where they are made by it


@pytest.fixture(scope="module")
def master(
    tmp_path_factory: pytest.TempPathFactory,
    model_home: Path,
    maintenance: MaintenanceProcess,
    backend: str,
) -> Master:
    root = tmp_path_factory.mktemp("master")
    site = make_site(root, model_home, backend=backend)
    probe = Probe(site.environ(), site.palace)
    ids = fill(probe, root)
    probe.leave()
    contents = maintenance.ask("contents", site.palace)
    assert {kind for kind, entries in contents.items() if entries} == KINDS
    return Master(site, contents, ids, Kept.of(site))


@pytest.fixture
def copied(master: Master, tmp_path: Path) -> Site:
    """A copy of the palace and its neighbours, with the same home."""
    return copy_of(master, tmp_path)


def copy_of(master: Master, folder: Path) -> Site:
    return (master.kept or Kept(master.site)).copy_to(folder)


def differing(contents: Contents, expected: Contents) -> list[tuple[str, str]]:
    """Return what isn't the same, up to the last bits in which Chroma isn't exact itself."""
    entities = {
        (kind, ident) for each in (contents, expected) for kind in each for ident in each[kind]
    }
    return sorted(
        (kind, ident)
        for kind, ident in entities
        if not same(contents.get(kind, {}).get(ident), expected.get(kind, {}).get(ident))
    )


def journal_of(site: Site) -> str:
    return str(site.palace / "journal")


def damage(site: Site, names: tuple[str, ...]) -> None:
    for name in names:
        DAMAGES[name](site.palace)


def assert_whole(maintenance: MaintenanceProcess, site: Site, master: Master) -> None:
    assert maintenance.ask("doctor", site.palace) == []
    contents = maintenance.ask("contents", site.palace)
    assert differing(contents, master.contents) == []


@pytest.mark.parametrize("names", CHOICES, ids=lambda names: "+".join(names) or "none")
def test_damaged_palace_is_whole_again(
    maintenance: MaintenanceProcess, master: Master, copied: Site, names: tuple[str, ...]
) -> None:
    damage(copied, names)
    left = {path.name for path in copied.palace.iterdir()}

    made = maintenance.ask("rebuild", copied.palace)

    old = {path.name for path in copied.palace.glob("replaced-*/*")}
    assert {path.name for path in Path(made["kept"]).glob("*")} == old
    stores = {name for name in left if name.endswith(".sqlite3") or name.count("-") == 4}
    stores |= left & {MARKER, *MILVUS_FILES}
    assert old == stores, "what was there is kept"
    assert made["entities"] == sum(len(entries) for entries in master.contents.values())
    assert_whole(maintenance, copied, master)


def is_sensible(names: set[str]) -> bool:
    return all(len(names & exclusive) < 2 for exclusive in EXCLUSIVE)


@settings(
    max_examples=60 if is_full() else 3,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(names=st.sets(st.sampled_from(sorted(DAMAGES)), min_size=1).filter(is_sensible))
def test_palace_with_any_damage_is_whole_again(
    maintenance: MaintenanceProcess,
    master: Master,
    tmp_path_factory: pytest.TempPathFactory,
    names: set[str],
) -> None:
    copied = copy_of(master, tmp_path_factory.mktemp("any"))
    damage(copied, tuple(sorted(names)))
    maintenance.ask("rebuild", copied.palace)
    assert_whole(maintenance, copied, master)


# Vectors.


def numbers(packed: str) -> tuple[float, ...]:
    raw = base64.b64decode(packed)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    def dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    return 1 - dot(one, other) / (dot(one, one) * dot(other, other)) ** 0.5


def recall(found: list[list[str]], queries: list[list[float]], vectors: dict[str, Any]) -> float:
    """Return the share of the ten nearest records, by computing all distances, that was found."""
    hits = 0
    for ids, query in zip(found, queries, strict=True):
        nearest = sorted(vectors, key=lambda ident: cosine(vectors[ident], tuple(query)))[:10]
        hits += len({*nearest} & {*ids})
    return hits / (10 * len(queries))


def vectors_of(site: Site) -> dict[str, str]:
    """Return the vectors of the collection that the journal knows, packed."""
    state = replay(journal_of(site), Kernel())
    payloads: Iterable[tuple[str, Any]] = state.payloads("chroma:made")
    return {ident: payload["vector"] for ident, payload in payloads}


def test_rebuilt_vectors_are_the_journals_and_found_as_before(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    queries = made_vectors()[:QUERIES]
    originals = vectors_of(copied)
    vectors = {ident: numbers(packed) for ident, packed in originals.items()}
    before = maintenance.ask("nearest", copied.palace, collection="made", vectors=queries, count=10)

    no_segments(copied.palace)
    maintenance.ask("rebuild", copied.palace)

    after = maintenance.ask("nearest", copied.palace, collection="made", vectors=queries, count=10)
    assert recall(after, queries, vectors) >= recall(before, queries, vectors) > 0.9
    assert vectors_of(copied) == originals
    # Chroma normalises what it is given, in the same way each time.
    there = maintenance.ask("contents", copied.palace)["chroma:made"]
    stored = master.contents["chroma:made"]
    assert {i: there[i]["vector"] for i in there} == {i: stored[i]["vector"] for i in stored}


# Interrupted, partial, and again.


def test_interrupted_swap_is_carried_through_at_the_next_opening(
    maintenance: MaintenanceProcess, master: Master, tmp_path: Path
) -> None:
    renames = maintenance.ask("rebuild", copy_of(master, tmp_path).palace)["renames"]
    assert renames >= 10
    steps = range(renames) if is_full() else (0, renames // 2, renames - 1)
    for step in steps:
        copied = copy_of(master, tmp_path)
        assert maintenance.ask("rebuild", copied.palace, renames=step) == {"interrupted": step}
        assert (copied.palace / "swap.json").exists()
        maintenance.ask("open_palace", copied.palace)

        assert not (copied.palace / "swap.json").exists()
        assert_whole(maintenance, copied, master)


def test_broker_carries_an_interrupted_swap_through(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    maintenance.ask("rebuild", copied.palace, renames=4)
    with Probe(copied.environ(), copied.palace) as probe:
        assert "WARNING an interrupted rebuild was carried through" in probe.opening["words"]
        assert probe.ask("drift") == []
        assert probe.tool("search", query="the spare key under the flowerpot")["results"]
        probe.leave()
    assert_whole(maintenance, copied, master)
    maintenance.ask("rebuild", copied.palace)
    assert_whole(maintenance, copied, master)
    assert not list(copied.palace.glob("rebuild-*"))


def lose_a_record(site: Site) -> Record:
    """Take the record of one made document out of the journal."""
    found = read_from(journal_of(site), Kernel())
    lost = next(r for r in found if isinstance(r, Record) and r.id == "made-42")
    for segment in list_segments(journal_of(site), Kernel()):
        path = Path(segment.path)
        lines = path.read_bytes().split(b"\n")
        kept = [line for line in lines if b'"seq":%d,' % lost.seq not in line]
        path.write_bytes(b"\n".join(kept))
    return lost


def test_gap_is_refused_and_partial_builds_what_there_is(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    lost = lose_a_record(copied)
    before = sorted(path.name for path in copied.palace.rglob("*"))

    with pytest.raises(Refused) as refused:
        maintenance.ask("rebuild", copied.palace)

    assert (refused.value.name, refused.value.code) == ("journal_broken", 65)
    assert f"lacks records {lost.seq} to {lost.seq}" in refused.value.message
    assert sorted(path.name for path in copied.palace.rglob("*")) == before, "nothing half done"
    with pytest.raises(Refused):
        maintenance.ask("purge", copied.palace, ids=[master.ids["secret"]])
    assert SECRET.encode() in b"".join(
        path.read_bytes() for path in Path(journal_of(copied)).glob("*.jsonl")
    )

    maintenance.ask("rebuild", copied.palace, partial=True)

    contents = maintenance.ask("contents", copied.palace)
    assert differing(contents, master.contents) == [("chroma:made", "made-42")]


def test_what_a_new_store_does_not_take_replaces_nothing(
    maintenance: MaintenanceProcess, copied: Site
) -> None:
    """A number in a column of texts becomes a text: the new graph says something else."""
    journal = Journal.open(journal_of(copied), Kernel(), _stamp())
    odd = {"rowid": 99, "row": {"id": "odd", "name": 7, "type": "unknown"}}
    journal.append([Draft(action=PUT, key="s:1", kind="graph:entity", id="odd", payload=odd)])
    journal.close_key("s:1", OUTCOME, reply="filed")
    journal.close()
    stores = sorted(copied.palace.glob("*.sqlite3"))
    before = [path.stat().st_ino for path in stores]

    with pytest.raises(Refused) as refused:
        maintenance.ask("rebuild", copied.palace)

    assert refused.value.name == "store_corrupt"
    assert "doesn't hold graph:entity odd as the journal does" in refused.value.message
    assert [path.stat().st_ino for path in stores] == before, "nothing was replaced"
    assert not list(copied.palace.glob("replaced-*"))


def test_checkpoint_stands_for_the_segments_that_it_covers(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    with Probe(copied.environ(), copied.palace) as probe:
        probe.ask("roll")
        probe.leave()
    journal = Path(journal_of(copied))
    assert make_checkpoint(str(journal), Kernel(), _stamp()) is not None
    damage(copied, ("drawers", "graph", "log", "head"))
    maintenance.ask("rebuild", copied.palace)
    assert_whole(maintenance, copied, master)

    newest = newest_checkpoint(str(journal), Kernel())
    assert newest is not None
    Path(newest[0]).unlink()
    maintenance.ask("rebuild", copied.palace)  # from the segments, which come out of the archive
    assert_whole(maintenance, copied, master)


def _stamp() -> Stamp:
    return Stamp(epoch=9, writer="test", keys=Keyring([Key(b"t" * 32)], ANY_SEQ))  # the probe's


def test_changes_of_others_are_not_built_away(
    maintenance: MaintenanceProcess, master: Master, copied: Site, backend: str
) -> None:
    with start_stock(copied.environ(), "--palace", str(copied.palace)) as stock:
        stock.tool("add_drawer", wing="w", room="r", content="Stock wrote this meanwhile.")
    for request, more in (("rebuild", {}), ("purge", {"ids": [master.ids["secret"]]})):
        with pytest.raises(Refused) as refused:
            maintenance.ask(request, copied.palace, **more)
        assert (refused.value.name, refused.value.code) == ("journal_broken", 65)
        assert f"Another program has changed {backend}" in refused.value.message
    drift = maintenance.ask("doctor", copied.palace)
    assert [(level, code) for level, code, _ in drift] == [("error", "drift")]
    assert "chroma:mempalace_drawers: 0 missing, 1 unknown" in drift[0][2]


def test_what_came_while_the_journal_was_off_is_not_laid_to_another_program(
    maintenance: MaintenanceProcess, copied: Site, backend: str
) -> None:
    Journal.note_pause(journal_of(copied), Kernel())  # as a broker with journal = "off" does
    with start_stock(copied.environ(), "--palace", str(copied.palace)) as stock:
        stock.tool("add_drawer", wing="w", room="r", content="This came without the journal.")

    with pytest.raises(Refused) as refused:
        maintenance.ask("rebuild", copied.palace)

    assert f"What is in {backend} has changed while" in refused.value.message
    assert "(palace config set journal=on; palace stop; palace start)" in refused.value.message


def test_palace_of_a_killed_broker_is_rebuilt_whole(
    maintenance: MaintenanceProcess, copied: Site, backend: str
) -> None:
    """Its small files are not journalled yet, and one of its calls is not finished."""
    shutil.rmtree(copied.palace.parent)
    if PGVECTOR_DSN in os.environ:
        empty_database()
    with Probe(copied.environ(), copied.palace) as probe:
        probe.tool("add_drawer", wing="w", room="r", content="The first and only one.")
        probe.kill()

    maintenance.ask("rebuild", copied.palace)

    assert maintenance.ask("doctor", copied.palace) == []
    # sqlite_exact's own database says which embedder it is.
    files = set() if backend == "sqlite_exact" else {"mempalace_embedder.json"}
    assert maintenance.ask("contents", copied.palace)["file"].keys() == files


def test_rebuilt_palace_opens_in_stock(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    damage(copied, ("in-segments", "drawers", "graph", "log"))
    maintenance.ask("rebuild", copied.palace)
    maintenance.ask("rebuild", copied.palace)

    with start_stock(copied.environ(), "--palace", str(copied.palace)) as stock:
        found = stock.tool("search", query="where is the spare key")["results"]
        assert SECRET in [result["text"] for result in found]
        drawers = master.contents["chroma:mempalace_drawers"]
        listed = stock.tool("list_drawers", limit=100)["total"]
        logical = {d["metadata"].get("parent_drawer_id", ident) for ident, d in drawers.items()}
        assert listed == len(logical)
        assert len(stock.tool("kg_query", entity="Ada")["facts"]) == 2
        assert len(stock.tool("list_tunnels")) == len(master.contents["tunnel"])
        assert stock.tool("event_list", stream="s")["events"]
        entries = stock.tool("diary_read", agent_name="ada")["entries"]
        assert [entry["content"] for entry in entries] == ["A day like others."]
        assert stock.tool("add_drawer", wing="w", room="r", content="And one more.")["success"]


# Purging.


def held_by(site: Site, data: bytes) -> list[str]:
    """Return the files beside and below a palace, and its tables, that hold some bytes."""
    root = site.palace.parent
    files = [path for path in root.rglob("*") if path.is_file()]
    held = [str(path.relative_to(root)) for path in files if data in unpacked(path)]
    return held + tables_with(site, data)


def unpacked(path: Path) -> bytes:
    """Return a file's bytes, or the texts and vectors of one that holds them compressed."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    from pyarrow.parquet import read_table

    rows = read_table(path).to_pylist()
    vectors = (np.asarray(row.get("vector", []), "<f4").tobytes() for row in rows)
    return repr(rows).encode() + b"".join(vectors)


def traces(payload: dict[str, Any]) -> list[bytes]:
    """Return what must not be found any more of a record: its text, and its vector in two forms."""
    packed = payload["vector"]
    return [payload["document"].encode(), packed.encode(), base64.b64decode(packed)]


def test_purged_memory_is_in_no_file_any_more(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    told = replay(journal_of(copied), Kernel())
    drawers: dict[str, Any] = dict(told.payloads("chroma:mempalace_drawers"))
    gone = {
        ident: payload
        for ident, payload in drawers.items()
        if ident == master.ids["secret"] or ident.startswith(master.ids["long"])
    }
    assert len(gone) > 3
    stored = master.contents["chroma:mempalace_drawers"]
    lost = [trace for ident in gone for trace in (*traces(gone[ident]), *traces(stored[ident]))]
    lost = [trace for trace in lost if trace != SECRET.encode()]  # another one holds it, too
    assert all(held_by(copied, trace) for trace in lost[:3])

    purged = maintenance.ask("purge", copied.palace, ids=[master.ids["secret"], master.ids["long"]])

    assert purged["records"] == len(gone)
    assert purged["alike"] == [f"chroma:mempalace_drawers {master.ids['alike']}"]
    assert purged["copies"] == []
    assert [held for trace in lost if (held := held_by(copied, trace))] == []
    contents = maintenance.ask("contents", copied.palace)
    assert differing(contents, master.contents) == sorted(
        ("chroma:mempalace_drawers", ident) for ident in gone
    )
    assert maintenance.ask("doctor", copied.palace) == []

    maintenance.ask("purge", copied.palace, ids=[master.ids["alike"]])
    assert held_by(copied, SECRET.encode()) == []
    assert maintenance.ask("purge", copied.palace, ids=[master.ids["alike"]])["records"] == 0


def test_interrupted_purge_is_ended_by_the_next_one(
    maintenance: MaintenanceProcess, master: Master, copied: Site
) -> None:
    ids = [master.ids["secret"], master.ids["alike"]]
    assert maintenance.ask("purge_journal_alone", copied.palace, ids=ids) == 2
    held = held_by(copied, SECRET.encode())
    if copied.extra.get("MEMPALACE_BACKEND") == "pgvector":
        assert [name.endswith("_mempalace_drawers") for name in held] == [True]
    else:
        where = f"palace/{drawers_of(copied.palace).name}"
        assert [name for name in held if not name.startswith(where)] == []
        assert len(held) == 1

    assert maintenance.ask("purge", copied.palace, ids=ids)["records"] == 2

    assert held_by(copied, SECRET.encode()) == []
    assert maintenance.ask("doctor", copied.palace) == []


def test_purged_memory_is_in_no_reply_that_quoted_it(
    maintenance: MaintenanceProcess, copied: Site
) -> None:
    shutil.rmtree(copied.palace.parent)
    if PGVECTOR_DSN in os.environ:
        empty_database()
    with Probe(copied.environ(), copied.palace) as probe:
        one = {"wing": "w", "room": "r", "content": SECRET}
        ident = probe.tool("add_drawer", **one)["drawer_id"]
        other = one | {"content": "The harbour master sells eels."}
        said = probe.tool("checkpoint", items=[one, other], dedup_threshold=0.5)
        assert said["duplicates"][0]["matches"][0]["content"] == SECRET
        probe.leave()

    maintenance.ask("purge", copied.palace, ids=[ident])

    assert held_by(copied, SECRET.encode()) == []


# The commands.


def test_commands_tell_by_their_exit_codes(copied: Site) -> None:
    shown = copied.run("log", "--json", "--since", "5")
    seqs = [json.loads(line)["seq"] for line in shown.stdout.splitlines()]
    assert (shown.returncode, seqs) == (0, list(range(5, 5 + len(seqs))))
    assert copied.run("purge", "no-such-id").returncode == 66
    done = copied.run("rebuild")
    assert (done.returncode, done.stderr) == (0, "")
    assert "entities are in new stores" in done.stdout

    lost = lose_a_record(copied)

    shown = copied.run("log", "--json", "--since", str(lost.seq - 1))
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert shown.returncode == 65
    assert lines[1] == {"gap": [lost.seq, lost.seq]}
    shown = copied.run("log", "--since", str(lost.seq))
    assert shown.returncode == 65
    assert f"GAP: records {lost.seq} to {lost.seq}" in shown.stdout
    told = copied.run("doctor", "--drift", "--json")
    assert told.returncode == 65
    found = {line["code"]: line["text"] for line in map(json.loads, told.stdout.splitlines())}
    assert found.keys() >= {"gap", "drift"}
    assert "chroma:made: 0 missing, 1 unknown to the journal" in found["drift"]
    assert copied.run("rebuild").returncode == 65


def test_subsets_of_damage_are_worth_trying() -> None:
    assert {name for names in CHOICES for name in names} == DAMAGES.keys()
    assert all(is_sensible({*names}) for names in CHOICES)
    assert [pair for pair in combinations(DAMAGES, 2) if not is_sensible({*pair})]


def test_what_is_copied_to_its_place_is_durable_before_it_is_renamed(tmp_path: Path) -> None:
    synced = []

    class Noting(Kernel):
        def sync(self, fd: int) -> None:
            synced.append((os.fstat(fd).st_ino, os.pread(fd, 9, 0)))
            super().sync(fd)

    parts: Any = {"palace": SimpleNamespace(kernel=Noting()), "journal": None}
    (tmp_path / "made").write_text("new facts")

    near = Rebuild(**parts, progress=no_progress)._near(f"{tmp_path}/made", f"{tmp_path}/kg")

    assert near == f"{tmp_path}/kg.rebuilt"
    assert synced == [(os.stat(near).st_ino, b"new facts")]
