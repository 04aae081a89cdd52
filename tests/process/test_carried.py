"""Agents of a palace whose tables another one has are carried to that one, and come back.

Two palaces name one namespace of a real PostgreSQL; the first one answers guests over TLS.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines.postgres import Postgres
from tests.support.processes.clients import Client, Site, end_brokers, wait_until
from tests.support.processes.sites import make_site

pytestmark = [pytest.mark.process, pytest.mark.engine]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def pair(tmp_path: Path, model_home: Path, postgres: Postgres) -> Iterator[tuple[Site, Site]]:
    """The first has the tables and answers guests; the second knows the way to it."""
    postgres.ask("CREATE DATABASE carried")
    sites = tuple(make_site(tmp_path / name, model_home) for name in ("a", "b"))
    for site in sites:
        site.extra |= {
            "MEMPALACE_BACKEND": "pgvector",
            "MEMPALACE_PGVECTOR_DSN": postgres.dsn("carried"),
            "MEMPALACE_PGVECTOR_SHARED_NAMESPACE": "team",
        }
    owner, other = sites
    # Epochs of two palaces have nothing to do with each other: the other one's are far below.
    (owner.palace / "epoch").write_text("40\n")
    listening = f"listen=127.0.0.1:{free_port()}"
    assert owner.run("config", "set", listening).returncode == 0
    with owner.session() as client:
        assert client.tool("add_drawer", wing="w", room="r", content="The team's.")["success"]
    lent = tmp_path / "lent"
    made = owner.run("expose", "guest", "b", "--into", str(lent))
    assert made.returncode == 0, made.stderr
    assert owner.run("stop").returncode == 0  # the next one has the certificate that guests know
    with owner.session() as client:
        assert client.tool("status")
    kept = other.run("own", "--through", str(lent))
    assert kept.returncode == 0, kept.stderr
    yield owner, other
    end_brokers(tmp_path)
    postgres.ask("DROP DATABASE carried WITH (FORCE)")


def add(client: Client, text: str) -> dict[str, Any]:
    return client.call("mempalace_add_drawer", wing="w", room="r", content=text)


def ask(client: Client, ident: int, text: str) -> None:
    """Send a call, and wait for nothing."""
    arguments = {"wing": "w", "room": "r", "content": text}
    params = {"name": "mempalace_add_drawer", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    client.send(json.dumps(message).encode() + b"\n")


def identity_of(site: Site) -> str:
    return (site.palace / "palace_id").read_text().strip()


def has_unread(site: Site) -> bool:
    """Tell whether a guest has sent something that the broker has not read."""
    (url,) = (url for url in site.record()["endpoints"] if url.startswith("wss:"))
    door = f":{int(url.rpartition(':')[2]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(door) and int(row[4].partition(":")[2], 16) for row in rows)


def is_done(reply: dict[str, Any]) -> bool:
    return "result" in reply and '"success": true' in reply["result"]["content"][0]["text"]


def texts(client: Client) -> list[str]:
    drawers = client.tool("list_drawers", limit=50)["drawers"]
    return sorted(one["content_preview"] for one in drawers)


def serves(site: Site) -> bool:
    """Tell whether a broker of this palace is there, and has opened its stores."""
    status = site.run("status", "--json")
    return status.returncode == 0 and json.loads(status.stdout)["engine"]["state"] == "ready"


def test_agents_are_carried_to_the_palace_that_has_the_tables(pair: tuple[Site, Site]) -> None:
    owner, other = pair
    with other.session() as client:
        assert is_done(add(client, "Filed by the other host's agent."))
        assert client.tool("kg_add", subject="Heron", predicate="lives_by", object="river")
        assert texts(client) == ["Filed by the other host's agent.", "The team's."]
    with owner.session() as client:
        facts = client.tool("kg_query", entity="Heron")["facts"]
        assert [fact["object"] for fact in facts] == ["river"], "it is the owner's palace, whole"
    assert not serves(other)
    shown = other.run("own").stdout
    assert "Ways to palaces that may have them:" in shown
    assert "as guest b" in shown
    said = other.run("doctor").stdout
    assert "agents are carried to it as its guest b" in said
    assert "is refused here" not in said.replace("and HTTP is refused here", "")


def test_once_the_owner_has_left_the_other_serves_and_then_it_is_the_other_way_round(
    pair: tuple[Site, Site],
) -> None:
    owner, other = pair
    with other.session() as client:
        assert is_done(add(client, "Through the owner."))
        assert owner.run("stop").returncode == 0
        assert is_done(add(client, "By ourselves."))
        assert serves(other)
        assert other.run("stop").returncode == 0
        with owner.session() as its:
            assert texts(its) == ["By ourselves.", "The team's.", "Through the owner."]
            assert is_done(add(client, "Through the owner again."))
            assert len(texts(its)) == 4
        assert not serves(other)


def test_a_killed_owner_answers_once_what_the_other_hosts_agent_waits_for(
    pair: tuple[Site, Site],
) -> None:
    owner, other = pair
    with other.session() as client, owner.session() as its:
        assert is_done(add(client, "The first."))
        broker = int(owner.record()["pid"])
        os.kill(broker, signal.SIGSTOP)
        ask(client, 70, "Asked meanwhile.")
        os.kill(broker, signal.SIGKILL)
        # Its own agent asks at once, so that it is served again before the other palace has looked.
        assert len(texts(its)) >= 2
        assert is_done(json.loads(client.receive()))
        assert texts(its).count("Asked meanwhile.") == 1


def test_what_an_owner_that_is_gone_may_have_carried_out_is_not_begun_again(
    pair: tuple[Site, Site],
) -> None:
    owner, other = pair
    with other.session() as client:
        assert is_done(add(client, "The first."))
        broker = int(owner.record()["pid"])
        os.kill(broker, signal.SIGSTOP)
        ask(client, 70, "Perhaps.")
        wait_until(lambda: has_unread(owner), what="the call is at the owner's door")
        os.kill(client.process.pid, signal.SIGSTOP)  # it looks for nobody until the tables are free
        os.kill(broker, signal.SIGKILL)
        assert owner.run("start").returncode == 0
        assert owner.run("stop").returncode == 0
        os.kill(client.process.pid, signal.SIGCONT)
        reply = json.loads(client.receive())
        assert serves(other)
        assert reply["error"]["data"]["palace"] == "outcome_unknown", reply
        assert "Perhaps." not in texts(client)


def test_a_way_that_leads_nowhere_is_told_with_what_to_do(pair: tuple[Site, Site]) -> None:
    owner, other = pair
    assert owner.run("expose", "revoke", "b").returncode == 0
    with other.session() as client:
        refused = add(client, "Refused.")["error"]
        assert refused["data"]["palace"] in ("forbidden", "election"), refused
        assert "palace own --through DIR" in refused["message"]
        assert other.run("own", "--forget", identity_of(owner)[:8]).returncode == 0
        refused = add(client, "Refused.")["error"]
        assert refused["data"]["palace"] == "store_owned"
        assert "palace own --through DIR" in refused["message"]
