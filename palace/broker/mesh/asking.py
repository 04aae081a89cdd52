"""How the broker asks its own engine about the mesh: by calls like any other's, in their lanes."""

from collections.abc import Mapping
from typing import Any

import attrs

from palace.broker.http.sessions import HttpSession, HttpSessions, Use
from palace.protocol.decoding import decode_json
from palace.protocol.errors import StoreUnavailable
from palace.protocol.request import ToolCall, tool_call

CLIENT = "palace mesh"
FOLD = "palace_mesh_fold"


def call_of(tool: str, arguments: Mapping[str, object]) -> ToolCall:
    """Return a call of one of `protocol.tools.MESH_TOOLS`."""
    params = {"name": tool, "arguments": dict(arguments)}
    return tool_call({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


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
    """Asks in sessions of the broker's own, one for each call: none of them is gone on with."""

    sessions: HttpSessions

    async def ask(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Return what a tool says; raises PalaceError where it wasn't, or can't be, answered.

        What changes the palace is carried out once it is admitted, whatever becomes of the caller.
        """
        session: HttpSession = self.sessions.open(client=CLIENT, token="", use=Use.PULL)
        pending = self.sessions.post(session, call_of(tool, arguments))
        await pending.answered.wait()
        self.sessions.settle(session)
        if pending.problem is not None:
            raise pending.problem
        told = told_by(pending.payload)
        if told.get("problem") and tool != FOLD:  # which says how far it came, besides
            raise StoreUnavailable(str(told["problem"]))
        return told
