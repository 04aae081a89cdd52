"""Stock's mesh with a broker in it: palaces agree upon their events, whatever dies.

The peers are stock's own hubs, and what their files hold is counted by SQLite alone.
"""

import json
import os
import signal
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mempalace.cli import _load_or_create_server_token

from tests.support.faults.killing import Failpoints
from tests.support.machines.sshd import free_port
from tests.support.processes.brokers import settle, status_of, wait_gone, wait_ready
from tests.support.processes.clients import Client, Site, brokers_of, end_brokers, wait_until
from tests.support.processes.mesh import (
    EVENT,
    Hub,
    Liar,
    Stream,
    answers,
    artifacts_of,
    ask,
    events_of,
    mesh_site,
    name_peers,
    wait_same,
)

pytestmark = [pytest.mark.engine, pytest.mark.process]

OURS = "the-token-that-peers-of-b-were-given"
# Points, and at which of their passes; an agent makes the first one, parts of a pull the others.
KILLS = (
    *(("append", 2), ("synced", 3), ("apply", 2), ("applied", 2), ("outcome", 2), ("reply", 2)),
    *(("append", 4), ("synced", 5), ("apply", 3), ("applied", 3), ("outcome", 3), ("reply", 3)),
)
MANY = 640  # more than is taken over between these kills
Sites = Callable[[str], Site]


@pytest.fixture
def site_of(tmp_path: Path, model_home: Path) -> Iterator[Sites]:
    """Makes sites by their names; what runs there is ended."""
    yield lambda name: mesh_site(tmp_path, model_home, name)
    end_brokers(tmp_path)


def begin_broker(site: Site, port: int) -> None:
    """Let the palace's brokers listen at a port, with the token that peers have; none runs yet."""
    settle(site, f"http = {port}\n")
    site.extra["MEMPALACE_MCP_HTTP_TOKEN"] = OURS


def start(site: Site) -> int:
    done = site.run("start")
    assert done.returncode == 0, done.stderr
    wait_ready(site)
    return int(site.record()["pid"])


def peers_told(site: Site) -> dict[str, Any]:
    told = status_of(site)["mesh"]
    return {peer["name"]: peer for peer in told["peers"]}


def append(client: Client, body: str) -> str:
    return str(client.tool("event_append", **EVENT, body=body)["event"]["id"])


def codes(site: Site) -> dict[str, str]:
    """Return what the doctor says of the mesh: levels by codes."""
    listed = [json.loads(line) for line in site.run("doctor", "--json").stdout.splitlines()]
    about = ("mesh", "peers")
    return {one["code"]: one["level"] for one in listed if one["code"].startswith(about)}


def test_stock_broker_and_stock_agree_upon_events_and_artifacts(site_of: Sites) -> None:
    a, b, c = map(site_of, "abc")
    port = free_port()
    ours = f"http://127.0.0.1:{port}", OURS
    begin_broker(b, port)
    name_peers(a, b=ours)
    name_peers(c, b=ours)
    with Hub(a, "a's") as hub_a, Hub(c, "c's") as hub_c:
        name_peers(b, a=hub_a.address, c=hub_c.address)
        hub_a.append("before there was a broker")
        patch = hub_a.tool(
            "patch_submit", content="+ one\n", from_agent="a", stream="project/x", body="a patch"
        )
        start(b)
        with b.session() as agent:
            append(agent, "of an agent of b's")
            put = agent.tool("artifact_put", kind="note", content="b's own", created_by="b")
            artifact = put["artifact"]["id"]
            agent.tool("event_append", **EVENT, body="with an artifact", artifact_ids=[artifact])
            hub_c.append("of c")
            wait_same(a, b, c, count=5)
            seen = agent.tool("event_list", limit=50)["events"]
            estate = agent.tool("mesh_peers")

        assert {event["body"] for event in seen} >= {"of c", "a patch"}
        assert all(peer["reachable"] for peer in estate["peers"])
        held = {patch["artifact"]["id"]: "+ one\n", artifact: "b's own"}
        assert artifacts_of(a) == artifacts_of(b) == artifacts_of(c) == held
        wait_until(lambda: "mesh" in codes(b), 30, "the doctor is content")
        assert codes(b) == {"mesh": "ok", "mesh_idles": "note"}


def test_what_is_pulled_is_there_once_however_often_the_broker_is_killed(site_of: Sites) -> None:
    """A part of a pull is one group: it is taken back whole, or kept whole, and pulled again."""
    a, b = map(site_of, "ab")
    port = free_port()
    begin_broker(b, port)
    failpoints = Failpoints(b, b.home / "kills")
    name_peers(a, b=(f"http://127.0.0.1:{port}", OURS))
    acknowledged = []
    with Hub(a, "a's") as hub:
        name_peers(b, a=hub.address)
        for number in range(MANY):
            hub.append(f"event {number} of a")
        with b.shim() as agent:
            agent.initialize()
            for point, number in KILLS:
                failpoints.arm((point, number))
                acknowledged.append(append(agent, f"event {len(acknowledged)} of b"))
                wait_until(lambda: not failpoints.left(), 60, f"it is killed at {point} {number}")
            acknowledged.append(append(agent, "the last one of b"))
            wait_same(a, b, count=MANY + len(acknowledged))
            held = {ident for ident, _ in events_of(a)}
        assert set(acknowledged) <= held
        assert sum(body.endswith("of b") for _, body in events_of(a)) == len(acknowledged)
    done = b.run("doctor", "--drift", "--stop")
    assert "drift" not in done.stdout, done.stdout
    kept = events_of(b)
    assert b.run("rebuild", "--stop").returncode == 0
    assert events_of(b) == kept


def test_no_peer_is_shown_an_event_that_a_death_may_still_take_back(site_of: Sites) -> None:
    """Its number would be another event's afterwards, and the peer would refuse that for ever."""
    a, b = map(site_of, "ab")
    port = free_port()
    begin_broker(b, port)
    failpoints = Failpoints(b, b.home / "kills")
    name_peers(a, b=(f"http://127.0.0.1:{port}", OURS))
    name_peers(b)
    pid = start(b)
    with Hub(a, "a's"), b.shim() as agent:
        agent.initialize()
        append(agent, "whole")
        wait_same(a, b, count=1)
        failpoints.hold("outcome")
        agent.send(_line("half done"))
        wait_until(lambda: len(events_of(b)) == 2, 30, "the event is in the store")
        wait_until(lambda: _asks(b), 30, "the peer asks what there is")
        assert [body for _, body in events_of(a)] == ["whole"]

        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
        assert json.loads(agent.receive())["id"] == 99  # the next owner has carried it out
        append(agent, "after it")
        wait_same(a, b, count=3)


def _line(body: str) -> bytes:
    params = {"name": "mempalace_event_append", "arguments": {**EVENT, "body": body}}
    message = {"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def _asks(site: Site) -> bool:
    """Tell whether a call waits for the writer: the peer's question."""
    return bool(status_of(site)["queue"]["waiting"] >= 1)


def test_a_palace_that_was_in_a_mesh_goes_on_with_a_broker(site_of: Sites) -> None:
    """Its peers know the token and the port of stock's hub, and nobody changes anything there."""
    a, b = map(site_of, "ab")
    port = free_port()
    before = os.environ["HOME"]
    os.environ["HOME"] = str(b.home)
    try:
        token, _ = _load_or_create_server_token(str(b.palace))
    finally:
        os.environ["HOME"] = before
    name_peers(a, b=(f"http://127.0.0.1:{port}", token))
    with Hub(a, "a's") as hub_a:
        name_peers(b, a=hub_a.address)
        with Hub(b, token, port) as hub_b:
            hub_b.append("of b, by stock")
            hub_a.append("of a")
            wait_same(a, b, count=2)
        settle(b, f"http = {port}\n")
        with b.session() as agent:
            append(agent, "of b, by a broker")
            hub_a.append("of a, later")
            wait_same(a, b, count=4)
            assert "palace mesh" not in json.dumps(status_of(b)["mesh"])
        told = b.run("mesh").stdout
        assert hub_a.url in told
        assert "not agreed" not in told
        assert token not in told


def test_peers_that_are_down_slow_or_hostile_keep_nobody_else_waiting(site_of: Sites) -> None:
    a, b = map(site_of, "ab")
    begin_broker(b, free_port())

    def lies(path: str) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/sync/version_vector"):
            vector = {"replica_id": "rep_x", "version_vector": {"rep_x": 5}}
            return 200, json.dumps(vector).encode(), {}
        event = {"id": "evt_1", "origin_replica": "rep_x", "origin_seq": 1, "type": ["no"]}
        return 200, json.dumps({"events": [event]}).encode(), {}

    def huge(_path: str) -> tuple[int, bytes, dict[str, str]]:
        return 200, b" " * (40 << 20), {}

    def elsewhere(_path: str) -> tuple[int, bytes, dict[str, str]]:
        return 302, b"", {"Location": f"{target.url}/sync/version_vector"}

    def right(_path: str) -> tuple[int, bytes, dict[str, str]]:
        return 200, b'{"version_vector": {}}', {}

    over = threading.Event()

    def stuck(_path: str) -> tuple[int, bytes, dict[str, str]]:
        over.wait(120)
        return 200, b"{}", {}

    with (
        Hub(a, "a's") as hub,
        Liar(lies) as liar,
        Liar(huge) as big,
        Liar(right) as target,
        Liar(elsewhere) as moved,
        Liar(stuck) as slow,
    ):
        name_peers(
            b,
            good=hub.address,
            liar=(liar.url, "t"),
            big=(big.url, "t"),
            moved=(moved.url, "t"),
            slow=(slow.url, "t"),
            wrong=(hub.url, "not the token"),
            down=(f"http://127.0.0.1:{free_port()}", ""),
        )
        hub.append("of a")
        start(b)
        wait_same(a, b, count=1)
        bad = ("liar", "big", "moved", "slow", "wrong", "down")
        wait_until(lambda: all(peers_told(b)[name]["error"] for name in bad), 60, "all were asked")
        told = peers_told(b)
        assert not told["good"]["error"]
        assert "lacks what each has" in told["liar"]["error"]
        assert "more than 32 MiB" in told["big"]["error"]
        assert "HTTP 302" in told["moved"]["error"]
        assert "did not answer within 10 s" in told["slow"]["error"]
        assert "refuses the token" in told["wrong"]["error"]
        assert "can't be reached" in told["down"]["error"]
        assert not target.asked
        assert codes(b)["mesh_behind"] == "warning"
        hub.append("of a, beside all that")
        wait_same(a, b, count=2)
        assert all(shown == "Bearer t" for _, shown in liar.asked)
        over.set()


def test_an_address_that_somebody_adds_later_is_followed_once_it_was_agreed_to(
    site_of: Sites,
) -> None:
    a, b = map(site_of, "ab")
    begin_broker(b, free_port())
    name_peers(b, gone=(f"http://127.0.0.1:{free_port()}", ""))
    start(b)
    with Hub(a, "a's") as hub:
        hub.append("of a")
        name_peers(b, a=hub.address)
        wait_until(lambda: list(peers_told(b)) == ["a"], 30, "peers.json is read again")
        assert not peers_told(b)["a"]["agreed"]
        assert codes(b)["mesh_not_agreed"] == "warning"
        assert hub.url in b.run("mesh").stdout
        assert not events_of(b)

        done = b.run("mesh", "--trust")
        assert done.returncode == 0, done.stderr
        wait_same(a, b, count=1)
        assert "mesh_not_agreed" not in codes(b)


def test_who_may_see_the_log_and_what_else_the_token_of_peers_opens(site_of: Sites) -> None:
    b = site_of("b")
    port = free_port()
    begin_broker(b, port)
    pages = ("/sync/version_vector", "/sync/ops?origin=rep_x", "/sync/peers", "/statusz")
    start(b)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(url), 30, "it listens")
    assert [ask(url + page, OURS)[0] for page in pages] == [404] * 4
    assert status_of(b)["mesh"] is None

    name_peers(b)
    wait_until(lambda: ask(url + pages[0], OURS)[0] == 200, 30, "it is in the mesh")
    assert [ask(url + page, OURS)[0] for page in pages] == [200] * 4
    assert [ask(url + page, "wrong")[0] for page in pages] == [401] * 4
    assert [ask(url + page, "")[0] for page in pages] == [401] * 4
    assert [ask(url + page, OURS, Host="rebound.example")[0] for page in pages] == [403] * 4
    assert [ask(url + page, OURS, Origin="https://x.example")[0] for page in pages] == [403] * 4
    assert b.run("workspace", "add", "reviewer", "--confined").returncode == 0
    workspaces = b.run("token", "new", "reviewer").stdout.split()[-1]
    assert [ask(url + page, workspaces)[0] for page in pages] == [403] * 4
    assert ask(f"{url}/metrics", OURS)[0] == 401
    assert ask(f"{url}/mcp", OURS, b"{}")[0] == 401
    assert ask(f"{url}/sync/ops?origin=rep_x&after=x", OURS)[0] == 400
    with b.session() as agent:
        refused = agent.call("palace_mesh_fold", events=[], artifacts=[])
        assert "is not for this client" in refused["error"]["message"]


def test_peers_on_other_machines_come_over_tls_with_their_token_alone(site_of: Sites) -> None:
    """One of stock's, and another broker: both trust the certificate that status names."""
    a, b, c = map(site_of, "abc")
    settle(b, f'serve_http = "127.0.0.1:{free_port()}"\n')
    begin_broker(b, free_port())
    name_peers(b)
    start(b)
    wait_until(lambda: status_of(b)["http"]["tls"], 30, "it is served over TLS")
    http = status_of(b)["http"]
    for other in (a, c):
        other.extra["SSL_CERT_FILE"] = http["certificate"]
        name_peers(other, b=(http["tls"], OURS))
    with Hub(a, "a's"), b.session() as agent:
        start(c)
        append(agent, "of b")
        wait_same(a, b, c, count=1)

        def asked(token: str, path: str = "/sync/version_vector", **headers: str) -> int:
            url, shown = urlsplit(http["tls"]), {"Authorization": f"Bearer {token}"} | headers
            context = ssl.create_default_context(cafile=http["certificate"])
            connection = HTTPSConnection(str(url.hostname), url.port, context=context, timeout=30)
            with closing(connection):
                connection.request("GET", path, headers=shown)
                return connection.getresponse().status

        owners = Path(http["token_file"]).read_text().strip()
        assert asked(OURS) == 200
        assert asked(owners) == 401
        assert asked(OURS, Origin="https://x.example") == 403
        assert asked(OURS, "/mcp") == 404
        c.extra.pop("SSL_CERT_FILE")
        assert c.run("stop").returncode == 0
        start(c)
        wait_until(lambda: peers_told(c)["b"]["error"], 30, "it trusts nobody by default")
        assert "certificate is not trusted" in peers_told(c)["b"]["error"]


def test_pulling_keeps_no_broker_that_nobody_uses(site_of: Sites) -> None:
    a, b = map(site_of, "ab")
    begin_broker(b, free_port())
    b.extra["PALACE_IDLE_S"] = "4"
    with Hub(a, "a's") as hub:
        name_peers(b, a=hub.address)
        hub.append("of a")
        pid = start(b)
        wait_same(a, b, count=1)
        wait_gone(pid)
        assert not brokers_of(b.palace)
        assert codes(b) == {"mesh_pauses": "warning"}


def test_a_palace_that_was_put_back_is_told_that_its_peers_know_more_of_it(site_of: Sites) -> None:
    a, b = map(site_of, "ab")
    port = free_port()
    begin_broker(b, port)
    name_peers(a, b=(f"http://127.0.0.1:{port}", OURS))
    with Hub(a, "a's") as hub:
        name_peers(b, a=hub.address)
        with b.session() as agent:
            append(agent, "kept")
            wait_same(a, b, count=1)
        connection = sqlite3.connect(a.palace / "logstream.sqlite3", timeout=30)
        with connection:  # as if b had told it, and lost it since
            connection.execute("CREATE TEMP TABLE lost AS SELECT * FROM events")
            connection.execute("UPDATE lost SET id = 'evt_lost', origin_seq = 7, body = 'lost'")
            connection.execute("INSERT INTO events SELECT * FROM lost")
        connection.close()
        wait_until(lambda: "mesh_forked" in codes(b), 30, "the doctor tells it")
        assert codes(b)["mesh_forked"] == "error"
        assert "mesh" not in codes(b)

        # What docs/operating.md says: with another identity, what was lost comes back.
        assert b.run("stop", "--hold").returncode == 0
        (b.palace / "replica.json").write_text('{"replica_id": "rep_' + "5" * 32 + '"}')
        assert b.run("start").returncode == 0
        wait_same(a, b, count=2)
        wait_until(lambda: "mesh" in codes(b), 30, "the doctor is content")
        with b.session() as agent:
            append(agent, "of the new one")
            wait_same(a, b, count=3)


def test_a_mesh_that_stands_still_is_an_error(site_of: Sites) -> None:
    b = site_of("b")
    begin_broker(b, free_port())
    b.extra["MEMPALACE_TRANSPORT"] = "meshguard"
    name_peers(b, a=("http://127.0.0.1:9", "t"))
    start(b)

    assert codes(b)["mesh_stands_still"] == "error"
    assert "meshguard" in b.run("status").stdout

    done = b.run("config", "set", 'environment={ MEMPALACE_SYNC_INTERVAL = "1" }')
    assert done.returncode == 0, done.stderr
    assert b.run("stop").returncode == 0
    start(b)
    assert "mesh_stands_still" not in codes(b)


def test_a_palace_that_cant_say_who_it_is_pulls_nothing_and_says_so(site_of: Sites) -> None:
    a, b = map(site_of, "ab")
    begin_broker(b, free_port())
    with Hub(a, "a's") as hub:
        name_peers(b, a=hub.address)
        hub.append("of a")
        (b.palace / "replica.json").write_text(json.dumps({"replica_id": "nobody"}))
        pid = start(b)
        wait_until(lambda: status_of(b)["mesh"]["problem"], 30, "a round has failed")
        assert "invalid replica_id" in status_of(b)["mesh"]["problem"]
        assert codes(b)["mesh_stands_still"] == "error"
        (b.palace / "replica.json").write_text(json.dumps({"replica_id": "rep_" + "6" * 32}))
        wait_same(a, b, count=1)
        assert status_of(b)["pid"] == pid


def test_a_stream_ends_where_its_cursor_is_gone(site_of: Sites) -> None:
    """Its client then begins anew; it said nothing any more, and went on."""
    b = site_of("b")
    port = free_port()
    begin_broker(b, port)
    name_peers(b)
    with b.session() as agent:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), 60, "it listens")
        with Stream(port, OURS) as stream:
            gone = append(agent, "the last that it has seen")
            assert stream.event()[0] == gone
            connection = sqlite3.connect(b.palace / "logstream.sqlite3", timeout=30)
            with connection:
                connection.execute("DELETE FROM events WHERE id = ?", (gone,))
            connection.close()
            append(agent, "after it")
            assert stream.ended()


def test_peers_that_come_while_a_broker_runs_are_served_and_the_doctor_says_where(
    site_of: Sites,
) -> None:
    b = site_of("b")
    start(b)
    wait_until(lambda: status_of(b)["http"]["url"], 60, "it listens")
    name_peers(b)
    wait_until(lambda: status_of(b)["mesh"], 30, "it is in the mesh")
    kept = Path(status_of(b)["mesh"]["token_file"])
    wait_until(kept.exists, 30, "peers are given a token")
    port = urlsplit(status_of(b)["http"]["url"]).port
    token = json.loads(kept.read_text())["token"]
    assert ask(f"http://127.0.0.1:{port}/statusz", token)[0] == 200
    name_peers(b, a=("http://127.0.0.1:9", "t"))
    wait_until(lambda: "mesh_unfound" in codes(b), 30, "the doctor says where it is")


def test_a_stream_tells_what_comes_and_goes_on_where_it_was_cut_off(site_of: Sites) -> None:
    b = site_of("b")
    port = free_port()
    begin_broker(b, port)
    name_peers(b)
    with b.session() as agent:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"), 60, "it listens")
        first = append(agent, "before")
        with Stream(port, OURS) as stream:
            second = append(agent, "while it is open")
            assert stream.event() == (second, "while it is open")
            agent.tool("event_append", **EVENT | {"stream": "other"}, body="of another stream")
            third = append(agent, "later")
            assert stream.event()[1] == "of another stream"
            assert stream.event() == (third, "later")
        status, body = ask(f"http://127.0.0.1:{port}/logstream/stream?type=No+Type", OURS)
        assert (status, "not a valid event type" in body.decode()) == (400, True)
        with Stream(port, OURS, query="?stream=project/x", last=first) as stream:
            assert [stream.event()[0], stream.event()[0]] == [second, third]
            assert b.run("stop").returncode == 0  # which waits for no viewer
            assert stream.ended()
