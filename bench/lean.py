"""A blocking MCP client that adds as little as it can: one write and one read on raw pipes."""

import os
import signal
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

CHUNK = 65_536  # from 128 KiB on malloc maps and unmaps memory at each read: 13 us
END_S = 10.0


class Broken(Exception):
    """A measurement could not be made."""


def line(method: str, params: str = "{}") -> bytes:
    """Return a request; all have the id 1, so that each answer equals the one before it."""
    return f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}\n'.encode()


INITIALIZE = line(
    "initialize",
    '{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"0"}}',
)
PING = line("ping")
MIB = line("ping", '{"padding":"' + "x" * (1 << 20) + '"}')
NO_OP = line("tools/call", '{"name":"mempalace_get_aaak_spec","arguments":{}}')
ADD = line(
    "tools/call",
    '{"name":"mempalace_add_drawer","arguments":'
    '{"wing":"bench","room":"bench","content":"one drawer, so that the store exists"}}',
)


class Lean:
    """One stdio server and its pipes; `close` ends it."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        there_in, self.out = os.pipe()
        self.into, there_out = os.pipe()
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, there_in, 0), (os.POSIX_SPAWN_DUP2, there_out, 1)]
        actions.append((os.POSIX_SPAWN_DUP2, errors, 2))
        try:
            self.spawned_ns = time.perf_counter_ns()
            # A process group of its own: ctrl-C reaches the benchmark, which ends its children.
            self.pid = os.posix_spawn(
                argv[0], tuple(argv), environ, file_actions=actions, setpgroup=0
            )
        finally:
            for fd in (there_in, there_out, errors):
                os.close(fd)

    def ask(self, request: bytes) -> bytes:
        """Send a line and return the next one."""
        sent = os.write(self.out, request)
        while sent < len(request):
            sent += os.write(self.out, request[sent:])
        reply = os.read(self.into, CHUNK)
        while not reply.endswith(b"\n"):
            more = os.read(self.into, CHUNK)
            if not more:
                raise Broken(f"process {self.pid} ended before it answered")
            reply += more
        return reply

    def must(self, request: bytes) -> bytes:
        """Ask what must not fail."""
        reply = self.ask(request)
        if b'"error"' in reply:
            raise Broken(f"{request[:100]!r} was answered {reply[:500]!r}")
        return reply

    def initialize(self) -> float:
        """Return the milliseconds from the spawn to the answer."""
        self.must(INITIALIZE)
        return (time.perf_counter_ns() - self.spawned_ns) / 1e6

    def round_trips(self, request: bytes, count: int) -> list[float]:
        """Return the microseconds of each of `count` round trips, all answered alike."""
        expected = self.must(request)
        clock = time.perf_counter_ns
        taken_us = []
        for _ in range(count):
            begun_ns = clock()
            reply = self.ask(request)
            taken_us.append((clock() - begun_ns) / 1e3)
            if reply != expected:
                raise Broken(f"{request[:100]!r} was answered {reply[:500]!r}")
        return taken_us

    def wait(self) -> float:
        """Return the milliseconds from the spawn to the end of the process."""
        while os.read(self.into, CHUNK):
            continue
        return (time.perf_counter_ns() - self.spawned_ns) / 1e6

    def memory_mib(self) -> tuple[float, float]:
        """Return its proportional (PSS) and its private (USS) share of memory."""
        rows = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {row.split(":")[0]: int(row.split()[1]) for row in rows}
        return kib["Pss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024

    def close(self) -> None:
        """Close its stdin and wait for its end; a process that stays is killed."""
        for fd in (self.out, self.into):
            os.close(fd)
        deadline_s = time.monotonic() + END_S
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() > deadline_s:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return
            time.sleep(0.001)


def load(clients: Sequence[Lean], request: bytes, seconds: float) -> tuple[float, float]:
    """Ask from one process per client at once; return answers/s and the cores the askers took."""
    for client in clients:
        client.must(request)
    starts_s = time.perf_counter() + 0.05
    reading, writing = os.pipe()
    pids = [
        _fork_asker(client, request, (starts_s, starts_s + seconds), writing) for client in clients
    ]
    os.close(writing)
    cpu_s = 0.0
    try:
        while pids:
            _, status, usage = os.wait4(pids[0], 0)
            del pids[0]
            cpu_s += usage.ru_utime + usage.ru_stime
            if status:
                raise Broken("a client of the load had an answer that differs")
        counts = [int(count) for count in os.read(reading, CHUNK).split()]
    finally:
        os.close(reading)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return sum(counts) / seconds, cpu_s / seconds


def drive(
    clients: Sequence[Lean], requests: Sequence[Iterator[bytes]], seconds: float
) -> list[list[float]]:
    """Let each client ask its own requests for some seconds, all at once, one at a time.

    Returns each one's latencies in milliseconds.  An error in an answer is Broken.
    """
    starts_s = time.perf_counter() + 0.05
    askers = []
    for client, asked in zip(clients, requests, strict=True):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - more than a pipe would hold
        askers.append((_fork_driver(client, asked, (starts_s, starts_s + seconds), file), file))
    latencies = []
    try:
        while askers:
            pid, file = askers[0]
            _, status = os.waitpid(pid, 0)
            del askers[0]
            with file:
                if status:
                    raise Broken("a client was answered with an error")
                file.seek(0)
                latencies.append(array("d", file.read()).tolist())
    finally:
        for pid, file in askers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            file.close()
    return latencies


def _fork_driver(
    client: Lean, asked: Iterator[bytes], span_s: tuple[float, float], file: IO[bytes]
) -> int:
    def drive_one() -> None:
        taken = array("d")
        while (begun_s := time.perf_counter()) < span_s[1]:
            if not ok(client.ask(next(asked))):
                os._exit(1)
            taken.append((time.perf_counter() - begun_s) * 1e3)
        file.write(taken.tobytes())
        file.flush()

    return _fork_at(span_s[0], drive_one)


def _fork_at(starts_s: float, work: Callable[[], None]) -> int:
    """Let a child do something from a moment on; return its pid.  It exits with 1 if it fails."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        time.sleep(max(0.0, starts_s - time.perf_counter()))
        work()
        code = 0
    finally:
        os._exit(code)


def ok(reply: bytes) -> bool:
    """Tell whether a tool did what it was asked."""
    return b'"error"' not in reply and rb"\"error\"" not in reply


def _fork_asker(client: Lean, request: bytes, span_s: tuple[float, float], report: int) -> int:
    def ask() -> None:
        count = 0
        expected = None
        while time.perf_counter() < span_s[1]:
            reply = client.ask(request)
            expected = expected or reply
            if reply != expected:
                os._exit(1)
            count += 1
        os.write(report, b"%d\n" % count)

    return _fork_at(span_s[0], ask)
