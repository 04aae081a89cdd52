"""A place to test in, and a blocking MCP client for whatever speaks MCP on stdio."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PALACE = [sys.executable, "-P", "-m", "palace"]
REPLY_S = 90.0


@dataclass
class Site:
    """A home and a palace directory, and the environment that points there."""

    home: Path
    palace: Path
    extra: dict[str, str] = field(default_factory=dict)

    def environ(self, **more: str) -> dict[str, str]:
        """Return an environment without this machine's own palace settings."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MEMPAL", "PALACE_", "XDG_"))
        }
        mine = {"HOME": str(self.home), "MEMPALACE_PATH": str(self.palace), "PALACE_IDLE_S": "120"}
        return kept | mine | self.extra | more

    def shim(self, *arguments: str, **more: str) -> "Client":
        """Start a `palace shim`; close it."""
        return Client([*PALACE, "shim", *arguments], self.environ(**more))

    @contextmanager
    def session(self) -> "Iterator[Client]":
        """Be an agent of this palace, through a shim, that has said hello."""
        with self.shim() as client:
            client.initialize()
            yield client

    def stock(self, *arguments: str, **more: str) -> "Client":
        """Start a stock `mempalace-mcp` on the same palace; close it."""
        argv = [sys.executable, "-P", "-m", "mempalace.mcp_server", "--palace", str(self.palace)]
        environ = self.environ(**more) | {"MEMPALACE_HUB_FORWARD": "0"}
        return Client([*argv, *arguments], environ)

    def run(
        self, *arguments: str, timeout_s: float = 60, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a palace command to its end."""
        return subprocess.run(
            [*PALACE, *arguments],
            env=self.environ(**more),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def record(self) -> dict[str, Any]:
        return json.loads((self.palace / "broker.json").read_text())

    def status(self) -> dict[str, Any]:
        return json.loads(self.run("status", "--json").stdout)

    def kill_broker(self, number: int = signal.SIGKILL) -> int:
        pid = self.record()["pid"]
        os.kill(pid, number)
        return pid

    def log(self) -> str:
        path = self.palace / "broker.log"
        return path.read_text() if path.exists() else ""


class Speaker(Protocol):
    """A `Client` as far as calling tools goes, or what stands in for one."""

    ids: int

    def send(self, line: bytes) -> None: ...
    def receive(self) -> bytes: ...
    def tool(self, name: str, **arguments: Any) -> Any: ...


class Client:
    """A blocking MCP client; one request in flight unless you write lines yourself."""

    def __init__(self, argv: list[str], environ: dict[str, str], **popen: Any) -> None:
        self.process = subprocess.Popen(
            argv,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=popen.pop("stderr", subprocess.PIPE),
            **popen,
        )
        self.ids = 0
        self._buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def receive(self, timeout_s: float = REPLY_S) -> bytes:
        """Return the next line without its newline; b"" at the end of the stream."""
        import select

        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError(f"no reply within {timeout_s} s")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and return its reply; other replies in between are an error."""
        self.ids += 1
        message = {"jsonrpc": "2.0", "id": self.ids, "method": method, "params": params}
        self.send(json.dumps(message).encode() + b"\n")
        reply = json.loads(self.receive())
        assert reply["id"] == self.ids, reply
        return reply

    def initialize(self) -> dict[str, Any]:
        info = {"name": "test", "version": "1"}
        return self.request(
            "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo=info
        )

    def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return the whole reply."""
        return self.request("tools/call", name=name, arguments=arguments)

    def tool(self, name: str, **arguments: Any) -> Any:
        """Call a tool that must work; return what it says."""
        reply = self.call(f"mempalace_{name}", **arguments)
        assert "result" in reply, reply
        return json.loads(reply["result"]["content"][0]["text"])

    def close(self, timeout_s: float = 60) -> int:
        """Close stdin, wait for the end; return the exit code."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is self.process.stdin and stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()


def _commands() -> Iterator[tuple[int, list[bytes]]]:
    """Yield each process of the machine with the words of its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue


def brokers_of(root: Path) -> list[int]:
    """Return the pids of `palace serve` processes whose palace lies below `root`."""
    return [
        pid
        for pid, words in _commands()
        if b"serve" in words and any(str(root).encode() in word for word in words)
    ]


def _has_open(pid: int, root: Path) -> bool:
    """Tell whether a process has something below `root` open."""
    try:
        targets = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(target.startswith(f"{root}/") for target in targets)


def _canaries_of(root: Path, owners: set[int]) -> list[int]:
    """Return the canaries of these brokers, and of all that died before them below `root`."""
    of = {f"--of={owner}".encode() for owner in owners}
    return [
        pid
        for pid, words in _commands()
        if any(word.endswith(b"/canary/watch.py") for word in words)
        and (not of.isdisjoint(words) or _has_open(pid, root))
    ]


def end_brokers(root: Path) -> None:
    """SIGKILL every broker below `root`, and wait until they are gone.

    Their canaries go with them: those would look for two seconds, and then record a death in a
    directory that the caller is about to remove.
    """
    owners: set[int] = set()
    for _ in range(200):
        brokers = brokers_of(root)
        owners |= set(brokers)
        left = [*brokers, *_canaries_of(root, owners)]
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    raise AssertionError(f"brokers or their canaries won't end: {left}")


def wait_until(condition: Any, timeout_s: float = 30, what: str = "") -> None:
    """Poll a condition that another process brings about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.02)
