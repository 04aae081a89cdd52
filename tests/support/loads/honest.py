"""Honest clients of one broker, by every way there is: what they ask, and how long it takes."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs

from tests.support.loads.attacks import Place
from tests.support.processes.clients import Client

PAUSE_S = 0.1  # an agent thinks
ANSWER_S = 120.0
KINDS = ("search", "add_drawer", "status")


class Asks(Protocol):
    """One client's session: `tool` asks for a tool that must work, and returns what it says."""

    def tool(self, name: str, **arguments: Any) -> Any: ...


class HttpSession:
    """An MCP host that keeps one session over HTTP; `close` ends its connection."""

    def __init__(self, place: Place) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", place.http, timeout=ANSWER_S)
        self._ids = itertools.count(1)
        self._headers = {
            "Authorization": f"Bearer {place.token}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
        }
        info = {"name": "honest-http", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}
        answer = self._post({"method": "initialize", "params": params})
        self._headers["Mcp-Session-Id"] = answer.headers["mcp-session-id"]

    def tool(self, name: str, **arguments: Any) -> Any:
        params = {"name": f"mempalace_{name}", "arguments": arguments}
        reply = self._post({"method": "tools/call", "params": params}).message
        assert "result" in reply, reply
        return json.loads(reply["result"]["content"][0]["text"])

    def _post(self, message: dict[str, Any]) -> "_Answer":
        asked = {"jsonrpc": "2.0", "id": next(self._ids)} | message
        try:
            self._connection.request("POST", "/mcp", json.dumps(asked), self._headers)
            response = self._connection.getresponse()
        except http.client.RemoteDisconnected:  # an idle connection was closed: not the session
            self._connection.close()
            self._connection.request("POST", "/mcp", json.dumps(asked), self._headers)
            response = self._connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, (response.status, body)
        events = [line[6:] for line in body.split("\n") if line.startswith("data: ")]
        return _Answer(
            message=json.loads(events[-1] if events else body), headers=_lower(response.headers)
        )

    def close(self) -> None:
        self._connection.close()


def _lower(headers: http.client.HTTPMessage) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@attrs.frozen(kw_only=True)
class _Answer:
    message: dict[str, Any]
    headers: Mapping[str, str]


@attrs.define(eq=False)
class Agent:
    """One honest client, what its calls took in ms, and what went wrong."""

    name: str
    session: Asks
    taken_ms: dict[str, list[float]] = attrs.field(factory=lambda: {kind: [] for kind in KINDS})
    failures: list[str] = attrs.field(factory=list)
    _turn: int = 0

    def work(self, until_s: float) -> None:
        """Ask for this and that until the time has come; each call is noted."""
        while time.monotonic() < until_s and not self.failures:
            self._turn += 1
            text = f"{self.name} noted in turn {self._turn} that the tide came in at {self._turn}."
            self._time("add_drawer", wing="honest", room=self.name, content=text)
            self._time("search", query=f"when did the tide come in, turn {self._turn}", limit=3)
            self._time("status")

    def _time(self, kind: str, **arguments: object) -> None:
        begun_s = time.perf_counter()
        try:
            said = self.session.tool(kind, **arguments)
        except Exception as error:
            self.failures.append(f"{kind}: {error!r}"[:500])
            return
        self.taken_ms[kind].append((time.perf_counter() - begun_s) * 1e3)
        if kind == "add_drawer" and not said.get("success"):
            self.failures.append(f"{kind}: {said}"[:500])
        time.sleep(PAUSE_S)

    def forget(self) -> None:
        """Begin to count again."""
        self.taken_ms = {kind: [] for kind in KINDS}


@contextmanager
def honest_agents(place: Place, shim: Callable[..., Client]) -> Iterator[list[Agent]]:
    """Four clients: two shims, a host over HTTP, and a shim that comes as a guest over TLS."""
    guest = {"MEMPALACE_BROKER": f"wss://127.0.0.1:{place.guests}"}
    ways: dict[str, Mapping[str, str]] = {"shim-1": {}, "shim-2": {}, "guest": guest}
    with ExitStack() as stack:
        agents = []
        for name, more in ways.items():
            client = stack.enter_context(shim(**more))
            info = {"name": f"honest-{name}", "version": "1"}
            client.request(
                "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=info
            )
            agents.append(Agent(name, client))
        web = HttpSession(place)
        stack.callback(web.close)
        agents.append(Agent("http", web))
        yield agents


def work_together(agents: list[Agent], for_s: float) -> None:
    """Let all work beside each other for so long."""
    until_s = time.monotonic() + for_s
    threads = [threading.Thread(target=agent.work, args=(until_s,)) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def place_of(status: Mapping[str, Any], socket: Path) -> Place:
    """Return where a broker listens, from its status and its palace's record."""
    record = json.loads((socket.parent / "broker.json").read_text())
    (guests,) = (url for url in record["endpoints"] if url.startswith("wss:"))
    return Place(
        socket=str(socket),
        http=int(status["http"]["url"].split(":")[2].split("/")[0]),
        token=Path(status["http"]["token_file"]).read_text().strip(),
        guests=int(guests.rpartition(":")[2]),
    )
