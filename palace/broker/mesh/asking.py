"""How the broker asks its own engine about the mesh: by calls like any other's, in their lanes."""

from collections.abc import Mapping
from typing import Any

import attrs
import trio

from palace.broker.http.sessions import HttpSession, HttpSessions, Use
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreUnavailable
from palace.protocol.request import ToolCall, tool_call
from palace.protocol.weight import SHORT_BYTES

CLIENT = "palace mesh"
FOLD = "palace_mesh_fold"
_PARSING = trio.CapacityLimiter(1)  # a page of 4 MiB takes several times that while it is parsed


def call_of(tool: str, arguments: Mapping[str, object]) -> ToolCall:
    """Return a call of one of `protocol.tools.MESH_TOOLS`."""
    params = {"name": tool, "arguments": dict(arguments)}
    return tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


async def told_apart(payload: bytes) -> dict[str, Any]:
    """Return what a call was answered, read in a thread where that takes long; as `told_by`."""
    if len(payload) <= SHORT_BYTES:
        return told_by(payload)
    return await trio.to_thread.run_sync(told_by, payload, limiter=_PARSING)


def told_by(payload: bytes) -> dict[str, Any]:
    """Return what a call was answered; raises StoreUnavailable for an error."""
    reply = decode_json(payload) if payload else {}
    error = reply.get("error")
    if error is not None or "result" not in reply:
        text = str(error.get("message", "")) if isinstance(error, dict) else "there was no answer"
        raise StoreUnavailable(text)
    told: dict[str, Any] = decode_json(reply["result"]["content"][0]["text"])
    return told


@attrs.define(eq=False)
class Asking:
    """Asks in sessions of the broker's own, one for each call: none of them is gone on with.

    `client` is what they are called where it is said who asks, and who has changed something.
    """

    sessions: HttpSessions
    client: str = CLIENT

    async def ask(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Return what a tool says; raises PalaceError where it wasn't, or can't be, answered.

        What changes the palace is carried out once it is admitted, whatever becomes of the caller.
        """
        session: HttpSession = self.sessions.open(client=self.client, token="", use=Use.PULL)
        pending = self.sessions.post(session, call_of(tool, arguments))
        await pending.answered.wait()
        self.sessions.settle(session)
        if pending.problem is not None:
            raise pending.problem
        told = await told_apart(pending.payload)
        if told.get("problem") and tool != FOLD:  # which says how far it came, besides
            raise StoreUnavailable(str(told["problem"]))
        return told
