"""Who may write the tables of a PostgreSQL server: two palaces, one namespace, one real server.

Sessions are ended, servers crash and replicas take over in the middle; poolers are PgBouncer.
"""

import gc
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg
import pytest

from palace.engine.stores import pgvector_fence, pgvector_pooler
from palace.engine.stores.pgvector import PgVector, release_tables
from palace.engine.stores.pgvector_fence import Fence
from palace.engine.stores.pgvector_session import Server, let_in
from palace.engine.stores.pgvector_tables import Target
from palace.protocol.errors import StoreOwned, StoreUnavailable
from tests.support.engines.postgres import Postgres, running_postgres
from tests.support.machines.needs import want
from tests.support.processes.clients import wait_until

pytestmark = [pytest.mark.engine]


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server that a test may stop."""
    with running_postgres() as server:
        yield server


_parties: list["Party"] = []  # of the test that runs


@attrs.define
class Party:
    """A process of a palace that writes the tables, played in this one."""

    fence: Fence
    server: Server
    postgres: Postgres

    @classmethod
    def at(cls, root: Path, server: Postgres, dsn: str = "") -> "Party":
        root.mkdir(parents=True, exist_ok=True)
        fence = Fence(dsn or server.dsn(), "shared", str(root))
        party = cls(fence, Server(fence.dsn, fence), server)
        _parties.append(party)
        return party

    def take(self) -> int:
        self.server.run(self.fence.take)
        return self.fence.epoch

    def write(self, text: str = "") -> None:
        """Write a line with the epoch in which this party believes to be."""
        line = "INSERT INTO lines VALUES (%s, %s, %s)"
        values = [self.fence.epoch, self.fence.root, text]
        self.server.transact(lambda session: session.execute(line, values))

    def leave(self, *, settled: bool = True) -> None:
        self.server.run(lambda session: self.fence.release(session, settled=settled), writes=True)
        self.server.close()

    def die(self) -> None:
        """Lose all sessions, as a process that is killed; the server has noticed that then."""
        session = self.server._session
        assert session is not None
        pid = session.info.backend_pid
        self.server.close()
        alive = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: not self.postgres.ask(alive, pid))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pgvector_fence, "CLAIM_S", 0.3)
    yield
    while _parties:
        _parties.pop().server.close()


@pytest.fixture
def lines(postgres: Postgres) -> Iterator[Postgres]:
    """A database in which nobody has asked for the tables yet, and lines to be written."""
    make_lines(postgres)
    yield postgres
    postgres.end_sessions()  # which parties of a test have left
    postgres.ask("DROP TABLE lines")


def make_lines(postgres: Postgres) -> None:
    postgres.ask(f"DROP TABLE IF EXISTS {pgvector_fence.TABLE}")
    postgres.ask("CREATE TABLE lines (epoch bigint, root text, line text)")


def test_one_palace_at_a_time_has_the_right(lines: Postgres, tmp_path: Path) -> None:
    a, b = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    assert a.take() == 1
    a.write()
    with pytest.raises(StoreOwned, match=f"those of palace .* in {tmp_path}/a") as refused:
        b.take()
    owner = refused.value.details["owner"]
    assert isinstance(owner, dict)
    assert (owner["epoch"], owner["place"], owner["settled"]) == (1, str(tmp_path / "a"), False)
    with pytest.raises(StoreOwned):
        b.write()
    a.leave()
    assert b.take() == 2
    b.write()
    assert lines.ask("SELECT epoch, root FROM lines ORDER BY epoch") == [
        (1, str(tmp_path / "a")),
        (2, str(tmp_path / "b")),
    ]


def test_all_sessions_of_an_owner_hold_it(lines: Postgres, tmp_path: Path) -> None:
    """Stock writes in a session of its own: that of the owner that is left keeps all others out."""
    a, b = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    a.take()
    stocks: Any = psycopg.connect(lines.dsn())
    let_in(stocks, a.fence)
    assert not stocks.autocommit, "as stock has it"
    b.fence.force = True  # so that it is the lock alone that keeps it out
    a.die()
    with pytest.raises(StoreOwned, match="one palace at a time"):
        b.take()
    stocks.close()
    assert b.take() == 2


def test_an_owner_that_ended_in_the_middle_keeps_others_out(
    lines: Postgres, tmp_path: Path
) -> None:
    a, b = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    a.take()
    a.die()
    with pytest.raises(StoreOwned, match="ended in the middle"):
        b.take()
    successor = Party.at(tmp_path / "a", lines)
    assert successor.take() == 2, "whose journal can settle it"
    successor.leave()
    assert b.take() == 3


def test_the_right_can_be_taken_from_one_that_is_gone_for_good(
    lines: Postgres, tmp_path: Path
) -> None:
    a, b = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    a.take()
    b.fence.force = True
    with pytest.raises(StoreOwned, match="one palace at a time"):
        b.take()
    a.die()
    assert b.take() == 2
    b.die()
    with pytest.raises(StoreOwned, match="in the middle"):
        Party.at(tmp_path / "a", lines).take()


def test_an_owner_whose_sessions_were_ended_goes_on(lines: Postgres, tmp_path: Path) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    for number in range(3):
        lines.end_sessions()
        a.write(str(number))
    assert lines.ask("SELECT epoch, line FROM lines") == [(1, "0"), (1, "1"), (1, "2")]


def test_an_owner_that_lost_the_right_meanwhile_writes_nothing(
    lines: Postgres, tmp_path: Path
) -> None:
    a, b = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    a.take()
    lines.end_sessions()
    b.fence.force = True
    b.take()
    b.write("b")
    with pytest.raises(StoreUnavailable, match=f"those of palace .* in {tmp_path}/b"):
        a.write("a")
    b.leave()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            a.write("a")
    assert "b" in a.fence.lost
    assert lines.ask("SELECT line FROM lines") == [("b",)]


def test_what_is_under_way_when_the_session_ends_is_not_committed(
    lines: Postgres, tmp_path: Path
) -> None:
    a, b = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    a.take()
    session = a.server._opened()
    session.execute("BEGIN")
    session.execute("INSERT INTO lines VALUES (1, 'a', 'late')")
    b.fence.force = True
    with pytest.raises(StoreOwned):
        b.take()
    lines.end_sessions()
    b.take()
    with pytest.raises(psycopg.Error):
        session.execute("COMMIT")
    assert lines.ask("SELECT line FROM lines") == []


def test_sessions_of_a_dead_owner_of_the_same_directory_are_ended(
    lines: Postgres, tmp_path: Path
) -> None:
    """A server may not have missed them yet; its directory's lock says that their owner is dead."""
    a, successor = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "a", lines)
    a.take()
    zombie = a.server._opened()
    assert successor.take() == 2
    with pytest.raises(psycopg.Error):
        zombie.execute("SELECT 1")


def test_a_copy_of_the_directory_is_another_palace(lines: Postgres, tmp_path: Path) -> None:
    """Even one that has its note: it neither ends the sessions of the one that lives, nor is it."""
    a = Party.at(tmp_path / "a", lines)
    a.take()
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    copy = Party.at(tmp_path / "copy", lines)
    with pytest.raises(StoreOwned, match="one palace at a time"):
        copy.take()
    a.write("a")
    a.die()
    with pytest.raises(StoreOwned, match="in the middle"):
        copy.take()


def test_a_directory_that_was_renamed_is_the_same_palace(lines: Postgres, tmp_path: Path) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.die()
    (tmp_path / "a").rename(tmp_path / "moved")
    assert Party.at(tmp_path / "moved", lines).take() == 2


def test_owners_that_a_replica_has_lost_are_remembered(lines: Postgres, tmp_path: Path) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    row = lines.ask(f"SELECT * FROM {pgvector_fence.TABLE}")[0]
    for _ in range(3):
        a.die()
        a = Party.at(tmp_path / "a", lines)
        a.take()
    a.die()
    lines.ask(f"DELETE FROM {pgvector_fence.TABLE}")
    marks = ", ".join(["%s"] * len(row))
    lines.ask(f"INSERT INTO {pgvector_fence.TABLE} VALUES ({marks})", *row)
    assert Party.at(tmp_path / "a", lines).take() == 2


def test_nobody_becomes_the_owner_between_a_look_and_what_follows_from_it(
    lines: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the sessions that are ended would be those of whoever has the right by then."""
    a, successor = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "a", lines)
    a.take()
    read, looks = Fence.owner, []

    def owner(fence: Fence, session: Any, **how: bool) -> Any:
        found = read(fence, session, **how)
        if how:
            looks.append(found)
            with pytest.raises(psycopg.errors.LockNotAvailable):
                lines.ask(f"SELECT 1 FROM {pgvector_fence.TABLE} FOR UPDATE NOWAIT")
        return found

    monkeypatch.setattr(Fence, "owner", owner)
    assert successor.take() == 2
    assert looks, "its predecessor's sessions were in the way"


def test_nothing_is_said_to_be_settled_to_another_server(
    lines: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.die()
    a.fence._server = ("another", "00000001")
    with pytest.raises(StoreUnavailable, match="took the place"):
        a.leave()
    assert lines.ask(f"SELECT settled FROM {pgvector_fence.TABLE}") == [(False,)]


def test_a_session_that_ends_before_the_row_is_committed_has_claimed_nothing(
    lines: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Party.at(tmp_path / "a", lines)
    claim, ended = Fence._claim_row, []

    def cut(fence: Fence, session: Any) -> Any:
        claimed = claim(fence, session)
        if not ended:
            ended.append(lines.end_sessions())
        return claimed

    monkeypatch.setattr(Fence, "_claim_row", cut)
    assert a.take() == 1
    a.write("a")


def test_what_was_found_unsettled_stays_so_unless_somebody_has_looked(
    lines: Postgres, tmp_path: Path
) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.die()
    blind = Party.at(tmp_path / "a", lines)
    blind.take()
    blind.server.run(lambda session: blind.fence.release(session, settled=None), writes=True)
    with pytest.raises(StoreOwned, match="in the middle"):
        Party.at(tmp_path / "b", lines).take()


def test_whoever_has_left_does_not_come_again_unasked(lines: Postgres, tmp_path: Path) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.leave()
    with pytest.raises(StoreUnavailable, match="just left"):
        a.write("late")
    assert a.take() == 2


def test_an_owner_that_dies_while_it_asks_finds_the_right_its_own(
    lines: Postgres, tmp_path: Path
) -> None:
    """What it notes of itself is durable before the database says so, and names both owners."""
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.die()
    second = Party.at(tmp_path / "a", lines)
    session: Any = second.server._opened()
    with session.transaction(force_rollback=True):  # dead before it was committed
        second.fence._claim_row(session)
    second.die()
    third = Party.at(tmp_path / "a", lines)
    assert third.take() == 2
    third.die()
    assert Party.at(tmp_path / "a", lines).take() == 3


def test_a_namespace_has_a_right_of_its_own(lines: Postgres, tmp_path: Path) -> None:
    a, other = Party.at(tmp_path / "a", lines), Party.at(tmp_path / "b", lines)
    other.fence.prefix = "another"
    assert (a.take(), other.take()) == (1, 1)


def test_of_many_that_ask_at_once_one_gets_it(lines: Postgres, tmp_path: Path) -> None:
    parties = [Party.at(tmp_path / str(number), lines) for number in range(6)]
    for party in parties:
        party.fence.force = True
    taken: list[Party] = []

    def ask(party: Party) -> None:
        try:
            party.take()
        except StoreOwned:
            return
        taken.append(party)

    asking = [threading.Thread(target=ask, args=[party]) for party in parties]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(taken) == 1
    assert lines.ask(f"SELECT epoch, place FROM {pgvector_fence.TABLE}") == [
        (1, taken[0].fence.root)
    ]


def test_after_a_crash_of_the_server_the_owner_goes_on(server: Postgres, tmp_path: Path) -> None:
    make_lines(server)
    a = Party.at(tmp_path / "a", server)
    a.take()
    server.stop(signal.SIGQUIT)
    server.start()
    a.write("on")
    assert server.ask("SELECT epoch FROM lines") == [(1,)]


def test_a_replica_that_took_over_has_no_owner_yet(server: Postgres, tmp_path: Path) -> None:
    """It may lack the last commits: what it lacks is written again by whoever opens it anew."""
    make_lines(server)
    a = Party.at(tmp_path / "a", server)
    a.take()
    a.leave()
    server.stop()
    shutil.copytree(server.data, server.root / "copy")
    server.start()
    a.take()  # which the replica lacks
    a.write("lost")
    server.stop()
    shutil.rmtree(server.data)
    (server.root / "copy").rename(server.data)
    (server.data / "standby.signal").touch()
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", f"{server.user}", str(server.data)], check=True)
    server.start()
    with pytest.raises(StoreUnavailable, match="it is read-only, as a replica is"):
        a.write("a")
    assert not a.fence.lost, "it may be promoted, or the other one may come back"
    server.ask("SELECT pg_promote()")
    with pytest.raises(StoreUnavailable, match="took the place of the one"):
        a.write("a")
    assert a.fence.lost
    assert a.take() == 2
    a.write("again")
    assert server.ask("SELECT epoch, line FROM lines") == [(2, "again")]


def test_a_user_who_may_make_no_table_is_told(lines: Postgres, tmp_path: Path) -> None:
    lines.ask("CREATE ROLE reader LOGIN")
    lines.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(StoreUnavailable, match="GRANT CREATE ON SCHEMA public"):
            Party.at(tmp_path / "a", lines, lines.dsn(user="reader")).take()
    finally:
        lines.ask("DROP ROLE reader")


def test_another_user_is_told_what_to_be_granted(lines: Postgres, tmp_path: Path) -> None:
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.leave()
    lines.ask("CREATE ROLE colleague LOGIN")
    try:
        b = Party.at(tmp_path / "b", lines, lines.dsn(user="colleague"))
        with pytest.raises(StoreUnavailable, match="GRANT SELECT, INSERT, UPDATE ON"):
            b.take()
        lines.ask(f"GRANT SELECT, INSERT, UPDATE ON {pgvector_fence.TABLE} TO colleague")
        assert b.take() == 2
    finally:
        lines.end_sessions()
        lines.ask("DROP OWNED BY colleague")
        lines.ask("DROP ROLE colleague")


def test_tables_of_another_schema_are_others(lines: Postgres, tmp_path: Path) -> None:
    lines.ask("CREATE SCHEMA other")
    try:
        a = Party.at(tmp_path / "a", lines)
        elsewhere = f"{lines.dsn()}&options=-csearch_path%3Dother,public"
        b = Party.at(tmp_path / "b", lines, elsewhere)
        assert (a.take(), b.take()) == (1, 1)
    finally:
        lines.end_sessions()
        lines.ask("DROP SCHEMA other CASCADE")


def test_what_a_session_reads_is_as_of_when_it_has_the_lock(
    lines: Postgres, tmp_path: Path
) -> None:
    """Whatever isolation its database gives to those that don't ask for one."""
    a = Party.at(tmp_path / "a", lines)
    a.take()
    a.die()
    high, low = a.fence._key()
    number = pgvector_fence._number(high, low)
    isolated = f"{lines.dsn()}&options=-cdefault_transaction_isolation%3Drepeatable%5C%20read"
    refused: list[StoreUnavailable] = []
    with psycopg.connect(lines.dsn(), autocommit=True) as b, psycopg.connect(isolated) as stocks:

        def come() -> None:
            try:
                let_in(stocks, a.fence)
            except StoreUnavailable as error:
                refused.append(error)

        b.execute("SELECT pg_advisory_lock(%s)", [number])
        coming = threading.Thread(target=come)
        coming.start()
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(lambda: bool(lines.ask(waiting)))
        b.execute(f"UPDATE {pgvector_fence.TABLE} SET incarnation = 'b'")
        b.execute("SELECT pg_advisory_unlock(%s)", [number])
        coming.join()
    assert "are those of" in str(refused)


def test_the_lock_is_held_until_it_is_released(lines: Postgres, tmp_path: Path) -> None:
    """Whatever becomes of the store that has asked for it."""
    root = tmp_path / "a"
    root.mkdir()
    target = Target(lines.dsn(), "shared", config="stock's")
    PgVector(str(root), target).claim()
    gc.collect()
    b = Party.at(tmp_path / "b", lines)
    b.fence.force = True
    with pytest.raises(StoreOwned, match="one palace at a time"):
        b.take()
    release_tables(str(root), settled=True)
    assert b.take() == 2


# Poolers.


@contextmanager
def pooler(server: Postgres, mode: str, **settings: object) -> Iterator[str]:
    """Yield the connection string of a PgBouncer in front of a server."""
    program = shutil.which("pgbouncer") or want("pgbouncer", "apt-get install pgbouncer")
    root = server.root / f"pooler-{mode}"
    root.mkdir()
    (root / "users").write_text('"postgres" ""\n')
    options = {
        "listen_addr": "",
        "unix_socket_dir": root,
        "auth_type": "any",
        "auth_file": root / "users",
        "pool_mode": mode,
        "logfile": root / "log",
        **settings,
    }
    lines = [f"* = host={server.root} user=postgres", "[pgbouncer]"]
    lines += [f"{name} = {value}" for name, value in options.items()]
    (root / "ini").write_text("[databases]\n" + "\n".join(lines) + "\n")
    if server.user is not None:
        shutil.chown(root, server.user)
    process = subprocess.Popen([program, str(root / "ini")], user=server.user, cwd="/")
    dsn = f"postgresql://postgres@/postgres?host={root}&port=6432"
    try:
        until = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.Error:
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
        yield dsn
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(root)


@pytest.mark.parametrize("settings", [{}, {"server_round_robin": 1}, {"default_pool_size": 1}])
def test_a_pooler_that_lends_sessions_for_transactions_is_refused(
    lines: Postgres, tmp_path: Path, settings: dict[str, object]
) -> None:
    with pooler(lines, "transaction", **settings) as dsn:
        others = [psycopg.connect(dsn) for _ in range(1 if "default_pool_size" in settings else 3)]
        for other in others:  # idle sessions, of which ours is one
            other.execute("SELECT 1")
        for other in others:
            other.close()
        with pytest.raises(StoreUnavailable, match="a pooler that lends its sessions"):
            Party.at(tmp_path / "a", lines, dsn).take()
    assert not lines.ask("SELECT 1 FROM pg_tables WHERE tablename = 'palace_owners'")


@pytest.mark.parametrize("size", [20, 1])
def test_a_pooler_that_keeps_a_session_for_each_client_is_taken(
    lines: Postgres, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgvector_pooler, "PROBE_S", 0.3)
    with pooler(lines, "session", default_pool_size=size) as dsn:
        a = Party.at(tmp_path / "a", lines, dsn)
        assert a.take() == 1
        a.write()
        with pytest.raises(StoreOwned):
            Party.at(tmp_path / "b", lines).take()
        a.die()


def test_a_pooler_is_recognized_however_busy_it_is(lines: Postgres, tmp_path: Path) -> None:
    over = threading.Event()

    def keep_busy(dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as session:
            while not over.is_set():
                session.execute("SELECT pg_sleep(0.002)")

    with pooler(lines, "transaction", default_pool_size=4) as dsn:
        others = [threading.Thread(target=keep_busy, args=[dsn]) for _ in range(3)]
        for other in others:
            other.start()
        try:
            with pytest.raises(StoreUnavailable, match="a pooler that lends its sessions"):
                Party.at(tmp_path / "a", lines, dsn).take()
        finally:
            over.set()
            for other in others:
                other.join()
