"""Real processes to test with: brokers in the foreground, reapers, and what /proc says of them."""

import json
import os
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from palace.client.control import Control
from palace.commands.config import change_settings
from palace.kernel.kernel import Kernel
from palace.protocol import wire
from palace.settings.checks import USER
from palace.settings.config import KNOWN
from palace.settings.environment import ShimEnvironment
from palace.settings.paths import Paths
from palace.settings.user_settings import toml_text
from tests.support.processes.clients import PALACE, Client, Site, brokers_of, wait_until
from tests.support.processes.sites import naming

OUTCOME_UNKNOWN = -31045
# What root has to be without for the mode bits to count.
_OVERRIDES = "-dac_override,-dac_read_search"


def make_site(root: Path, model_home: Path, backend: str = "chroma") -> Site:
    """Return a site like the fixture's, for brokers that several tests share."""
    home = root / "home"
    (home / ".cache").mkdir(parents=True)
    (home / ".cache" / "chroma").symlink_to(model_home / ".cache" / "chroma")
    site = Site(home=home, palace=root / "store" / "palace", extra=naming(backend))
    site.palace.parent.mkdir()
    return site


def make_palace(site: Site, settings: str = "") -> None:
    """Make the palace's directory, with settings where they count."""
    site.palace.mkdir(mode=0o700)
    settle(site, settings)


def settle(site: Site, settings: str) -> None:
    """Add settings where they count: in palace.toml, or in those of the site's user."""
    values = tomllib.loads(settings)
    mine = {key: value for key, value in values.items() if KNOWN[key].counts == USER}
    others = [f"{key} = {toml_text(value)}\n" for key, value in values.items() if key not in mine]
    if others:
        with (site.palace / "palace.toml").open("a") as file:
            file.write("".join(others))
    if mine:
        environment = ShimEnvironment(site.environ())
        change_settings(Paths(str(site.palace)), environment, mine, Kernel())


def unprivileged(argv: list[str]) -> list[str]:
    """Return a command that runs as we do, but bound by the mode bits even where we are root."""
    if os.geteuid() != 0:
        return argv
    return ["setpriv", f"--bounding-set={_OVERRIDES}", f"--inh-caps={_OVERRIDES}", *argv]


def run(argv: list[str], site: Site, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run any command with the site's environment."""
    return subprocess.run(
        argv, env=site.environ(**more), capture_output=True, text=True, timeout=60, check=False
    )


class Serving:
    """A `palace serve` in the foreground; `end` it.  `prefix` is a command that runs it."""

    def __init__(
        self, site: Site, *arguments: str, prefix: tuple[str, ...] = (), **more: str
    ) -> None:
        self.site = site
        self._log = site.home / f"serve-{len(list(site.home.iterdir()))}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *PALACE, "serve", f"--palace={site.palace}", *arguments],
                env=site.environ(**more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(
            lambda: "palace: epoch" in self.words() or self.process.poll() is not None,
            what="palace serve serves",
        )
        assert self.process.poll() is None, self.words()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self.process.pid

    def words(self) -> str:
        return self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def status_of(site: Site) -> dict[str, Any]:
    """Ask the broker of a site for its status, without starting a process."""
    with Control(Paths(str(site.palace)), ShimEnvironment(site.environ())) as control:
        return control.status()


def wait_ready(site: Site) -> dict[str, Any]:
    """Wait until the broker of a site has loaded its engine; return its status."""
    wait_until(lambda: status_of(site)["engine"]["state"] == "ready", 90, "the engine is ready")
    return status_of(site)


def wait_writing(site: Site) -> None:
    """Wait until a mutation runs."""
    what = "a mutation runs"
    wait_until(lambda: status_of(site)["lanes"]["writer"]["running"] == 1, what=what)


def state_of(pid: int) -> str:
    """Return a process's state as ps(1) names it, "" where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text.rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped doesn't."""
    return state_of(pid) not in ("", "Z", "X")


def wait_gone(pid: int) -> None:
    wait_until(lambda: not is_alive(pid), 60, f"pid {pid} is gone")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def processes_of(root: Path) -> list[int]:
    """Return every process but ours whose command line names something below `root`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(root).encode() in words:
                found.append(int(entry.name))
    return found


def holders_of(*names: Path) -> dict[int, set[str]]:
    """Return the processes that have one of these files open: pid -> descriptors."""
    wanted = {str(name) for name in names}
    found: dict[int, set[str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            descriptors = list((entry / "fd").iterdir())
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target in wanted:
                found.setdefault(int(entry.name), set()).add(descriptor.name)
    return found


@contextmanager
def graph_locked(site: Site) -> Iterator[None]:
    """Hold the graph's write lock, as another program might: the next kg_add is stuck.

    The graph waits for 10 s before it gives up (mempalace/knowledge_graph.py, timeout=10).
    """
    path = site.palace / "knowledge_graph.sqlite3"
    assert path.exists(), "call a kg tool first"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


def call_line(ident: object, name: str, **arguments: object) -> bytes:
    """Return the line of one tool call, for clients that don't wait for each reply."""
    params = {"name": f"mempalace_{name}", "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    return json.dumps(message).encode() + b"\n"


def has_reply(client: Client) -> bool:
    """Tell whether a client has something to read."""
    assert client.process.stdout is not None
    return bool(client._buffer or select.select([client.process.stdout], [], [], 0)[0])


def text_of(reply: dict[str, Any]) -> Any:
    """Return what a tool said."""
    return json.loads(reply["result"]["content"][0]["text"])


def code_of(reply: dict[str, Any]) -> int:
    """Return the code of an error reply, 0 of any other."""
    return reply.get("error", {}).get("code", 0)


class Line:
    """A raw connection to a broker, for what no shim would say."""

    def __init__(self, path: Path | str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(path))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hello(self, session: str, **fields: str) -> tuple[str, dict[str, str]]:
        """Introduce a session; return the answer's kind and fields."""
        self.send(wire.encode_header(wire.HELLO, {"session": session, "next": "0"} | fields))
        return self.header()

    def header(self) -> tuple[str, dict[str, str]]:
        _, kind, fields = wire.decode_header(self.line())
        return kind, fields

    def line(self) -> bytes:
        """Return the next line without its newline; b"" at the end."""
        while b"\n" not in self._buffer:
            try:
                data = self.sock.recv(65_536)
            except ConnectionResetError:
                data = b""
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


class Reaper:
    """A sandbox that kills processes as soon as it sees them; `prey` says which pids to kill."""

    def __init__(self, prey: Callable[[], list[int]]) -> None:
        self._prey = prey
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self.killed: set[int] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.002):
            for pid in self._prey():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed.add(pid)


def detached_brokers_of(root: Path) -> list[int]:
    """Return the pids of brokers that were started detached, for the palaces below `root`."""
    found = []
    for pid in brokers_of(root):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--detached" in words:
            found.append(pid)
    return found


def impatient_shim(site: Site, deadline_s: float, **more: str) -> Client:
    """Start a shim that is the real one, but for its deadline (60 s is long for a test)."""
    program = (
        "import sys; from palace.client import connector; from palace.shim import relay; "
        f"connector.Connector.__init__.__kwdefaults__['deadline_s'] = {deadline_s!r}; "
        "sys.exit(relay.main([]))"
    )
    return Client([sys.executable, "-P", "-c", program], site.environ(**more))
