"""The store of pgvector on a real PostgreSQL: what the seam journals is what its tables hold.

What the server does meanwhile is real, too: it is restarted, ends sessions in the middle of a
commit, is put back to an older copy, and is promoted from a replica.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mempalace.backends.base import BackendError, DimensionMismatchError, PalaceNotFoundError
from mempalace.backends.pgvector import PgVectorBackend

from palace.engine.durability.recovery import Recovery
from palace.engine.stores.drawers import COLLECTION, PREFIX
from palace.engine.stores.pgvector import PgVector
from palace.engine.stores.pgvector_seam import pgvector_patches
from palace.engine.stores.pgvector_tables import Target, target_of
from palace.journal.journal import Journal
from palace.journal.record import Stamp
from palace.journal.replay import no_progress
from palace.kernel.kernel import Kernel
from palace.protocol.errors import ConfigError, JournalFailed, StoreUnavailable
from tests.support.engines.postgres import Postgres, running_postgres
from tests.support.stores.drawers import NAME, SeamedPalace, calls, make_all, put, seamed

pytestmark = [pytest.mark.engine]

KIND = PREFIX + NAME
WAIT_S = 20.0
RECORD = {"documents": ["otter"], "metadatas": [{}], "embeddings": [[1.0, 2.0]]}


@contextmanager
def opened(root: Path, server: Postgres) -> Iterator[SeamedPalace]:
    """Yield a palace whose tables are in a server; its stores' sessions end with it."""
    stores: list[PgVector] = []

    def open_store() -> PgVector:
        target = target_of(str(root), str(root.parent), os.environ)
        stores.append(PgVector(str(root), target))
        return stores[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root.parent))
        patch.setenv("MEMPALACE_PGVECTOR_DSN", server.dsn())
        try:
            with seamed(root, open_store, pgvector_patches, PgVectorBackend()) as palace:
                yield palace
        finally:
            for store in stores:
                store.close()


@pytest.fixture
def made(tmp_path: Path, postgres: Postgres) -> Iterator[SeamedPalace]:
    with opened(tmp_path / "palace", postgres) as palace:
        yield palace


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    """A server that a test may stop."""
    with running_postgres() as server:
        yield server


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(made_calls=st.lists(calls(), max_size=6))
def test_the_journal_says_what_stands_in_the_tables(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Postgres,
    made_calls: list[tuple[str, dict[str, Any]]],
) -> None:
    with opened(tmp_path_factory.mktemp("pg") / "palace", postgres) as palace:
        make_all(palace, made_calls)


AWKWARD: list[Any] = [1e22, -1e300, -0.0, 5e-324, 1e-7, 1.0, 2**70, "a\0b", "\ud800", [0.1, "\0"]]


@pytest.mark.parametrize("value", AWKWARD, ids=ascii)
def test_what_tables_keep_otherwise_is_journalled_so(made: SeamedPalace, value: Any) -> None:
    """JSONB writes numbers out, and no text has a NUL or half a character in it."""
    text = value if isinstance(value, str) else "otter"
    given = {"documents": [text], "embeddings": [[1.0, -0.0]]}
    made.collection.upsert(ids=[f"a{text}"], metadatas=[{"k": value, text: {"k": value}}], **given)
    made.assert_told()
    made.collection.update(ids=["aotter"], metadatas=[{"more": value}])
    made.assert_told()
    assert len(made.told) == 2


def test_a_record_that_the_journal_does_not_take_is_not_written(made: SeamedPalace) -> None:
    put(made, "a")
    made.groups.stuck = True  # as after a change that could not be taken back
    with pytest.raises(JournalFailed):
        put(made, "b")
    assert made.collection.get().ids == ["a"]


def test_tables_of_another_palace_are_not_this_ones(made: SeamedPalace) -> None:
    other = made.backend.get_collection(str(made.root.parent / "other"), NAME, create=True)
    other.upsert(ids=["a"], **RECORD)
    made.backend.delete_collection(str(made.root.parent / "other"), NAME)
    assert made.told == {}


def test_a_collection_goes_with_its_records(made: SeamedPalace) -> None:
    put(made, "a", "b")
    assert made.told[COLLECTION, NAME] == {"dimension": 2}
    made.backend.delete_collection(str(made.root), NAME)
    assert made.told == {}
    made.assert_told()


def test_vectors_of_another_dimension_change_nothing(made: SeamedPalace) -> None:
    put(made, "a")
    before, seq = made.told, made.groups.journal.seq
    with pytest.raises(DimensionMismatchError):
        made.collection.upsert(
            ids=["b"], documents=["x"], metadatas=[{}], embeddings=[[1.0, 2.0, 3.0]]
        )
    assert made.told == before
    assert made.groups.journal.seq == seq


def test_a_name_that_no_longer_fits_is_known(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock shortens a table's name to 63 bytes, and puts a digest at its end."""
    monkeypatch.setenv("MEMPALACE_PGVECTOR_NAMESPACE", "a team " * 12)
    with opened(tmp_path / "palace", postgres) as palace:
        put(palace, "a")
        palace.assert_told()
        assert list(palace.told) == [(COLLECTION, NAME), (KIND, "a")]


def test_vectors_are_kept_to_the_bit(made: SeamedPalace) -> None:
    exact = [0.1, -0.0, 1e-40, 3.4e38]
    made.collection.upsert(ids=["a"], documents=["otter"], metadatas=[{}], embeddings=[exact])
    told = made.told[KIND, "a"]
    copy = PgVector(str(made.root), Target(made.store.target.dsn, "mempalace_copy"))
    try:
        copy.write(COLLECTION, {NAME: {"dimension": 4}})
        copy.write(KIND, {"a": told})
        assert copy.read(KIND, ["a"]) == {"a": told}
        copy.write(COLLECTION, {NAME: None})
        assert copy.read(COLLECTION, [NAME]) == {}
    finally:
        copy.close()


def test_new_tables_take_the_place_of_old_ones(made: SeamedPalace, postgres: Postgres) -> None:
    put(made, "a", "b")
    new = PgVector(str(made.root), made.store.target.made("1"))
    for _ in range(2):  # of one that was killed, nothing is left
        new.make()
        new.read_fingerprint()
        assert new.kinds() == (COLLECTION,)
        new.write(COLLECTION, {NAME: {"dimension": 2}})
        new.write(KIND, {"c": made.told[KIND, "a"]})
    new.read_fingerprint()
    real = made.looked_at()
    real.put_in_place(new, "7")
    real.put_in_place(new, "8")  # as where the server ended the session after the commit
    assert real.ids(KIND) == ["c"]
    old = PgVector(str(made.root), made.store.target.aside("7"))
    assert old.ids(KIND) == ["a", "b"]
    PgVector(str(made.root), Target(old.target.dsn, "palace_old_9_of_another")).write(
        COLLECTION, {NAME: {"dimension": 2}}
    )
    new.write(COLLECTION, {NAME: {"dimension": 2}})
    new.read_fingerprint()
    real.put_in_place(new, "")
    assert real.ids(KIND) == []
    assert old.ids(KIND) == [], "it went aside before, and is gone as well"
    left = postgres.ask("SELECT relname FROM pg_class WHERE relname LIKE 'palace%%drawers'")
    assert left == [("palace_old_9_of_another_mempalace_drawers",)]
    postgres.ask("DROP TABLE palace_old_9_of_another_mempalace_drawers")


def test_stock_finds_tables_whose_mark_was_lost(made: SeamedPalace) -> None:
    made.store.mark_again()
    assert not Path(made.store.path).exists(), "there are no tables yet"
    put(made, "a")
    Path(made.store.path).unlink()
    with pytest.raises(PalaceNotFoundError):
        made.backend.get_collection(str(made.root), NAME)
    made.store.mark_again()
    assert made.backend.get_collection(str(made.root), NAME).count() == 1
    assert "pgvector" in Path(made.store.path).read_text()


@pytest.mark.parametrize("torn", ["", '{"backend": "pgv'])
def test_a_mark_that_a_kill_has_torn_is_made_again(made: SeamedPalace, torn: str) -> None:
    put(made, "a")
    Path(made.store.path).write_text(torn)
    with pytest.raises(BackendError, match="marker is unreadable"):
        made.backend.get_collection(str(made.root), NAME)
    made.store.mark_again()
    assert made.backend.get_collection(str(made.root), NAME).count() == 1


def test_tables_of_another_database_are_refused_by_name(made: SeamedPalace) -> None:
    put(made, "a")
    then = made.store.fingerprint()
    made.looked_at().check_place(then)
    for name in ("server", "database", "prefix"):
        with pytest.raises(StoreUnavailable, match=r"of a palace in tables .*elsewhere") as refused:
            made.looked_at().check_place({**then, name: "elsewhere"})
        assert "Nothing was changed" in str(refused.value)


# Which state it is in.


FOREIGN: dict[str, str] = {
    "a new record": "INSERT INTO {} (id, embedding) VALUES ('z', '[0,1]')",
    "another text": "UPDATE {} SET document = 'other' WHERE id = 'a'",
    "other metadata": "UPDATE {} SET metadata = '{{\"k\": 2}}' WHERE id = 'a'",
    "another vector": "UPDATE {} SET embedding = '[5,5]' WHERE id = 'a'",
    "a deletion": "DELETE FROM {} WHERE id = 'b'",
    "one for another": "UPDATE {} SET id = 'y' WHERE id = 'b'",
    "no records any more": "TRUNCATE {}",
    "no table any more": "DROP TABLE {}",
}


def table_of(made: SeamedPalace) -> str:
    return f'"{made.store.target.table(NAME)}"'


@pytest.mark.parametrize("change", FOREIGN)
def test_what_another_program_does_is_noticed(
    made: SeamedPalace, postgres: Postgres, change: str
) -> None:
    put(made, "a", "b")
    then = made.store.fingerprint()
    postgres.ask(f"VACUUM (FULL, FREEZE, ANALYZE) {table_of(made)}")
    assert not made.looked_at().suspects(then, {}), "housekeeping is no change"
    postgres.ask(FOREIGN[change].format(table_of(made)))
    assert made.looked_at().suspects(then, {})
    if change != "no table any more":
        assert not made.looked_at().was_replaced(then), "it went on: what is gone was deleted"
    assert not made.looked_at().is_older(then)


def test_what_was_under_way_at_the_fingerprint_is_noticed(
    made: SeamedPalace, postgres: Postgres
) -> None:
    import psycopg

    put(made, "a", "b")
    with psycopg.connect(postgres.dsn()) as other:
        other.execute(f"UPDATE {table_of(made)} SET document = 'other' WHERE id = 'a'")
        put(made, "c")
        then = made.store.fingerprint()
    assert made.looked_at().suspects(then, {})


def test_where_no_transaction_was_since_nothing_was_deleted(made: SeamedPalace) -> None:
    put(made, "a", "b")
    then = made.store.fingerprint()
    now = made.looked_at()
    now._clock = now._clock._replace(next=then["next"])  # whatever else the server did
    assert now.was_replaced(then)


def test_a_copy_that_was_put_back_is_older(own_server: Postgres, tmp_path: Path) -> None:
    with opened(tmp_path / "palace", own_server) as made:
        put(made, "a")
        old = made.store.fingerprint()
        own_server.stop()
        shutil.copytree(own_server.data, own_server.root / "copy")
        own_server.start()
        put(made, "b")
        new = made.store.fingerprint()
        own_server.stop()
        put_back(own_server)
        own_server.start()
        assert made.looked_at().is_older(new)
        assert made.looked_at().was_replaced(new)
        assert not made.looked_at().is_older(old)
        assert not made.looked_at().suspects(old, {})


def put_back(server: Postgres) -> None:
    """Put back the copy of a server's data; its owner is the server's."""
    owner = server.data.stat()
    shutil.rmtree(server.data)
    (server.root / "copy").rename(server.data)
    for path in (server.data, *server.data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def test_what_a_promoted_replica_lacks_was_lost(own_server: Postgres, tmp_path: Path) -> None:
    """Even though it counts on, and further than the server that it takes the place of."""
    with opened(tmp_path / "palace", own_server) as made:
        put(made, "a")
        own_server.stop()
        shutil.copytree(own_server.data, own_server.root / "copy")
        own_server.start()
        put(made, "b")
        acknowledged = made.store.fingerprint()
        own_server.stop()
        put_back(own_server)
        standby = own_server.data / "standby.signal"
        standby.touch()
        own_server.start()

        with pytest.raises(StoreUnavailable, match="it is read-only, as a replica is"):
            made.store.write(KIND, {"a": None})
        assert "read-only" in refusal_of(lambda: put(made, "c"))
        assert list(made.store.read(KIND, ["a", "b", "c"])) == ["a"]

        own_server.ask("SELECT pg_promote()")
        for _ in range(5):
            own_server.ask("SELECT pg_current_xact_id()")
        assert "took the place" in refusal_of(lambda: put(made, "c"))
        made.store.claim()
        now = made.looked_at()
        assert now.fingerprint()["next"] > acknowledged["next"]
        assert now.suspects(acknowledged, {})
        assert now.was_replaced(acknowledged), "what it lacks is written again"


def refusal_of(act: Callable[[], object]) -> str:
    with pytest.raises((BackendError, StoreUnavailable)) as refused:
        act()
    return str(refused.value)


# What the server does meanwhile.


def test_sessions_that_an_administrator_ends_cost_nothing(
    made: SeamedPalace, postgres: Postgres
) -> None:
    for ident in "abc":
        put(made, ident)
        assert postgres.end_sessions() > 0
    made.collection.delete(ids=["b"])
    made.assert_told()
    assert [entity[1] for entity in made.told] == [NAME, "a", "c"]


def waiting(server: Postgres, event: str) -> list[int]:
    """Wait until sessions wait for something of this name, and return them."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event = %s"
    until = time.monotonic() + WAIT_S
    while not (found := [row[0] for row in server.ask(query, event)]):
        assert time.monotonic() < until, server.ask("SELECT * FROM pg_stat_activity")
        time.sleep(0.01)
    return found


@contextmanager
def beside(act: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run something in another thread, and wait for it at the end; yields what it has raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except (BackendError, StoreUnavailable, JournalFailed) as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield raised
    thread.join(WAIT_S)
    assert not thread.is_alive()


def commit_freely(server: Postgres) -> None:
    import psycopg

    with psycopg.connect(server.dsn(), autocommit=True) as session:
        session.execute("SET synchronous_commit = 'local'")
        session.execute("ALTER SYSTEM RESET synchronous_standby_names")
        session.execute("SELECT pg_reload_conf()")


def test_a_commit_whose_answer_was_lost_is_made_once(own_server: Postgres, tmp_path: Path) -> None:
    with opened(tmp_path / "palace", own_server) as made:
        put(made, "a")
        require_a_replica(own_server)
        with beside(lambda: put(made, "b")) as raised:
            committed = waiting(own_server, "SyncRep")
            commit_freely(own_server)
            end(own_server, committed)
        assert raised == []
        made.assert_told()
        assert made.collection.count() == 2


def require_a_replica(server: Postgres) -> None:
    """Let each commit wait for a replica that doesn't exist: it is made, and not answered."""
    server.ask("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.ask("SELECT pg_reload_conf()")
    time.sleep(0.2)


def end(server: Postgres, sessions: list[int]) -> None:
    server.ask("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", sessions)


def test_a_server_that_crashes_in_mid_call_is_settled_by_the_next_owner(
    own_server: Postgres, tmp_path: Path
) -> None:
    import psycopg

    with opened(tmp_path / "palace", own_server) as made:
        put(made, "a", "b")
        made.groups.journal.fingerprints = lambda: {"pgvector": made.store.fingerprint()}
        close_base(made)
        holder = psycopg.connect(own_server.dsn())
        holder.execute(f"SELECT * FROM {table_of(made)} WHERE id = 'b' FOR UPDATE")
        with beside(lambda: put_both(made)) as raised:
            waiting(own_server, "transactionid")
            own_server.stop(signal.SIGQUIT)
        holder.close()
        assert len(raised) == 1
        assert made.groups.stuck
        own_server.start()

        recover(made)
        made.assert_told()
        assert made.store.read(KIND, ["a"])["a"]["document"] == "a", "half of it was taken back"


def close_base(made: SeamedPalace) -> None:
    journal = made.groups.journal
    journal.sync(journal.close_key("", "state"))


def put_both(made: SeamedPalace) -> None:
    made.collection.upsert(
        ids=["a", "b"],
        documents=["new", "new"],
        metadatas=[{}, {}],
        embeddings=[[1.0, 2.0], [3.0, 4.0]],
    )


def recover(made: SeamedPalace) -> None:
    """Open the palace as its next owner does."""
    directory = made.groups.journal.directory
    made.groups.journal.close()
    journal = Journal.open(directory, Kernel(), Stamp(epoch=2, writer="next"))
    made.groups.journal, made.groups.stuck = journal, False
    recovery = Recovery(journal=journal, projections=[made.store], progress=no_progress)
    recovery.scan()
    journal.fingerprints = recovery.fingerprints
    recovery.run()


# What can't be used.


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:hu@sh@host/x",  # what follows the first @ is the host, for libpq
        "postgresql://me:hu/sh@host/x",  # and what comes before the first / the port
        "postgresql://me:hush%zz@host/x",
        "password=hush host",
    ],
)
def test_a_connection_string_that_says_nothing_shows_no_password(
    postgres: Postgres, tmp_path: Path, dsn: str
) -> None:
    assert postgres.ask("SELECT 1"), "its driver is there"
    store = PgVector(str(tmp_path), Target(dsn, "p"))
    with pytest.raises(ConfigError, match="can't be understood") as refused:
        store.read_fingerprint()
    assert "hu" not in str(refused.value)
    assert "sh@" not in str(refused.value)
    assert "hush" not in repr(store)


def test_a_server_that_is_not_there_is_named(postgres: Postgres, tmp_path: Path) -> None:
    assert postgres.ask("SELECT 1"), "its driver is there"
    store = PgVector(str(tmp_path), Target(f"postgresql://me:hush@/x?host={tmp_path}", "p"))
    with pytest.raises(StoreUnavailable, match=r"can't be reached: .*No such file") as refused:
        store.read_fingerprint()
    assert "hush" not in str(refused.value)


def test_a_database_without_the_extension_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    postgres.ask("CREATE DATABASE bare")
    postgres.ask("CREATE ROLE somebody LOGIN")
    store = PgVector(str(tmp_path), Target(postgres.dsn("bare", "somebody"), "p"))
    try:
        with pytest.raises(StoreUnavailable, match="refuses: permission denied"):
            store.write(COLLECTION, {NAME: {"dimension": 2}})
        assert store.read(COLLECTION, [NAME]) == {}
    finally:
        store.close()
