"""`palace move-store`: the drawers go from one backend to another, and nothing else changes.

A palace of every kind of entity is made once, on Chroma, and copied for each test.  What is held in
tables of a server is the real PostgreSQL's.
"""

import base64
import json
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from palace.engine.durability.reconciliation import take_over
from palace.engine.durability.translation import Translation
from palace.engine.stores.drawers import COLLECTION
from palace.engine.stores.exact import Exact
from palace.engine.stores.projection import same
from palace.journal.journal import Journal
from palace.journal.record import ADOPT, Draft, Stamp
from palace.journal.replay import replay
from palace.kernel.kernel import Kernel
from palace.protocol.errors import StoreCorrupt
from tests.support.engines.maintenance import MaintenanceProcess, Refused
from tests.support.engines.milvus import need_milvus
from tests.support.engines.postgres import Postgres
from tests.support.engines.probe import Probe
from tests.support.faults.corruptions import SECRET, SIZE, fill
from tests.support.faults.killing import is_deep
from tests.support.processes.clients import PALACE, Site, end_brokers
from tests.support.processes.sites import make_site, start_stock
from tests.support.stores.copies import DSN

pytestmark = [pytest.mark.engine, pytest.mark.process]
ROUNDS = (
    ("sqlite_exact", "pgvector", "chroma"),
    ("milvus", "pgvector", "milvus", "sqlite_exact", "chroma"),
)
FILES = {
    "chroma": "chroma.sqlite3",
    "sqlite_exact": "sqlite_exact.sqlite3",
    "pgvector": "pgvector_backend.json",
    "milvus": "milvus.db",
}
ENDINGS = ("another broker", "once more", "back")
KILLS = 10 if is_deep() else 3
DRAWERS = 5000 if is_deep() else 300

Contents = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def dsn(postgres: Postgres) -> str:
    postgres.ask("CREATE DATABASE of_test_move_store")
    return postgres.dsn("of_test_move_store")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_home: Path, dsn: str) -> Site:
    site = make_site(tmp_path_factory.mktemp("master"), model_home)
    site.extra[DSN] = dsn
    return site


@pytest.fixture(scope="module")
def mover(tmp_path_factory: pytest.TempPathFactory, place: Site) -> Iterator[MaintenanceProcess]:
    """The process that moves and reads, in the home of all these palaces."""
    log = tmp_path_factory.mktemp("mover") / "log"
    with MaintenanceProcess(place.environ(), log) as process:
        yield process


@pytest.fixture(scope="module")
def master(place: Site, mover: MaintenanceProcess) -> tuple[Site, Contents]:
    with Probe(place.environ(), place.palace) as probe:
        fill(probe, place.palace.parent.parent)
        probe.leave()
    return place, mover.ask("contents", place.palace)


@pytest.fixture
def copied(master: tuple[Site, Contents], tmp_path: Path) -> Site:
    site, _ = master
    shutil.copytree(site.palace.parent, tmp_path / "store")
    return Site(home=site.home, palace=tmp_path / "store" / "palace", extra=site.extra)


def assert_holds(found: Contents, wanted: Contents) -> None:
    """Assert that the same memories are there: vectors up to their last bits."""
    for kind in sorted({*found, *wanted} - {"chroma-collection"}):
        there, here = found.get(kind, {}), wanted.get(kind, {})
        assert there.keys() == here.keys(), kind
        assert [i for i in here if not same(there[i], here[i])] == [], kind
    assert found["chroma-collection"].keys() == wanted["chroma-collection"].keys()


def served_by(backend: str, site: Site) -> dict[str, str]:
    """Return the environment of a broker, in which settings name the backend."""
    return site.environ() | {"MEMPALACE_BACKEND": backend}


@pytest.mark.parametrize("backends", ROUNDS, ids="-".join)
def test_from_one_backend_to_the_next_and_back_the_same_memories_are_there(
    mover: MaintenanceProcess,
    master: tuple[Site, Contents],
    copied: Site,
    backends: tuple[str, ...],
) -> None:
    if "milvus" in backends:
        need_milvus()
    wanted, was = master[1], "chroma"
    for backend in backends:
        moved = mover.ask("move_store", copied.palace, backend=backend)

        assert moved["was"] == was
        assert (Path(moved["kept"]) / FILES[was]).exists(), "the old store is kept"
        assert [name for name in FILES.values() if (copied.palace / name).exists()] == [
            FILES[backend]
        ]
        assert mover.ask("doctor", copied.palace) == []
        assert_holds(mover.ask("contents", copied.palace), wanted)
        with Probe(served_by(backend, copied), copied.palace) as probe:
            assert probe.opening["suspects"] == [], "nothing has to be taken over"
            found = probe.tool("search", query="where is the spare key")["results"]
            assert SECRET in [one["text"] for one in found]
            made = probe.tool("add_drawer", wing="w", room="r", content=f"Kept by {backend}.")
            assert made["success"]
            probe.leave()
        wanted, was = mover.ask("contents", copied.palace), backend

    with start_stock(copied.environ(), "--palace", str(copied.palace)) as stock:
        found = stock.tool("search", query="which otter dives", limit=5)["results"]
        assert "Otter" in found[0]["text"]
        kept = stock.tool("search", query="Kept by pgvector.", limit=5)["results"]
        assert "Kept by pgvector." in [one["text"] for one in kept]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_move_that_is_interrupted_is_ended_by_whoever_comes_next(
    mover: MaintenanceProcess, master: tuple[Site, Contents], tmp_path: Path, ending: str
) -> None:
    """Before the first rename, and between any two."""
    source, wanted = master
    whole = mover.ask("move_store", _copy(source, tmp_path / "whole"), backend="sqlite_exact")
    for renames in interruptions(whole["renames"], ending):
        palace = _copy(source, tmp_path / f"{ending} {renames}")
        told = mover.ask("move_store", palace, backend="sqlite_exact", renames=renames)
        assert told == {"interrupted": renames}

        if ending == "another broker":
            site = Site(home=source.home, palace=palace, extra=source.extra)
            with Probe(site.environ(), palace) as probe:
                probe.leave()
        else:
            target = "sqlite_exact" if ending == "once more" else "chroma"
            _move_if_not_there(mover, palace, target)
        assert mover.ask("doctor", palace) == []
        assert_holds(mover.ask("contents", palace), wanted)


def interruptions(renames: int, ending: str) -> list[int]:
    """Return before which renames a move stops: all in the deep profile, else a share of them."""
    if is_deep():
        return list(range(renames))
    return list(range(ENDINGS.index(ending), renames, 5))


def _copy(source: Site, folder: Path) -> Path:
    shutil.copytree(source.palace.parent, folder / "store")
    return folder / "store" / "palace"


def _move_if_not_there(mover: MaintenanceProcess, palace: Path, backend: str) -> None:
    if not (palace / FILES[backend]).exists() or (palace / "swap.json").exists():
        mover.ask("move_store", palace, backend=backend)


@pytest.mark.parametrize("backend", ["sqlite_exact", "pgvector"] if is_deep() else ["pgvector"])
def test_a_killed_move_loses_nothing_and_is_made_again(
    copied: Site, mover: MaintenanceProcess, backend: str
) -> None:
    _make_drawers(copied, DRAWERS)
    wanted = mover.ask("contents", copied.palace)
    began = time.monotonic()
    _move(copied, backend).communicate(timeout=600)
    took_s = time.monotonic() - began
    _run_move(copied, "chroma")
    killed = 0
    for number in range(KILLS):
        moving = _move(copied, backend)
        try:
            moving.wait(took_s * (number + 0.5) / KILLS)
        except subprocess.TimeoutExpired:
            moving.send_signal(signal.SIGKILL)
            killed += 1
        moving.communicate()
        with Probe(copied.environ(), copied.palace) as probe:
            probe.leave()
        assert_holds(mover.ask("contents", copied.palace), wanted)
        assert mover.ask("doctor", copied.palace) == []
        if (copied.palace / FILES[backend]).exists():
            _run_move(copied, "chroma")
    assert killed, "the move is slower than that"
    _run_move(copied, backend)
    assert_holds(mover.ask("contents", copied.palace), wanted)
    assert mover.ask("doctor", copied.palace) == []


def _make_drawers(site: Site, count: int) -> None:
    with Probe(site.environ(), site.palace) as probe:
        for start in range(0, count, 100):
            numbers = range(start, min(count, start + 100))
            problem = probe.on_collection(
                "made",
                "upsert",
                ids=[f"more-{n}" for n in numbers],
                embeddings=[[n % 7 + 0.5, n % 5 - 1.25, n / count] + [1.0] * 29 for n in numbers],
                documents=[f"document {n}" for n in numbers],
                metadatas=[{"n": n, "part": n / 3} for n in numbers],
            )
            assert problem is None
        probe.leave()


def _move(site: Site, backend: str) -> subprocess.Popen[str]:
    argv = [*PALACE, "move-store", backend, "--palace", str(site.palace)]
    return subprocess.Popen(
        argv, env=site.environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _run_move(site: Site, backend: str) -> None:
    moving = _move(site, backend)
    told, _ = moving.communicate(timeout=600)
    assert moving.returncode == 0 or f"in {backend} already" in told, told


def test_what_the_new_store_has_lost_since_it_was_verified_is_written_again(
    copied: Site, mover: MaintenanceProcess, master: tuple[Site, Contents]
) -> None:
    told = mover.ask("move_store", copied.palace, backend="sqlite_exact", last="swapped")
    assert told == {"interrupted": "swapped"}
    with closing(sqlite3.connect(copied.palace / FILES["sqlite_exact"])) as connection:
        gone = connection.execute("DELETE FROM documents WHERE id LIKE 'made-1%'").rowcount
        connection.commit()
    assert gone > 10
    with Probe(served_by("sqlite_exact", copied), copied.palace) as probe:
        probe.leave()
    assert_holds(mover.ask("contents", copied.palace), master[1])
    assert mover.ask("doctor", copied.palace) == []


def test_a_new_store_that_lacks_something_at_once_takes_nothing_out_of_the_journal(
    tmp_path: Path,
) -> None:
    (tmp_path / "palace").mkdir()
    store = Exact(str(tmp_path / "palace"))
    store.make()
    store.write(COLLECTION, {"c": {"embedder": None}})
    journal = Journal.open(str(tmp_path / "journal"), Kernel(), Stamp(epoch=1, writer="w"))
    record = {"document": "d", "metadata": None, "vector": ""}
    journal.append([Draft(action=ADOPT, kind="chroma:c", id="lost", payload=record)])
    seq = journal.seq
    store.read_fingerprint()
    with pytest.raises(StoreCorrupt, match="lacks chroma:c lost"):
        take_over(journal, store, replay(journal.directory, Kernel())).run("chroma:c")
    assert journal.seq == seq
    journal.close()


# Tables that may be somebody's.


@pytest.fixture
def team(tmp_path: Path, mover: MaintenanceProcess, postgres: Postgres) -> Iterator[Site]:
    """A palace in tables whose names don't depend on its directory."""
    postgres.ask("CREATE DATABASE team")
    named = {
        "MEMPALACE_BACKEND": "pgvector",
        "MEMPALACE_PGVECTOR_SHARED_NAMESPACE": "team",
        DSN: postgres.dsn("team"),
    }
    site = make_site(tmp_path, mover.home)
    site.extra.update(named)
    with site.session() as client:
        assert client.tool("add_drawer", wing="w", room="r", content="The team's.")["success"]
    assert site.run("stop").returncode == 0
    yield site
    end_brokers(tmp_path)
    postgres.ask("DROP DATABASE team WITH (FORCE)")


def tables_of(postgres: Postgres) -> set[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    tables = {str(row[0]) for row in postgres.ask(query, database="team")}
    return tables - {"palace_owners"}


def test_proofs_and_restorations_elsewhere_leave_a_living_palaces_tables_alone(
    team: Site, tmp_path: Path, postgres: Postgres
) -> None:
    before = tables_of(postgres)
    assert before
    backups = str(tmp_path / "backups")
    assert team.run("backup", backups).returncode == 0
    proven = team.run("backup", "--verify", backups)
    assert proven.returncode == 0, proven.stderr
    assert tables_of(postgres) == before

    other = Site(home=team.home, palace=tmp_path / "elsewhere" / "palace", extra=team.extra)
    other.palace.mkdir(parents=True)
    for more in ((), ("--replace",)):
        told = other.run("restore", backups, *more)
        assert told.returncode == 82, told.stderr
        assert "already" in told.stderr
        assert tables_of(postgres) == before

    put_back = team.run("restore", backups, "--replace")
    assert put_back.returncode == 0, put_back.stderr
    assert before < tables_of(postgres)
    with team.session() as client:
        (found,) = client.tool("list_drawers")["drawers"]
        assert found["content_preview"] == "The team's."


def test_a_palace_that_leaves_shared_tables_leaves_them_to_the_others(
    team: Site, postgres: Postgres
) -> None:
    before = tables_of(postgres)
    moved = team.run("move-store", "sqlite_exact")
    assert moved.returncode == 0, moved.stderr
    assert "The old tables stay as they are" in moved.stdout
    assert "SHARED_NAMESPACE" in moved.stdout
    assert tables_of(postgres) == before


def test_a_proof_needs_no_server(team: Site, tmp_path: Path) -> None:
    backups = str(tmp_path / "backups")
    assert team.run("backup", backups).returncode == 0
    team.extra[DSN] = "postgresql://nobody@/none?host=/nonexistent"
    (made,) = Path(backups).glob("2*")
    proven = team.run("backup", "--verify", str(made))
    assert proven.returncode == 0, proven.stderr


def test_drawers_of_a_server_that_will_not_come_back_are_made_from_the_journal(
    team: Site,
) -> None:
    team.extra[DSN] = "postgresql://nobody@/none?host=/nonexistent"
    told = team.run("move-store", "sqlite_exact")
    assert told.returncode != 0
    assert "move-store sqlite_exact --partial" in told.stderr
    assert not (team.palace / FILES["sqlite_exact"]).exists()
    told = team.run("move-store", "sqlite_exact", "--partial")
    assert told.returncode == 0, told.stderr
    assert "The old tables stay as they are" in told.stdout
    del team.extra[DSN], team.extra["MEMPALACE_BACKEND"]
    with team.session() as client:
        (found,) = client.tool("list_drawers")["drawers"]
        assert found["content_preview"] == "The team's."


# What is refused, with nothing changed.


def test_a_name_that_palace_does_not_journal_is_refused(copied: Site) -> None:
    told = copied.run("move-store", "qdrant")
    assert told.returncode == 78
    assert "chroma, sqlite_exact, rust_exact, pgvector or milvus" in told.stderr


def test_a_server_of_milvus_is_no_place_to_move_to(copied: Site) -> None:
    copied.extra["MEMPALACE_MILVUS_URI"] = "http://127.0.0.1:1"
    fixed = 'environment={MEMPALACE_MILVUS_URI = "http://127.0.0.1:1"}'
    assert copied.run("config", "set", fixed).returncode == 0
    told = copied.run("move-store", "milvus")
    assert told.returncode == 78, told.stderr
    assert "MILVUS_URI" in told.stderr
    assert "Nothing was changed" in told.stderr


def test_the_backend_that_is_there_is_refused(mover: MaintenanceProcess, copied: Site) -> None:
    with pytest.raises(Refused, match="in chroma already"):
        mover.ask("move_store", copied.palace, backend="chroma")
    mover.ask("move_store", copied.palace, backend="rust_exact")
    with pytest.raises(Refused, match="one format"):
        mover.ask("move_store", copied.palace, backend="sqlite_exact")


def test_settings_of_stocks_that_say_otherwise_are_to_be_changed_first(copied: Site) -> None:
    directory = copied.home / ".mempalace"
    directory.mkdir(exist_ok=True)
    before = _state(copied)
    site = Site(
        home=copied.home,
        palace=copied.palace,
        extra={**copied.extra, "MEMPALACE_CONFIG_DIR": str(directory)},
    )
    assert site.run("config", "set", f"config_dir={directory}").returncode == 0
    (directory / "config.json").write_text(json.dumps({"backend": "chroma"}))
    try:
        told = site.run("move-store", "sqlite_exact")
    finally:
        (directory / "config.json").unlink()
    assert told.returncode == 78
    assert '"backend": "chroma"' in told.stderr
    assert 'Let it say "sqlite_exact"' in told.stderr
    assert _state(copied) == before
    assert site.run("move-store", "sqlite_exact").returncode == 0


def _state(site: Site) -> list[str]:
    names = [path.name for path in site.palace.iterdir()]
    return sorted(name for name in names if name in FILES.values() or name.startswith("replaced"))


def test_what_a_backend_cannot_keep_is_named_and_stays_where_it_is(
    mover: MaintenanceProcess, copied: Site
) -> None:
    mover.ask("move_store", copied.palace, backend="sqlite_exact")
    with Probe(served_by("sqlite_exact", copied), copied.palace) as probe:
        given: dict[str, Any] = {"embeddings": [[0.5] * SIZE], "documents": ["deep"]}
        for ident, metadata in (("nested", {"tree": {"leaf": 1}}), ("a\0b", {"n": 1})):
            record = {"ids": [ident], "metadatas": [metadata], **given}
            assert probe.on_collection("made", "upsert", **record) is None
        probe.leave()
    with pytest.raises(Refused, match="'nested': its metadata 'tree' is nested"):
        mover.ask("move_store", copied.palace, backend="chroma")
    with pytest.raises(Refused, match="PostgreSQL has no such id"):
        mover.ask("move_store", copied.palace, backend="pgvector")
    assert mover.ask("doctor", copied.palace) == []


def test_tables_that_cannot_be_reached_keep_their_names_and_are_told(
    mover: MaintenanceProcess, master: tuple[Site, Contents], copied: Site
) -> None:
    mover.ask("move_store", copied.palace, backend="pgvector")
    gone = "postgresql://nobody@/none?host=/nonexistent"
    site = Site(home=copied.home, palace=copied.palace, extra={**copied.extra, DSN: gone})
    told = site.run("move-store", "sqlite_exact", "--partial")
    assert told.returncode == 0, told.stderr
    assert "The old tables stay as they are: PostgreSQL" in told.stdout
    assert_holds(mover.ask("contents", copied.palace), master[1])


@pytest.mark.parametrize("interrupted", ["", "sqlite_exact"], ids=["at once", "after another"])
def test_tables_of_another_palace_are_left_alone(
    mover: MaintenanceProcess, copied: Site, tmp_path: Path, interrupted: str
) -> None:
    """A move that was interrupted has left some itself, but not one to another backend."""
    aside = tmp_path / "aside"
    shutil.copytree(copied.palace.parent, aside)
    mover.ask("move_store", copied.palace, backend="pgvector")
    shutil.rmtree(copied.palace.parent)
    aside.rename(copied.palace.parent)  # on Chroma, where a palace had its tables
    assert copied.run("config", "unset", "environment").returncode == 0
    if interrupted:
        mover.ask("move_store", copied.palace, backend=interrupted, renames=0)

    with pytest.raises(Refused, match=r"has tables mempalace_.* already"):
        mover.ask("move_store", copied.palace, backend="pgvector")


def test_an_interrupted_move_is_named_where_the_settings_say_otherwise(
    mover: MaintenanceProcess, master: tuple[Site, Contents], tmp_path: Path
) -> None:
    """With neither store in its place, and nothing that says how to go on."""
    for renames in range(30):
        palace = _copy(master[0], tmp_path / str(renames))
        mover.ask("move_store", palace, backend="sqlite_exact", renames=renames)
        if not any((palace / name).exists() for name in FILES.values()):
            break
    (palace / "swap.json").unlink()
    site = Site(home=master[0].home, palace=palace, extra=master[0].extra)
    named = 'environment={MEMPALACE_BACKEND="pgvector"}'
    assert site.run("config", "set", named).returncode == 0
    told = site.run("start")
    assert told.returncode != 0
    assert "palace move-store sqlite_exact" in told.stdout + told.stderr


# What is made of an entity.


def test_whatever_keeps_it_already_is_kept_as_it_is(master: tuple[Site, Contents]) -> None:
    known = replay(str(master[0].palace / "journal"), Kernel())
    there = Translation(known, "chroma")
    assert there.kinds() == known.kinds()
    for kind in sorted(known.kinds()):
        assert there.ids(kind) == known.ids(kind)
        for ident, payload in known.payloads(kind):
            assert same(there.payload((kind, ident)), payload), (kind, ident)


def test_the_embedders_name_goes_where_a_backend_keeps_it(
    mover: MaintenanceProcess, copied: Site
) -> None:
    noted = json.loads((copied.palace / "mempalace_embedder.json").read_text())
    mover.ask("move_store", copied.palace, backend="sqlite_exact")
    found = mover.ask("contents", copied.palace)["chroma-collection"]
    told = {name: model["embedder"] for name, model in found.items() if model["embedder"]}
    assert told == {name: entry["model_name"] for name, entry in noted.items() if name in found}
    assert told

    known = replay(str(copied.palace / "journal"), Kernel())
    file = ("file", "mempalace_embedder.json")
    known.live.pop(file)  # as where sqlite_exact was the first backend
    made: Any = Translation(known, "chroma").payload(file)
    again = json.loads(base64.b64decode(made["base64"]))
    assert {name: entry["model_name"] for name, entry in again.items()} == told
    assert again["mempalace_drawers"]["dimension"] == 384
    assert "mempalace_embedder.json" in Translation(known, "pgvector").ids("file")
