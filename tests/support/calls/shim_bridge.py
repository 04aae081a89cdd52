"""Shows a `palace shim` to those who speak HTTP alone: one shim for each legacy session, one for
all modern requests.  What HTTP itself asks for (statuses, event streams) is made up here.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.brokers.loopback import Answering, serving
from tests.support.processes.clients import Client, Site

SESSION = "Mcp-Session-Id"
STATUS = {-32601: 404, -32700: 400, -32600: 400, -32602: 400, -32021: 400, -32022: 400}


class Bridge:
    """The shims of a site; close it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shims: dict[str, tuple[Client, threading.Lock]] = {}
        self._lock = threading.Lock()
        self._begun = 0

    def _shim(self, session: str) -> "tuple[Client, threading.Lock] | None":
        with self._lock:
            if session == "" and session not in self._shims:
                self._shims[session] = (self._site.shim(), threading.Lock())
            return self._shims.get(session)

    def begin(self) -> str:
        """Start a shim for a new session; return the session's name."""
        with self._lock:
            self._begun += 1
            name = f"session-{self._begun}"
            self._shims[name] = (self._site.shim(), threading.Lock())
        return name

    def ask(self, session: str, body: bytes) -> "list[Any] | None":
        """Return what the shim says until it has answered; None for an unknown session."""
        found = self._shim(session)
        if found is None:
            return None
        shim, turn = found
        message = _parsed(body)
        with turn:
            shim.send(b" ".join(body.splitlines()) + b"\n")
            if isinstance(message, dict) and "id" not in message:
                return []
            said = [json.loads(shim.receive())]
            while "method" in said[-1]:
                said.append(json.loads(shim.receive()))
        return said

    def end(self, session: str) -> None:
        """End a session's shim."""
        with self._lock:
            found = self._shims.pop(session, None)
        if found is not None:
            found[0].close()

    def close(self) -> None:
        for session in tuple(self._shims):
            self.end(session)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class _Handler(Answering):
    bridge: Bridge

    def post(self) -> None:
        body = self.body()
        message, session = _parsed(body), self.headers.get(SESSION, "")
        begins = isinstance(message, dict) and message.get("method") == "initialize"
        if begins and not session:
            session = self.bridge.begin()
        said = self.bridge.ask(session, body)
        if said is None:
            self._answer(404, {"jsonrpc": "2.0", "id": None, "error": {"code": -32600}})
        elif not said:
            self._answer(202, None)
        else:
            is_modern = not session
            error = said[-1].get("error", {}) if is_modern else {}
            self._answer(STATUS.get(error.get("code", 0), 200), said[-1], session, said[:-1])

    def delete(self) -> None:
        self.bridge.end(self.headers.get(SESSION, ""))
        self._answer(204, None)

    def _answer(self, status: int, reply: Any, session: str = "", before: Any = ()) -> None:
        data = b"" if reply is None else json.dumps(reply).encode()
        kind = "application/json"
        if before:
            kind = "text/event-stream"
            events = [json.dumps(message) for message in (*before, reply)]
            data = "".join(f"event: message\ndata: {event}\n\n" for event in events).encode()
        headers = {"content_type": kind} if data else {}
        if session:
            headers["mcp_session_id"] = session
        self.send(status, data, **headers)


@contextmanager
def bridged(site: Site) -> Iterator[str]:
    """Serve until the block ends; yield the URL."""
    bridge = Bridge(site)
    try:
        with serving(type("Handler", (_Handler,), {"bridge": bridge})) as url:
            yield f"{url}/mcp"
    finally:
        bridge.close()
