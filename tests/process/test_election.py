"""Who becomes the owner, and who leaves: real shims, real brokers, watched from outside."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palace.broker.telemetry.log_file import LOG_BYTES_MAX
from palace.ownership.lock import mempalace_lock_path
from palace.settings.paths import Paths
from tests.support.processes.brokers import (
    OUTCOME_UNKNOWN,
    Serving,
    call_line,
    code_of,
    graph_locked,
    holders_of,
    is_alive,
    make_palace,
    processes_of,
    run,
    status_of,
    text_of,
    wait_gone,
    wait_ready,
    wait_writing,
)
from tests.support.processes.clients import PALACE, Client, Site, brokers_of, wait_until
from tests.support.processes.watch import Watcher
from tests.support.stores.effects import assert_explained, facts_in, texts_in

pytestmark = pytest.mark.process

SHIMS = 50
HEAVY = {"trio", "attr", "attrs", "chromadb", "mempalace", "numpy", "typer", "asyncio", "json"}
O_CLOEXEC = 0o2000000  # as /proc/PID/fdinfo shows it


def epoch_of(site: Site) -> str:
    return (site.palace / "epoch").read_text().strip()


def election_line(number: int) -> bytes:
    """Return what one of many shims asks at once: most read, some write to the store."""
    if number % 10 == 0:
        return call_line(2, "add_drawer", wing="w", room="r", content=f"drawer of shim {number}")
    if number % 10 == 5:
        return call_line(2, "kg_add", subject="herd", predicate="has", object=f"shim{number}")
    return call_line(2, "get_aaak_spec")


@pytest.mark.usefixtures("follow_trace")
def test_fifty_shims_at_once_elect_one_broker(site: Site) -> None:
    make_palace(site)
    initialize = b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}\n'
    with Watcher(site.palace) as watcher:
        clients = [site.shim() for _ in range(SHIMS)]
        for number, client in enumerate(clients):
            client.send(initialize + election_line(number))
        replies = [
            [json.loads(client.receive(120)), json.loads(client.receive(120))] for client in clients
        ]
        status = status_of(site)
        facts = clients[0].tool("kg_query", entity="herd")["count"]
        drawers = clients[0].tool("list_drawers", wing="w", limit=100)["drawers"]
        brokers = brokers_of(site.palace)
        exit_codes = [client.close() for client in clients]
    print(f"{SHIMS} shims")

    for first, second in replies:
        assert [first["id"], second["id"]] == [1, 2]
        assert "result" in first
        assert "result" in second, second
    assert facts == SHIMS // 10
    assert len(drawers) == SHIMS // 10
    assert_explained({f"{n}": [f"herd shim{n}"] for n in range(5, SHIMS, 10)}, facts_in(site))
    texts = {f"{n}": [f"drawer of shim {n}"] for n in range(0, SHIMS, 10)}
    assert_explained(texts, texts_in(site))
    assert exit_codes == [0] * SHIMS
    assert brokers == [status["pid"]]
    assert len(status["sessions"]) == SHIMS
    assert status["epoch"] == 1
    assert epoch_of(site) == "1"
    assert site.log().count("palace: epoch") == 1
    assert watcher.pids == {status["pid"]}
    watcher.assert_one_at_a_time()


def test_second_serve_leaves_with_75_before_heavy_imports(site: Site) -> None:
    with Serving(site) as owner:
        argv = [sys.executable, "-P", "-X", "importtime", "-m", "palace", "serve"]
        done = run(argv, site)

        rows = [row for row in done.stderr.splitlines() if row.startswith("import time:")]
        imported = {row.rpartition("|")[2].strip() for row in rows}
        words = [row for row in done.stderr.splitlines() if row not in rows]
        assert done.returncode == 75, done.stderr
        assert "palace.ownership.lock" in imported
        assert not {name.partition(".")[0] for name in imported} & HEAVY
        assert len(words) == 1
        assert f"pid {owner.pid}" in words[0]
        assert "palace status" in words[0]
        assert status_of(site)["epoch"] == 1


@pytest.mark.usefixtures("follow_trace")
def test_ensure_twice_names_the_same_broker_and_leaves_no_descriptor_open(site: Site) -> None:
    reading, writing = os.pipe()
    try:
        argv = [*PALACE, "ensure"]
        runs = [
            subprocess.run(
                argv,
                env=site.environ(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                pass_fds=(writing,),
            )
            for _ in range(2)
        ]
        os.close(writing)

        lines = [done.stdout.splitlines() for done in runs]
        first, second = (json.loads(line[0]) for line in lines)
        assert [done.returncode for done in runs] == [0, 0]
        assert [len(line) for line in lines] == [1, 1]
        assert first == second
        assert "token" not in first
        assert first["epoch"] == 1
        assert is_alive(first["pid"])
        assert select.select([reading], [], [], 30)[0], "the broker keeps an inherited pipe open"
        assert os.read(reading, 1) == b""
        assert is_alive(first["pid"])
    finally:
        os.close(reading)


def test_other_home_and_a_link_lead_to_the_same_broker(site: Site, tmp_path: Path) -> None:
    make_palace(site)
    link, home = tmp_path / "link", tmp_path / "other-home"
    link.symlink_to(site.palace)
    home.mkdir()
    (home / ".cache").symlink_to(site.home / ".cache")
    with Watcher(site.palace) as watcher:
        with (
            site.shim() as first,
            Site(home=home, palace=site.palace).shim() as second,
            Site(home=home, palace=link).shim() as third,
        ):
            first.send(call_line(1, "kg_add", subject="a", predicate="is", object="b"))
            second.send(call_line(1, "add_drawer", wing="w", room="r", content="of another home"))
            third.send(call_line(1, "get_aaak_spec"))
            replies = [json.loads(client.receive()) for client in (first, second, third)]
            facts = third.tool("kg_query", entity="a")["count"]
            status = status_of(site)

    assert not [reply for reply in replies if "result" not in reply]
    assert facts == 1
    assert len(status["sessions"]) == 3
    assert epoch_of(site) == "1"
    assert watcher.pids == {status["pid"]}
    watcher.assert_one_at_a_time()


def test_no_spawn_starts_nothing_and_says_so(site: Site) -> None:
    with site.shim(PALACE_NO_SPAWN="1") as client:
        client.initialize()
        reply = client.call("mempalace_get_aaak_spec")

    assert code_of(reply) == -31053
    assert "PALACE_NO_SPAWN" in reply["error"]["message"]
    assert not site.palace.exists()
    assert not processes_of(site.palace)


def test_no_spawn_uses_the_broker_that_runs(site: Site) -> None:
    with Serving(site), site.shim(PALACE_NO_SPAWN="1") as client:
        assert client.tool("get_aaak_spec")


def test_named_broker_is_used_as_it_stands(site: Site) -> None:
    with Serving(site) as owner:
        path = f"{site.palace}/broker.sock"
        with site.shim(MEMPALACE_BROKER=f"unix:{path}") as client:
            assert client.tool("get_aaak_spec")
        served = status_of(site)["requests"]

        with site.shim(MEMPALACE_BROKER=f"unix:{path}.other") as client:
            client.initialize()
            reply = client.call("mempalace_get_aaak_spec")
        with site.shim(MEMPALACE_BROKER="wss://example.invalid:1") as client:
            client.initialize()
            unknown = client.call("mempalace_get_aaak_spec")

        assert code_of(reply) == -31053
        assert f"{path}.other" in reply["error"]["message"]
        assert code_of(unknown) == -31060
        assert "wss://example.invalid:1" in unknown["error"]["message"]
        assert status_of(site)["requests"] == served
        assert brokers_of(site.palace) == [owner.pid]


def test_named_broker_that_is_gone_is_not_replaced(site: Site) -> None:
    path = f"{site.palace}/broker.sock"
    with Serving(site) as owner, site.shim(MEMPALACE_BROKER=f"unix:{path}") as client:
        assert client.tool("get_aaak_spec")
        owner.end()

        reply = client.call("mempalace_get_aaak_spec")

        assert code_of(reply) == -31053
        assert path in reply["error"]["message"]
        assert not processes_of(site.palace)
        with Serving(site):
            assert client.tool("get_aaak_spec")


@pytest.mark.usefixtures("follow_trace")
def test_stop_waits_for_the_running_call_and_the_session_goes_on(site: Site) -> None:
    with Serving(site) as owner, site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="first")
        pid = owner.pid
        with graph_locked(site):
            client.send(call_line("slow", "kg_add", subject="a", predicate="is", object="slow"))
            wait_writing(site)
            stop = subprocess.Popen(
                [*PALACE, "stop"], env=site.environ(), stdout=subprocess.PIPE, text=True
            )
            wait_until(lambda: not (site.palace / "broker.json").exists(), what="a drain")
            assert is_alive(pid)
            assert stop.poll() is None
            wait_until(lambda: not (site.palace / "broker.sock").exists(), what="a drain")
        words, _ = stop.communicate(timeout=60)
        assert owner.process.wait(30) == 0
        reply = json.loads(client.receive())

        assert reply["id"] == "slow"
        assert "result" in reply, reply
        assert stop.returncode == 0
        assert words == "Stopped.\n"
        assert not is_alive(pid)
        assert client.tool("kg_query", entity="a")["count"] == 2
        assert epoch_of(site) == "2"
        assert_explained({"client": ["a first", "a slow"]}, facts_in(site))


@pytest.mark.usefixtures("follow_trace")
def test_stop_now_leaves_the_running_call_to_the_next_owner(site: Site) -> None:
    with Serving(site) as owner, site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="first")
        with graph_locked(site):
            client.send(call_line("slow", "kg_add", subject="a", predicate="is", object="slow"))
            wait_writing(site)
            done = site.run("stop", "--now")
            assert owner.process.wait(30) == 0
        reply = json.loads(client.receive())

        assert done.returncode == 0, done.stderr
        assert reply["id"] == "slow"
        assert "result" in reply, reply
        assert client.tool("kg_query", entity="a")["count"] == 2
        assert epoch_of(site) == "2"
        assert_explained({"client": ["a first", "a slow"]}, facts_in(site))


@pytest.mark.usefixtures("follow_trace")
def test_stop_now_answers_the_running_call_with_outcome_unknown(site: Site) -> None:
    make_palace(site, 'journal = "off"\n')  # else the next owner would go on with it
    with Serving(site) as owner, site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="first")
        with graph_locked(site):
            client.send(call_line("slow", "kg_add", subject="a", predicate="is", object="slow"))
            wait_writing(site)
            done = site.run("stop", "--now")
            reply = json.loads(client.receive())

        assert done.returncode == 0, done.stderr
        assert owner.process.wait(30) == 0
        assert reply["id"] == "slow"
        assert code_of(reply) == OUTCOME_UNKNOWN


def test_stop_without_a_broker_says_so(site: Site) -> None:
    make_palace(site)

    done = site.run("stop")

    assert done.returncode == 69
    assert str(site.palace) in done.stderr
    assert done.stderr.count("\n") == 1


def test_status_of_a_stopped_broker_says_that_it_does_not_answer(site: Site) -> None:
    with Serving(site) as owner:
        os.kill(owner.pid, signal.SIGSTOP)
        done = site.run("status", "--json")
        answer = json.loads(done.stdout)

        assert done.returncode == 69
        assert "accepts but does not answer" in answer["text"]
        assert f"held by pid {owner.pid}" in answer["text"]
        assert "no broker runs" not in answer["text"]


@pytest.mark.usefixtures("follow_trace")
def test_hold_keeps_brokers_away_until_start(site: Site) -> None:
    with Serving(site) as owner, site.shim() as client:
        assert client.tool("get_aaak_spec")
        stopped = site.run("stop", "--hold")
        assert (stopped.returncode, owner.process.wait(30)) == (0, 0), stopped.stderr

        client.send(call_line("held", "get_aaak_spec"))
        ensured, served = site.run("ensure"), site.run("serve")
        status = site.run("status")
        reply = json.loads(client.receive())

        assert code_of(reply) == -31057
        assert "palace start" in reply["error"]["message"]
        assert [ensured.returncode, served.returncode] == [79, 79]
        assert "palace start" in ensured.stderr
        assert "palace start" in served.stderr
        assert status.returncode == 69
        assert "on hold since" in status.stdout
        assert not processes_of(site.palace)
        assert epoch_of(site) == "1"

        started, again = site.run("start"), site.run("start")

        assert [started.returncode, again.returncode] == [0, 0]
        assert "the hold is over" in started.stdout
        assert "the hold is over" not in again.stdout
        assert client.tool("get_aaak_spec")
        assert status_of(site)["epoch"] == 2


@pytest.mark.usefixtures("follow_trace")
def test_idle_broker_leaves_and_the_silent_session_elects_again(site: Site) -> None:
    with site.shim(PALACE_IDLE_S="1") as client:
        assert client.tool("kg_add", subject="a", predicate="is", object="b")
        first = site.record()["pid"]
        lock = (site.palace / "broker.lock").stat()
        wait_gone(first)

        assert not (site.palace / "broker.json").exists()
        assert not (site.palace / "broker.sock").exists()
        assert (site.palace / "broker.lock").stat().st_ino == lock.st_ino
        assert "leaving: idle" in site.log()
        assert client.process.poll() is None

        assert client.tool("kg_query", entity="a")["count"] == 1
        assert epoch_of(site) == "2"
        assert site.record()["pid"] != first


@pytest.mark.usefixtures("follow_trace")
def test_clients_that_come_back_as_their_idle_owner_leaves_are_served(site: Site) -> None:
    clients = [site.shim(PALACE_IDLE_S="1") for _ in range(4)]
    asked: dict[str, list[str]] = {f"w{number}": [] for number in range(len(clients))}
    for turn in range(5):
        for (name, facts), client in zip(asked.items(), clients, strict=True):
            client.send(call_line(turn, "kg_add", subject=name, predicate="did", object=f"o{turn}"))
            facts.append(f"{name} o{turn}")
        replies = [json.loads(client.receive()) for client in clients]
        assert not [reply for reply in replies if "result" not in reply]
        time.sleep(0.9 + 0.12 * turn)  # an owner leaves between 1 s and 1.25 s after its last work

    assert [client.close() for client in clients] == [0] * len(clients)
    wait_until(lambda: not processes_of(site.palace), what="nobody is left")
    assert int(epoch_of(site)) > 1
    assert_explained(asked, facts_in(site))


@pytest.mark.usefixtures("follow_trace")
def test_every_process_leaves_after_its_clients(site: Site) -> None:
    clients = [site.shim(PALACE_IDLE_S="1") for _ in range(4)]
    for client in clients:
        client.tool("get_aaak_spec")
    assert len(brokers_of(site.palace)) == 1

    assert [client.close() for client in clients] == [0] * 4
    wait_until(lambda: not processes_of(site.palace), what="nobody is left")

    names = {entry.name for entry in site.palace.iterdir()}
    assert not names & {"broker.json", "broker.sock"}
    assert not [name for name in names if name.endswith(".tmp")]


@pytest.mark.usefixtures("follow_trace")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_makes_a_broker_remove_what_is_its_own(site: Site, number: signal.Signals) -> None:
    with Serving(site) as owner:
        assert owner.end(number) == 0

    assert not (site.palace / "broker.json").exists()
    assert not (site.palace / "broker.sock").exists()
    assert (site.palace / "broker.lock").exists()
    assert "leaving: stop" in owner.words()


def test_what_belongs_to_others_is_left_alone_on_exit(site: Site) -> None:
    with Serving(site) as owner:
        record = site.record() | {"incarnation": "f" * 32}
        other = site.palace / "other.json"
        other.write_text(json.dumps(record))
        other.rename(site.palace / "broker.json")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(site.palace / "other.sock"))
            listener.listen()
            (site.palace / "other.sock").rename(site.palace / "broker.sock")
            inode = (site.palace / "broker.sock").stat().st_ino

            assert owner.end() == 0

            assert site.record() == record
            assert (site.palace / "broker.sock").stat().st_ino == inode


def test_moved_palace_is_left_by_its_broker(site: Site) -> None:
    elsewhere = Site(home=site.home, palace=site.palace.parent / "elsewhere")
    with Serving(site) as owner, site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="a drawer that moves house")
        site.palace.rename(elsewhere.palace)

        assert owner.process.wait(30) == 0
        assert "leaving: moved" in owner.words()
    with elsewhere.shim() as client:
        drawers = client.tool("list_drawers", wing="w")["drawers"]
        assert len(drawers) == 1
        assert elsewhere.record()["epoch"] == 2
        assert brokers_of(elsewhere.palace) == [elsewhere.record()["pid"]]


def test_moved_palace_keeps_its_facts(site: Site) -> None:
    elsewhere = Site(home=site.home, palace=site.palace.parent / "elsewhere")
    with Serving(site) as owner:
        with site.shim() as client:
            client.tool("kg_add", subject="alice", predicate="likes", object="tea")
        owner.end()
    site.palace.rename(elsewhere.palace)

    with Serving(elsewhere), elsewhere.shim() as client:
        assert client.tool("kg_query", entity="alice")["count"] == 1
    assert not site.palace.exists()


def test_removed_lock_file_makes_no_second_opener(site: Site) -> None:
    with Watcher(site.palace) as watcher, Serving(site) as owner, site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="before")
        (site.palace / "broker.lock").unlink()
        with site.shim() as other:
            other.tool("add_drawer", wing="w", room="r", content="after")

        assert owner.process.wait(30) == 0
        assert len(client.tool("list_drawers", wing="w")["drawers"]) == 2
        assert epoch_of(site) == "2"
    assert watcher.pids == {owner.pid, site.record()["pid"]}
    watcher.assert_one_at_a_time()


@pytest.mark.usefixtures("follow_trace")
def test_locks_and_store_are_in_no_other_process(site: Site) -> None:
    paths = Paths(str(site.palace))
    with site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="a drawer")
        client.tool("kg_add", subject="a", predicate="is", object="b")
        pid = site.record()["pid"]
        locks = [
            Path(paths.lock),
            Path(mempalace_lock_path(paths, site.environ())),
            site.palace.parent / "tunnels.json.owner.lock",
            site.palace.parent / "hallways.json.owner.lock",
        ]
        stores = [site.palace / "chroma.sqlite3", site.palace / "knowledge_graph.sqlite3"]

        for path in locks + stores:
            holders = holders_of(path)
            assert set(holders) == {pid}, path
            for descriptor in holders[pid]:
                info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
                flags = int(info.split("flags:")[1].split()[0], 8)
                assert flags & O_CLOEXEC, f"{path} would be inherited by a child"


@pytest.mark.usefixtures("follow_trace")
def test_shim_that_is_killed_leaves_the_others_alone(site: Site) -> None:
    with Serving(site), site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="b")
        victim: Client = site.shim()
        victim.tool("get_aaak_spec")
        wait_ready(site)
        with graph_locked(site):
            victim.send(call_line(7, "kg_add", subject="a", predicate="is", object="c"))
            wait_writing(site)
            victim.process.kill()
            victim.close()

        def is_gone() -> bool:
            """Tell whether nothing of the victim is left but a reply, which is kept for a while."""
            mine = [s for s in status_of(site)["sessions"] if s["pid"] == victim.process.pid]
            return not any(one["connected"] or one["in_flight"] for one in mine)

        wait_until(is_gone, what="the session has ended")

        reply = client.call("mempalace_kg_query", entity="a")
        assert text_of(reply)["count"] == 2
        assert status_of(site)["epoch"] == 1


def test_who_loses_an_election_leaves_its_owners_log_where_it_is(site: Site) -> None:
    make_palace(site)
    log = site.palace / "broker.log"
    with site.shim() as client:
        client.tool("kg_query", entity="a")
        owner, known = site.record()["pid"], log.stat().st_ino
        os.kill(owner, signal.SIGSTOP)  # else it puts its log away by itself with its next line
        try:
            os.truncate(log, LOG_BYTES_MAX + 1)
            lost = site.run("serve", "--detached")
            assert b"palace serve: " in log.read_bytes()[-2000:]
            assert (lost.returncode, log.stat().st_ino) == (75, known)
        finally:
            os.kill(owner, signal.SIGCONT)
