"""Palaces in a mesh: stock's hubs as peers, what a log of events holds, and peers that lie."""

import http.client
import json
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.support.machines.sshd import free_port
from tests.support.processes.clients import Site, wait_until
from tests.support.processes.sites import make_site, without

ROUND_S = "1"
EVENT = {"type": "note.sent", "stream": "project/x", "room": "r", "from_agent": "tester"}


def mesh_site(root: Path, model_home: Path, name: str) -> Site:
    """Return a home with an empty palace; what it is started with asks its peers each second."""
    (root / name).mkdir()
    site = make_site(root / name, model_home)
    site.palace.chmod(0o700)
    site.extra |= {"MEMPALACE_SYNC_INTERVAL": ROUND_S, "MEMPALACE_SYNC_HTTP_TIMEOUT": "10"}
    return site


def name_peers(site: Site, **peers: tuple[str, str]) -> None:
    """Write peers.json as users of stock do: names with URLs and tokens."""
    listed = [{"name": name, "url": url, "token": token} for name, (url, token) in peers.items()]
    path = site.palace / "peers.json"
    new = path.with_name("peers.new")
    new.write_text(json.dumps({"peers": listed}))
    new.rename(path)


class Hub:
    """Stock's `mempalace-mcp --transport http` at a port of its own; `end` it."""

    def __init__(self, site: Site, token: str, port: int = 0) -> None:
        self.site, self.token, self.port = site, token, port or free_port()
        self.process = self._start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, str]:
        """What another palace's peers.json says of it."""
        return self.url, self.token

    def _start(self) -> "subprocess.Popen[bytes]":
        environ = without(self.site.environ(), "MEMPALACE_PATH") | {
            "MEMPALACE_MCP_HTTP_TOKEN": self.token,
            "MEMPALACE_PALACE_PATH": str(self.site.palace),
        }
        argv = [sys.executable, "-P", "-m", "mempalace.mcp_server", "--transport", "http"]
        with (self.site.home / "hub.log").open("ab") as log:
            process = subprocess.Popen(
                [*argv, "--palace", str(self.site.palace), "--port", str(self.port)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: answers(self.url), 60, "stock's hub answers")
        return process

    def tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool of stock's; return what it says."""
        params = {"name": f"mempalace_{name}", "arguments": arguments}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        reply = json.loads(ask(f"{self.url}/mcp", self.token, json.dumps(message).encode())[1])
        return json.loads(reply["result"]["content"][0]["text"])

    def append(self, body: str) -> str:
        return str(self.tool("event_append", **EVENT, body=body)["event"]["id"])

    def restart(self) -> None:
        self.process = self._start()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.end()


def ask(url: str, token: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Ask with a bearer's token; return the status and the body."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def answers(url: str) -> bool:
    try:
        return ask(f"{url}/healthz", "")[0] == 200
    except OSError:
        return False


def events_of(site: Site) -> Counter[tuple[str, str]]:
    """Return the events that a palace's log holds, raw: each with its id and its text."""
    return Counter(_rows(site, "SELECT id, body FROM events"))


def artifacts_of(site: Site) -> dict[str, str]:
    return dict(_rows(site, "SELECT id, content FROM artifacts"))


def _rows(site: Site, query: str) -> list[Any]:
    path = site.palace / "logstream.sqlite3"
    if not path.exists():
        return []
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return []
    finally:
        connection.close()


def wait_same(*sites: Site, count: int, timeout_s: float = 60) -> None:
    """Wait until all palaces hold the same `count` events; each of them is there once."""

    def same() -> bool:
        first, *others = map(events_of, sites)
        return len(first) == count and all(other == first for other in others)

    try:
        wait_until(same, timeout_s, "")
    except AssertionError:
        held = {site.home.parent.name: len(events_of(site)) for site in sites}
        raise AssertionError(f"{held}, and {count} events are wanted") from None
    assert set(events_of(sites[0]).values()) == {1}


class Liar:
    """A peer that answers whatever it is told to; `answer` maps a path to a status and a body."""

    def __init__(self, answer: Callable[[str], tuple[int, bytes, dict[str, str]]]) -> None:
        self.asked: list[tuple[str, str]] = []
        liar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                liar.asked.append((self.path, self.headers.get("Authorization", "")))
                status, body, headers = answer(self.path)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    return  # it was hung up on

            def log_message(self, *_arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Stream:
    """A viewer of a palace's events; close it."""

    def __init__(self, port: int, token: str, query: str = "", last: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} | ({"Last-Event-ID": last} if last else {})
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.request("GET", f"/logstream/stream{query}", headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200

    def event(self) -> tuple[str, str]:
        """Return the next event's id and text."""
        ident = ""
        while line := self._answer.readline().decode().rstrip("\n"):
            if line.startswith("id: "):
                ident = line.removeprefix("id: ")
            elif line.startswith("data: "):
                self._answer.readline()
                return ident, json.loads(line.removeprefix("data: "))["body"]
        return self.event()

    def ended(self) -> bool:
        """Wait for its end; tell whether it was a clean one."""
        return self._answer.read() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._connection.close()
