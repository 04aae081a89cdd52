"""An owner in the test's own loop: real lock, real sockets, a gated engine."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from palace.broker import endpoint
from palace.broker.assemble import connect_parts
from palace.broker.broker import Broker
from palace.broker.services import Services
from palace.broker.state import BrokerState
from palace.kernel.kernel import Kernel
from palace.ownership import lock
from palace.ownership.epoch import take_epoch
from palace.protocol import wire
from palace.protocol.lifecycle import Lifecycle, Reason
from palace.settings.catalogue import load_catalogue
from palace.settings.config import Config
from palace.settings.paths import Paths
from palace.transport.unix import LineStream
from tests.support.engines.gated import GatedEngine

CEILING_S = 90.0  # a busy machine is no failure


class Shim:
    """The shim's side of one connection, written out."""

    def __init__(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        self.stream = LineStream(sock, line_bytes_max=1 << 26)
        nursery.start_soon(self.stream.flush_forever)
        self._lines: list[bytes] = []
        self.ended = False

    async def line(self) -> bytes:
        """Return the next line from the broker; b"" at the end."""
        while not self._lines:
            self._lines = await self.stream.receive_lines()
            if not self._lines:
                self.ended = True
                return b""
        return self._lines.pop(0)

    def hello(self, session: str = "s", **fields: str) -> None:
        header = {"session": session, "secret": f"of {session}", "next": "0"} | fields
        self.stream.send_soon(wire.encode_header(wire.HELLO, header))

    async def header(self) -> tuple[str, dict[str, str]]:
        _, kind, fields = wire.decode_header(await self.line())
        return kind, fields

    async def welcome(self, session: str = "s", **fields: str) -> dict[str, str]:
        self.hello(session, **fields)
        kind, answer = await self.header()
        assert kind == wire.WELCOME, (kind, answer)
        return answer

    def call(self, tool: str, ident: Any = 1, **arguments: Any) -> None:
        params = {"name": f"mempalace_{tool}", "arguments": arguments}
        self.say({"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params})

    def say(self, message: Any) -> None:
        self.stream.send_soon(json.dumps(message).encode() + b"\n")

    async def reply(self) -> tuple[int, Any]:
        """Return (ordinal, decoded reply or None)."""
        ordinal, payload = wire.decode_reply(await self.line())
        return ordinal, json.loads(payload) if payload else None

    async def replies(self, count: int) -> dict[int, Any]:
        return dict([await self.reply() for _ in range(count)])

    def close(self) -> None:
        self.stream.close()


@attrs.define(eq=False)
class Running:
    """A broker that serves, and a way to connect to it."""

    state: BrokerState
    engine: GatedEngine
    nursery: trio.Nursery
    code: int | None = None
    ended: trio.Event = attrs.field(factory=trio.Event)
    shims: list[Shim] = attrs.field(factory=list)

    def connect(self) -> Shim:
        assert self.state.services.endpoint is not None
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.state.services.endpoint.path)
        self.shims.append(Shim(sock, self.nursery))
        return self.shims[-1]

    async def session(self, name: str = "s", **fields: str) -> Shim:
        shim = self.connect()
        await shim.welcome(name, **fields)
        return shim


def make_state(
    root: Path, engine: GatedEngine, *, home: str = "", guests: str = "", **settings: Any
) -> BrokerState:
    kernel = Kernel()
    paths = Paths(str(root))
    lock.check_directory(paths, kernel, {})
    owner = lock.take_lock(paths, kernel)
    take_epoch(owner, kernel)
    # The light engine stores nothing together.
    settings = {"batch_max": 1} | settings
    config = Config(graph=f"{root}/kg", config_dir=str(root), **settings)
    services = Services(
        ownership=owner,
        config=config,
        engine=engine,
        kernel=kernel,
        endpoint=endpoint.listen(owner, {}, kernel),
        mode="broker",
        catalogue=load_catalogue(None).served(extras=config.mcp_extras),
        home=home,
        guests_directory=guests,
    )
    lifecycle = Lifecycle(idle_s=config.idle_s, grace_s=config.grace_s, failed_linger_s=0.5)
    return connect_parts(services, lifecycle=lifecycle, connections=512)


@asynccontextmanager
async def open_broker(
    root: Path, engine: GatedEngine | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Serve until the block ends; then the broker is stopped and must end in time.

    With a `home` it serves HTTP, too, and tells stock there; `guests` is where tokens of guests
    are kept.
    """
    engine = engine or GatedEngine()
    state = make_state(root, engine, **settings)
    with trio.fail_after(CEILING_S):
        async with trio.open_nursery() as nursery:
            running = Running(state, engine, nursery)
            serving = trio.Event()

            async def serve() -> None:
                running.code = await Broker(state).serve(on_serving=serving.set)
                running.ended.set()

            nursery.start_soon(serve)
            await serving.wait()
            try:
                yield running
            finally:
                for gate in engine.gates.values():
                    gate.set()
                engine.may_load.set()
                state.leaving.stop(Reason.STOP, grace_s=1.0)
                with trio.CancelScope(shield=True), trio.move_on_after(CEILING_S):
                    await running.ended.wait()
                state.services.kernel.close(state.services.ownership.lock_fd)
                for shim in running.shims:
                    shim.close()
                for sock in state.leaving.open_to_the_end:
                    sock.close()
                nursery.cancel_scope.cancel()


async def until(condition: Any) -> None:
    """Wait for what another task or thread brings about."""
    with trio.fail_after(CEILING_S):
        while not condition():
            await trio.sleep(0.005)
