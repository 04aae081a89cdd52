"""What clients see when an owner dies, sleeps, is told to leave, gets stuck, or is outdated."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from palace.canary.records import deaths_of
from palace.doctor import serving
from palace.doctor.diagnostics import gather
from palace.doctor.finding import Finding
from palace.kernel.kernel import Kernel
from palace.protocol.errors import PalaceError
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from tests.model.history import READ, Call, check
from tests.support.faults.upgrades import install_other_version, private_metadata, upgraded_path
from tests.support.loads.mixed import WING, Load, nonces_in
from tests.support.processes.brokers import (
    OUTCOME_UNKNOWN,
    Line,
    Reaper,
    Serving,
    call_line,
    children_of,
    code_of,
    graph_locked,
    has_reply,
    impatient_shim,
    is_alive,
    make_palace,
    make_site,
    state_of,
    status_of,
    wait_gone,
    wait_ready,
    wait_writing,
)
from tests.support.processes.clients import Site, end_brokers, wait_until
from tests.support.processes.traces import traced
from tests.support.processes.watch import Watcher
from tests.support.stores.effects import assert_explained, facts_in, texts_in

pytestmark = pytest.mark.process

CLIENTS = 4
KILLS = 10


@dataclass
class Storm:
    """What is left of ten killed owners."""

    load: Load
    watcher: Watcher
    killed: list[int]
    owner: int
    epochs: list[int]  # as the log tells them: who dies at once tells none
    epoch: int
    after: list[dict[str, object]]  # a last query of each client, in its old session
    facts: list[list[str]]  # by client
    found: set[str]  # ids of acknowledged drawers that the engine still shows
    texts: list[str]  # every stored document, in the order in which they came
    graph: list[str]  # every fact, in that order, too
    children: list[str]  # states of the shims' children
    exit_codes: list[int]


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, model_home: Path) -> Iterator[Storm]:
    site = make_site(tmp_path_factory.mktemp("storm"), model_home)
    make_palace(site)
    try:
        with traced(site):
            storm = raise_storm(site)
        yield storm
    finally:
        end_brokers(site.palace)


def raise_storm(site: Site) -> Storm:
    with Watcher(site.palace) as watcher:
        with site.shim() as first:
            first.tool("add_drawer", wing=WING, room="first", content="so that searches find some")
        load = Load(site, CLIENTS)
        load.start()
        killed = [kill_in_the_middle(site, load, number) for number in range(KILLS)]
        load.wait_for_turns(1)
        load.end()
        states = [
            state_of(pid) for client in load.clients for pid in children_of(client.process.pid)
        ]
        after = [client.call("mempalace_get_aaak_spec") for client in load.clients]
        facts = [
            [fact["object"] for fact in client.tool("kg_query", entity=f"worker{number}")["facts"]]
            for number, client in enumerate(load.clients)
        ]
        found = drawers_found(load)
        owner = site.record()["pid"]
        exit_codes = [client.close() for client in load.clients]
        assert site.run("stop").returncode == 0
    print(watcher.report())
    print(f"replies {load.replies()}, unknown {[len(tally.unknown) for tally in load.tallies]}")
    rows = [row for row in site.log().splitlines() if "palace: epoch" in row]
    return Storm(
        load=load,
        watcher=watcher,
        killed=killed,
        owner=owner,
        epochs=[int(row.partition("palace: epoch ")[2].split()[0]) for row in rows],
        epoch=int((site.palace / "epoch").read_text()),
        after=after,
        facts=facts,
        found=found,
        texts=texts_in(site),
        graph=facts_in(site),
        children=states,
        exit_codes=exit_codes,
    )


def deaths_told(site: Site) -> list[str]:
    return [death.cause for death in deaths_of(str(site.palace), Kernel())]


def kill_in_the_middle(site: Site, load: Load, number: int) -> int:
    """Kill the owner: some while they load, some under load; return its pid."""
    if number % 3 != 1:
        load.wait_for_replies(CLIENTS + number)
    pid = site.kill_broker()
    wait_until(lambda: site.record()["pid"] != pid, 60, "a new owner")
    return pid


def drawers_found(load: Load) -> set[str]:
    wanted = [ident for tally in load.tallies for ident in tally.drawers.values()]
    found: set[str] = set()
    for ident in wanted:
        answer = load.clients[0].tool("get_drawer", drawer_id=ident)
        if "content" in answer:
            found.add(ident)
    return found


def test_ten_killed_owners_leave_every_client_in_its_session(storm: Storm) -> None:
    assert len(set(storm.killed)) == KILLS
    assert all("result" in reply for reply in storm.after)
    assert storm.exit_codes == [0] * CLIENTS


def test_ten_killed_owners_leave_nothing_but_outcome_unknown(storm: Storm) -> None:
    assert [tally.unexpected for tally in storm.load.tallies] == [[]] * CLIENTS
    assert sum(tally.queries for tally in storm.load.tallies) > 0
    assert sum(len(tally.drawers) for tally in storm.load.tallies) > 0


def test_ten_killed_owners_keep_every_acknowledged_change(storm: Storm) -> None:
    texts = nonces_in(storm.texts)
    drawers = nonces_in([text for text in storm.texts if text.startswith("a drawer")])
    for tally, facts in zip(storm.load.tallies, storm.facts, strict=True):
        assert set(tally.drawers.values()) <= storm.found
        assert set(tally.drawers) <= set(drawers)
        assert tally.facts <= set(facts)
        assert tally.entries <= set(texts)


def test_ten_killed_owners_make_no_change_twice(storm: Storm) -> None:
    drawers = nonces_in([text for text in storm.texts if text.startswith("a drawer")])
    others = nonces_in([text for text in storm.texts if not text.startswith("a drawer")])

    assert not {nonce: count for nonce, count in drawers.items() if count > 1}
    assert not {nonce: count for nonce, count in others.items() if count > 1}
    assert [len(facts) for facts in storm.facts] == [len(set(facts)) for facts in storm.facts]


def test_ten_killed_owners_leave_a_history_that_explains_the_stores(storm: Storm) -> None:
    applied = {
        "add_drawer": [row for row in storm.texts if row.startswith("a drawer, nonce")],
        "diary_write": [row for row in storm.texts if "an entry, nonce" in row],
        "kg_add": [fact for fact in storm.graph if fact.startswith("worker")],
    }
    for tool, rows in applied.items():
        names = [f"{tool} {nonce}" for row in rows for nonce in nonces_in([row])]
        calls = [c for tally in storm.load.tallies for c in tally.calls if tool in c.name]
        if tool == "kg_add":  # the only one of which a last query shows everything
            calls += [last_look(number, facts) for number, facts in enumerate(storm.facts)]

        assert check(calls, names) == []


def last_look(number: int, facts: list[str]) -> Call:
    saw = frozenset(f"kg_add {fact}" for fact in facts)
    return Call(session=f"client {number}", name="kg_query", kind=READ, saw=saw)


def test_ten_killed_owners_never_had_the_store_open_at_once(storm: Storm) -> None:
    assert storm.watcher.pids <= {*storm.killed, storm.owner}
    assert len(storm.watcher.pids) > KILLS // 2
    storm.watcher.assert_one_at_a_time()


def test_ten_killed_owners_have_rising_epochs(storm: Storm) -> None:
    assert storm.epochs == sorted(set(storm.epochs))
    assert storm.epoch >= KILLS + 1
    assert set(storm.epochs) <= set(range(1, storm.epoch + 1))
    assert not is_alive(storm.owner)


def test_ten_killed_owners_leave_at_most_one_zombie_for_each_client(storm: Storm) -> None:
    assert storm.children.count("Z") <= CLIENTS


def test_without_a_journal_a_mutation_of_a_dead_owner_has_an_unknown_outcome(site: Site) -> None:
    make_palace(site, 'journal = "off"\n')
    with Serving(site), site.shim() as client, site.shim() as asking:
        client.tool("kg_add", subject="a", predicate="is", object="first")
        asking.tool("get_aaak_spec")
        with graph_locked(site):
            client.send(call_line("torn", "kg_add", subject="a", predicate="is", object="torn"))
            wait_writing(site)
            pid = site.record()["pid"]
            os.kill(pid, signal.SIGSTOP)
            asking.send(call_line("asked", "kg_query", entity="a"))
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
        torn, asked = json.loads(client.receive()), json.loads(asking.receive())

        assert torn["id"] == "torn"
        assert code_of(torn) == OUTCOME_UNKNOWN
        assert "kg_add" in torn["error"]["message"]
        assert asked["id"] == "asked"
        assert "result" in asked
        assert client.tool("kg_add", subject="a", predicate="is", object="next")["success"]


@pytest.mark.usefixtures("follow_trace")
def test_client_that_said_its_last_word_gets_every_answer_of_the_next_owner(site: Site) -> None:
    asked = 200
    with site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="b")
        client.send(b"".join(call_line(n, "kg_query", entity="a") for n in range(asked)))
        assert client.process.stdin is not None
        client.process.stdin.close()
        replies = [json.loads(client.receive())]
        site.kill_broker()
        replies += [json.loads(client.receive()) for _ in range(asked - 1)]

        assert client.receive() == b""
        assert client.process.wait(30) == 0
    assert sorted(reply["id"] for reply in replies) == list(range(asked))
    assert not [reply for reply in replies if "result" not in reply]


def owner_that_welcomed(site: Site, spared: set[int]) -> list[int]:
    """Return the pid of a site's owner once it has a session, unless it is spared."""
    try:
        status = status_of(site)
    except (PalaceError, OSError):
        return []  # nobody serves just now
    return [status["pid"]] if status["sessions"] and status["pid"] not in spared else []


@pytest.mark.usefixtures("follow_trace")
def test_query_that_kills_every_owner_is_given_up(site: Site) -> None:
    with site.shim() as client:
        client.tool("add_drawer", wing="w", room="r", content="a drawer")
        reaper = Reaper(lambda: owner_that_welcomed(site, reaper.killed))
        with reaper:
            wait_until(lambda: reaper.killed, what="the first owner is killed")
            client.send(call_line("poison", "search", query="anything"))
            wait_until(lambda: has_reply(client) or len(reaper.killed) > 8, 90)
        reply = json.loads(client.receive())

    assert reply["id"] == "poison"
    assert "error" in reply


@pytest.mark.usefixtures("follow_trace")
def test_owner_that_dies_before_its_first_welcome_is_replaced(site: Site) -> None:
    make_palace(site)
    (site.palace / "broker.log").touch()
    with impatient_shim(site, 12.0) as client:
        client.send(call_line("patient", "get_aaak_spec"))
        deadline_s = time.monotonic() + 30
        while "palace: epoch" not in site.log():  # without a pause: its first welcome is near
            assert time.monotonic() < deadline_s
        site.kill_broker()

        reply = json.loads(client.receive())

    assert "result" in reply, reply


@pytest.mark.usefixtures("follow_trace")
def test_stopped_owner_is_reported_only_after_the_deadline_and_goes_on(site: Site) -> None:
    with Serving(site) as owner, site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="b")
        os.kill(owner.pid, signal.SIGSTOP)
        with impatient_shim(site, 9.0) as late:
            client.send(call_line("early", "kg_add", subject="a", predicate="is", object="c"))
            began_s = time.monotonic()
            version = late.initialize()["result"]["serverInfo"]["version"]
            late.send(call_line("late", "kg_add", subject="a", predicate="is", object="d"))
            status = site.run("status")
            reply = json.loads(late.receive())

            assert time.monotonic() - began_s >= 9.0, "it gave up before its deadline"
            assert version
            assert status.returncode == 69
            assert "does not answer" in status.stdout
            assert f"pid {owner.pid}" in status.stdout
            assert reply["id"] == "late"
            assert code_of(reply) == -31053
            assert f"pid {owner.pid}" in reply["error"]["message"]

            os.kill(owner.pid, signal.SIGCONT)
            early = json.loads(client.receive())
            assert early["id"] == "early"
            assert "result" in early
            objects = {fact["object"] for fact in late.tool("kg_query", entity="a")["facts"]}
            assert objects == {"b", "c"}
            assert status_of(site)["epoch"] == 1


@pytest.mark.usefixtures("follow_trace")
def test_call_sent_while_the_owner_is_silent_is_answered_when_it_goes_on(site: Site) -> None:
    with Serving(site) as owner:
        os.kill(owner.pid, signal.SIGSTOP)
        with site.shim() as client:
            client.initialize()  # by the shim alone, which has dialled and waits for its welcome
            client.send(call_line("early", "get_aaak_spec"))
            os.kill(owner.pid, signal.SIGCONT)
            try:
                reply = json.loads(client.receive(20))
            except TimeoutError:
                client.process.kill()
                raise

    assert reply["id"] == "early"
    assert "result" in reply


def test_stop_longer_than_the_watchdog_is_survived(site: Site) -> None:
    make_palace(site, "watchdog_s = 3\n")
    with Serving(site) as owner:
        wait_ready(site)
        # The watchdog's clock of last resort is disarmed at the first tick without a write.
        wait_until(lambda: status_of(site)["idle_s"] >= 2, what="two quiet ticks")
        for _ in range(2):
            os.kill(owner.pid, signal.SIGSTOP)
            wait_until(lambda: state_of(owner.pid) == "T")
            time.sleep(5.2)  # what is tested is the time itself: the limit and two ticks
            os.kill(owner.pid, signal.SIGCONT)
            assert status_of(site)["pid"] == owner.pid


@pytest.mark.usefixtures("follow_trace")
def test_sigterm_under_load_loses_no_call(site: Site) -> None:
    facts, drawers = 90, 3  # more than a session may have waiting: some lines stay unread
    with Serving(site), site.shim() as first:
        first.tool("kg_add", subject="first", predicate="is", object="here")
        clients = [site.shim() for _ in range(CLIENTS)]
        for number, client in enumerate(clients):
            lines = [
                call_line(turn, "kg_add", subject=f"w{number}", predicate="did", object=f"o{turn}")
                for turn in range(facts)
            ]
            lines[:0] = [
                call_line(
                    facts + turn, "add_drawer", wing="w", room="r", content=f"{number}.{turn}"
                )
                for turn in range(drawers)
            ]
            client.send(b"".join(lines))
        replies = [[json.loads(client.receive())] for client in clients]
        pid = site.kill_broker(signal.SIGTERM)
        for client, got in zip(clients, replies, strict=True):
            got += [json.loads(client.receive()) for _ in range(facts + drawers - 1)]
        wait_gone(pid)

        counts = [first.tool("kg_query", entity=f"w{n}")["count"] for n in range(CLIENTS)]
        graph = facts_in(site)
        listed = first.tool("list_drawers", wing="w", limit=100)["drawers"]
        for client in clients:
            client.close()

    for got in replies:
        assert sorted(reply["id"] for reply in got) == list(range(facts + drawers))
        assert not [reply for reply in got if "result" not in reply]
    assert counts == [facts] * CLIENTS
    asked = {f"w{n}": [f"w{n} o{turn}" for turn in range(facts)] for n in range(CLIENTS)}
    assert_explained(asked | {"first": ["first here"]}, graph)
    assert len(listed) == drawers * CLIENTS


@pytest.mark.usefixtures("follow_trace")
def test_sigterm_while_the_engine_loads_hands_the_waiting_call_on(site: Site) -> None:
    make_palace(site, "grace_s = 3600\n")  # whoever waits for it, waits too long
    with site.shim() as client:
        client.send(call_line("waits", "kg_add", subject="a", predicate="is", object="b"))
        wait_until(lambda: call_that_waits(site), what="a call waits for the engine")
        pid = site.kill_broker(signal.SIGTERM)
        wait_gone(pid)
        reply = json.loads(client.receive())

        assert "result" in reply, reply
        assert client.tool("kg_query", entity="a")["count"] == 1
        assert site.record()["epoch"] == 2


def call_that_waits(site: Site) -> bool:
    try:
        status = status_of(site)
    except PalaceError:
        return False
    assert status["engine"]["state"] == "loading", "too late: the engine is loaded"
    return status["queue"]["waiting"] == 1


@pytest.mark.usefixtures("follow_trace")
def test_long_poll_goes_on_at_the_next_owner(site: Site) -> None:
    about = {"type": "note", "stream": "s", "room": "r", "from_agent": "a"}
    make_palace(site, "grace_s = 3600\n")
    with Serving(site), site.shim() as client, site.shim() as other:
        assert other.tool("event_append", body="before", **about)
        wanted = {"stream": "s", "room": "r", "type": "late", "timeout_ms": 40_000}
        client.send(call_line("poll", "event_wait", **wanted))
        wait_until(lambda: status_of(site)["lanes"]["poll"]["running"] == 1, what="it waits")
        pid = site.kill_broker(signal.SIGTERM)
        wait_gone(pid)
        wait_until((site.palace / "broker.json").exists, what="a new owner")
        wait_until(lambda: status_of(site)["lanes"]["poll"]["running"] == 1, what="it waits")
        other.tool("event_append", body="after", **(about | {"type": "late"}))
        reply = json.loads(client.receive())

        assert reply["id"] == "poll"
        assert "after" in json.dumps(reply)
        assert site.record()["epoch"] == 2


@pytest.mark.usefixtures("follow_trace")
def test_stuck_writer_ends_its_owner_and_the_next_call_is_served(site: Site) -> None:
    make_palace(site, "watchdog_s = 4\n")
    with Serving(site) as owner, site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="first")
        with graph_locked(site):
            client.send(call_line("stuck", "kg_add", subject="a", predicate="is", object="stuck"))
            assert owner.process.wait(60) == 70
        reply = json.loads(client.receive())

        assert reply["id"] == "stuck"
        assert "result" in reply, "its next owner took it back and ran it again"
        assert "watchdog_s" in owner.words()
        assert client.tool("kg_add", subject="a", predicate="is", object="next")["success"]
        assert site.record()["epoch"] == 2
        wait_until(lambda: deaths_told(site), 60, "its death is recorded")
        assert deaths_told(site) == ["watchdog"]


@pytest.mark.usefixtures("follow_trace")
def test_a_change_that_holds_up_all_others_is_told_with_the_command_that_ends_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "STUCK_S", 0.2)  # nobody waits for a minute here

    def stuck() -> list[Finding]:
        found = gather(Paths(str(site.palace)), ShimEnvironment(site.environ()))
        return [finding for finding in serving.check_serving(found) if finding.code == "stuck"]

    with Serving(site) as owner, site.shim() as client:
        client.tool("kg_add", subject="a", predicate="is", object="first")
        assert stuck() == []
        with graph_locked(site):
            client.send(call_line("stuck", "kg_add", subject="a", predicate="is", object="stuck"))
            wait_until(stuck, what="the doctor sees it")
            [told] = stuck()
            assert "kg_add has run for " in told.text
            command = told.remedy.rpartition(": ")[2]
            assert command == f"kill -9 {owner.pid}"
            subprocess.run(["sh", "-c", command], check=True)
            wait_gone(owner.pid)
        reply = json.loads(client.receive())

        assert (reply["id"], "result" in reply) == ("stuck", True)
        assert stuck() == []
        assert_explained({"client": ["a first", "a stuck"]}, facts_in(site))


@pytest.mark.usefixtures("follow_trace")
def test_upgrade_under_an_owner_makes_it_hand_over(site: Site, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    metadata = private_metadata(private)
    search = upgraded_path(private)
    with Serving(site, PYTHONPATH=search), site.shim(PYTHONPATH=search) as client:
        version = client.initialize()["result"]["serverInfo"]["version"]
        client.tool("get_aaak_spec")
        first = wait_ready(site)["pid"]
        with Line(site.palace / "broker.sock") as line:
            assert line.hello("raw")[0] == "welcome"
            install_other_version(metadata, "3.11.77")

            kind, fields = line.header()
            assert (kind, fields["reason"]) == ("goodbye", "upgrade")
            assert line.line() == b""
        wait_gone(first)

        reply = client.call("mempalace_kg_add", subject="a", predicate="is", object="b")
        assert "result" in reply
        status = wait_ready(site)
        assert status["epoch"] == 2
        assert status["engine"]["version"] == "3.11.77"
        assert version == metadata.name.removeprefix("mempalace-").removesuffix(".dist-info")
        assert client.initialize()["result"]["serverInfo"]["version"] == "3.11.77"


@pytest.mark.usefixtures("follow_trace")
def test_change_right_after_an_upgrade_is_made_by_the_next_owner(
    site: Site, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    metadata = private_metadata(private)
    search = upgraded_path(private)
    with Serving(site, PYTHONPATH=search), site.shim(PYTHONPATH=search) as client:
        client.tool("add_drawer", wing="w", room="r", content="by the first owner")
        install_other_version(metadata, "3.11.77")

        reply = client.call("mempalace_add_drawer", wing="w", room="r", content="by the second")

        assert "result" in reply, reply
        assert len(client.tool("list_drawers", wing="w")["drawers"]) == 2
        assert site.record()["epoch"] == 2
