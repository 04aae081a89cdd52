"""Namespaces that end, where a server has memories of theirs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import attrs
import pytest

from palace.commands.purge import Purged, purge_text
from palace.engine.durability.derived import Derived
from palace.engine.durability.own_tools import DROP_S
from palace.engine.durability.traces import Traces
from palace.plugin.client import Client
from palace.plugin.elsewhere import Elsewhere
from palace.plugin.wire import Wire
from palace.protocol.errors import WorkspaceRefused
from palace.protocol.plugin_address import address_in
from palace.settings.paths import Paths
from tests.support.stores.team import Team, team

ONE, OTHER = "custom:one", "custom:other"


@attrs.define
class Dropping:
    """What a server answers to whoever drops a namespace, and for which it was asked."""

    status: int = 204
    asked: list[str] = attrs.field(factory=list)
    ticks_s: float = 0.0  # by which its client's clock goes on with each request


@contextmanager
def held_at(server: Dropping, office: Team) -> Iterator[None]:
    """Let a server be prepared for a palace's custom namespaces."""

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            server.asked.append(unquote(self.path).removeprefix("/v1/namespaces/"))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        wire = Wire(address=address_in(f"http://127.0.0.1:{listening.server_address[1]}"))
        client = Client(called="it", wire=wire, clock=lambda: server.ticks_s * len(server.asked))
        there = Elsewhere(client=client, kinds=["custom"])
        office.own = attrs.evolve(office.own, server=there)
        try:
            yield
        finally:
            wire.close()
            listening.shutdown()


@pytest.fixture
def office(tmp_path: Path) -> Team:
    office = team(tmp_path / "palace")
    office.add("lead")
    for name in (ONE, OTHER):
        assert "namespace" in office.ask("", "namespace_add", name=name, members=["lead"])
    return office


def names(office: Team) -> list[str]:
    return [one["name"] for one in office.ask("", "namespace_list")["namespaces"]]


@pytest.mark.parametrize("status", [503, 403, 429])
def test_one_has_not_ended_before_the_server_has_forgotten_it(office: Team, status: int) -> None:
    server = Dropping(status)
    with held_at(server, office):
        office.commit("lead", "x", namespace=ONE)
        office.ask("", "namespace_remove", name=ONE, purge=True)
        assert office.ask("", "memory_drop")["left"] == [ONE]
        assert office.ask("", "sweep") == {"forgotten": 1, "server": True}
        for _ in range(2):
            assert office.ask("", "sweep") == {"forgotten": 0, "server": True}
            told = office.ask("", "memory_drop")
            assert (told["ended"], told["left"]) == (0, [ONE])
            assert told["why"]
        refused = office.ask("", "namespace_add", name=ONE, members=["lead"])
        assert refused["code"] == WorkspaceRefused.wire_code
        assert names(office) == names(office.heir()) == [ONE, OTHER]

        server.status = 204
        server.ticks_s = 100.0  # whatever has kept it from being asked is past
        assert office.ask("", "memory_drop") == {"ended": 1, "left": [], "why": ""}
        assert names(office) == [OTHER]
        assert "namespace" in office.ask("", "namespace_add", name=ONE, members=["lead"])
        assert office.ask("", "sweep") == {"forgotten": 0}
    assert set(server.asked) == {ONE}


def test_one_that_still_has_memories_here_is_swept_first(office: Team) -> None:
    server = Dropping(404)
    with held_at(server, office):
        office.commit("lead", "x", namespace=ONE)
        office.ask("", "namespace_remove", name=ONE, purge=True)
        assert office.ask("", "memory_drop") == {"ended": 0, "left": [ONE], "why": ""}
        assert office.ask("", "sweep")["forgotten"] == 1
        assert office.ask("", "memory_drop")["ended"] == 1


def test_what_no_server_holds_ends_with_the_sweep(office: Team) -> None:
    server = Dropping()
    with held_at(server, office):
        office.ask("", "workspace_remove", id="lead", purge=True)
        assert office.ask("", "sweep") == {"forgotten": 0}
        assert office.ask("", "memory_drop") == {"ended": 0, "left": [], "why": ""}
    assert server.asked == []


def test_a_call_asks_for_no_more_than_its_time_allows(office: Team) -> None:
    server = Dropping(204, ticks_s=DROP_S)
    with held_at(server, office):
        for name in (ONE, OTHER):
            office.ask("", "namespace_remove", name=name, purge=True)
        assert office.ask("", "memory_drop") == {"ended": 1, "left": [OTHER], "why": ""}
        assert office.ask("", "memory_drop")["left"] == []
    assert server.asked == [ONE, OTHER]


@pytest.mark.parametrize("address", ["", "https://memory.example"])
def test_a_purge_says_that_the_server_is_out_of_its_reach(address: str) -> None:
    gone = Derived(entities={("memory", "mem-a"): "named"}, shared=(), traces=Traces(), sources=())
    purged = Purged(records=1, derived=gone, leftovers=(), memory_server=address)

    text = purge_text(Paths("/p"), purged)

    assert ("memory server" in text) is bool(address)
    assert address in text
