"""A broker with a socket, HTTP and guests, for targets that speak to one.

Each input has a broker of its own and a connection.  Afterwards nothing of the connection is left,
nobody's error has escaped, and somebody else, who was connected all the time, is answered.
"""

import json
import logging
import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import attrs
import trio

from palace.ownership.record import read_record
from palace.protocol.broker_record import BrokerRecord
from tests.support.brokers.http import serverinfo_of
from tests.support.brokers.owner import Running, Shim, open_broker, until
from tests.support.machines.sshd import free_port


class Escaped(logging.Handler):
    """Keeps what palace's code logs as an exception that it did not expect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))


@attrs.define(eq=False)
class Resident:
    """`port` and `token` are of HTTP; `record` is what guests know."""

    running: Running
    port: int
    token: str
    record: BrokerRecord

    def dial(self) -> socket.socket:
        """Return a socket that is connected to the broker's own."""
        assert self.running.state.services.endpoint is not None
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.running.state.services.endpoint.path)
        return sock


Client = Callable[[Resident], Awaitable[None]]


def meet(client: Client) -> None:
    """Let a client do what it does, and see that nobody else has noticed it."""
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="pf-", dir="/tmp")))
    try:
        with _nothing_escapes():
            trio.run(_meet, base, client)
    finally:
        shutil.rmtree(base)


async def _meet(base: Path, client: Client) -> None:
    home = base / "home"
    home.mkdir()
    listen = f"127.0.0.1:{free_port()}"
    async with open_broker(base / "palace", home=str(home), listen=listen) as running:
        await until(lambda: serverinfo_of(home).exists())
        info = serverinfo_of(home)
        services = running.state.services
        record = read_record(services.ownership.paths, services.kernel)
        assert record is not None
        port, token = json.loads(info.read_text())["port"], (info.parent / "token").read_text()
        canary = await running.session("canary")
        state = running.state
        await client(Resident(running, port, token.strip(), record))
        await until(lambda: state.connections.open == 1)
        await _ask(canary)
        # One that has asked for something may come back for the reply; what it asked ends first.
        await until(lambda: all(one.stream is None or one.id == "canary" for one in state.sessions))
        assert len(list(state.sessions)) <= 2


async def _ask(canary: Shim) -> None:
    canary.say({"jsonrpc": "2.0", "id": "c", "method": "ping"})
    ordinal, reply = await canary.reply()
    assert (ordinal, reply["id"]) == (0, "c")


@contextmanager
def _nothing_escapes() -> Iterator[None]:
    log, handler = logging.getLogger("palace"), Escaped()
    was = log.propagate, logging.root.manager.disable
    log.addHandler(handler)
    log.propagate = False
    logging.disable(logging.NOTSET)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = was[0]
        logging.disable(was[1])
    assert not handler.found, handler.found[0]


@cache
def any_certificate() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def all_of(stream: trio.abc.ReceiveStream, most: int = 1 << 24) -> bytes:
    """Return what comes until the other side hangs up."""
    data = b""
    while True:
        try:
            piece = bytes(await stream.receive_some())
        except (trio.BrokenResourceError, ssl.SSLError):
            return data
        data += piece
        if not piece:
            return data
        assert len(data) <= most, "an answer without end"
