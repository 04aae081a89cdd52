"""Memories that are over, forgotten by and by: the stores don't grow by what nobody sees any more.

Nothing hangs on it: reads pass over what is over, whoever has swept.  So it is done beside the
lanes, a part at a time, put back behind everybody's changes, and only while somebody uses the
palace: it is no activity of its own, and keeps no broker alive.
"""

import logging
import sqlite3
from functools import partial
from typing import Any, NamedTuple

import attrs
import trio

from palace.broker.services import Services
from palace.broker.state import BrokerState
from palace.broker.telemetry.redaction import redacted
from palace.engine.api import Call
from palace.protocol.decoding import decode_json
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import EngineState
from palace.protocol.request import tool_call

SWEEP_S = 60.0
PARTS_MAX = 64  # of one sweep
PARTY = "palace"
_MESSAGE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
}

logger = logging.getLogger("palace.broker")


@attrs.define(eq=False)
class Sweeping:
    """One owner's; `serve` runs until cancelled."""

    state: BrokerState
    _limiter: trio.CapacityLimiter = attrs.field(factory=partial(trio.CapacityLimiter, 1))
    _seen: int = 0  # requests, when it swept last

    async def serve(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            await self.sweep()

    async def sweep(self) -> int:
        """Sweep, if anybody has asked for anything since; return how many memories went."""
        state, requests = self.state, self.state.telemetry.counters.requests
        if requests == self._seen or state.lifecycle.engine is not EngineState.READY:
            return 0
        self._seen = requests
        tree = state.services.engine.workspaces()
        if tree is None or not tree.has_memories:
            return 0
        try:
            many = await self._sweep_parts()
        except (PalaceError, sqlite3.Error, OSError) as error:  # nothing hangs on it
            logger.warning("what is over was not forgotten: %s", redacted(error))
            return 0
        if many:
            logger.info("%d memories that were over are forgotten", many)
            state.services.life.swept(many)
        return many

    async def _sweep_parts(self) -> int:
        many = 0
        for _ in range(PARTS_MAX):
            # Each in a thread of its own: an owner that leaves waits for one part, not for all.
            part = await trio.to_thread.run_sync(
                sweep_part, self.state.services, limiter=self._limiter
            )
            many += part.forgotten
            if not part.is_more:
                break
        if part.is_at_server:
            await trio.to_thread.run_sync(drop, self.state.services, limiter=self._limiter)
        return many


class Part(NamedTuple):
    """What a part of a sweep has done: how many memories went, and whether to go on.

    `is_at_server`: a server has to forget namespaces that end, too.
    """

    forgotten: int = 0
    is_more: bool = False
    is_at_server: bool = False


def sweep_part(services: Services) -> Part:
    """Forget a part of what is over; nothing where it is refused.  Blocks."""
    told = _asked(services, "palace_sweep")
    if told is None:
        return Part()  # it says why to whoever asks for more
    is_more = bool(told["forgotten"]) or told.get("more") is True
    return Part(told["forgotten"], is_more, told.get("server") is True)


def drop(services: Services) -> None:
    """Have a server forget namespaces that end; what it doesn't is asked again.  Blocks."""
    told = _asked(services, "palace_memory_drop")
    if told is not None and told["why"]:
        logger.warning("a namespace that ends is not forgotten: %s", told["why"])


def _asked(services: Services, name: str) -> dict[str, Any] | None:
    """Return what a tool of the owner's tells, None where it is refused."""
    engine, session = services.engine, services.kernel.token(16)
    message = {**_MESSAGE, "params": {"name": name, "arguments": {}}}
    call = Call(request=tool_call(message), session=session, client="palace", party=PARTY)
    reply = decode_json(engine.call(call).payload or b"null")
    engine.acknowledge(session, 1)  # nobody asks for it again
    engine.end_session(session)
    result = reply.get("result") if isinstance(reply, dict) else None
    if result is None:
        return None
    told: dict[str, Any] = decode_json(result["content"][0]["text"])
    return told
