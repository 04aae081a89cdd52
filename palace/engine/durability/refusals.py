"""Replies that no tool made: to calls that are not run again, and to such as are run twice."""

import json

from palace.engine.api import Call, Reply
from palace.protocol import jsonrpc
from palace.protocol.errors import OutcomeUnknown, PalaceError, Quarantined
from palace.protocol.resend import Trace, Verdict, in_doubt, judge, reason_of

RUN_AGAIN = (
    "palace: the broker ended while this was under way before; it was run again from its start."
)


def refused(call: Call, verdict: Verdict) -> Reply:
    """Return the reply to a call that is not run again."""
    name = jsonrpc.params_of(call.message).get("name")
    if verdict is Verdict.QUARANTINE:
        return failure(
            call,
            Quarantined(
                f"{name} was under way when two brokers died, so it is not tried again by itself. "
                "What it changed was taken back, or is named by `palace doctor`. Ask again if "
                "you think that it is harmless."
            ),
        )
    return failure(
        call,
        OutcomeUnknown(
            f"The broker ended before it had answered {name}, which may or may not have been "
            "carried out. Look before you repeat it."
        ),
    )


def unjournalled(call: Call) -> Verdict:
    """Return what becomes of a call where no journal knows anything."""
    return judge(call.tool.kind, maybe_ran=call.maybe_ran, trace=Trace())


def turned_away(call: Call, problem: PalaceError, verdict: Verdict) -> Reply:
    """Return the reply to a call that may not run now, whatever became of it before.

    `verdict` is what would become of it if it might.
    """
    name = str(jsonrpc.params_of(call.message).get("name"))
    if verdict is Verdict.QUARANTINE:
        return refused(call, verdict)
    if verdict is Verdict.REPEAT:
        text = (
            f"An earlier broker has answered {name}, and what it changed stays. The answer is not "
            f"repeated, and nothing is begun again. {reason_of(problem)}"
        )
        return failure(call, OutcomeUnknown(text))
    if verdict is Verdict.UNKNOWN or (call.maybe_ran and call.tool.non_atomic):
        return failure(call, in_doubt(name, problem))
    return failure(call, problem)  # what it did was taken back


def made_for_another(call: Call) -> Reply:
    """Return the reply to a call whose own was recorded for somebody else."""
    name = jsonrpc.params_of(call.message).get("name")
    return failure(
        call,
        OutcomeUnknown(
            f"What {name} was answered is recorded for whom this session acted as when it asked, "
            "and that is somebody else than it acts as now. The call may or may not have been "
            "carried out. Look before you repeat it."
        ),
    )


def failure(call: Call, problem: PalaceError) -> Reply:
    ident = jsonrpc.request_id(call.message)
    return Reply(payload=jsonrpc.encode(jsonrpc.failure(ident, problem)))


def with_note(payload: bytes | None, text: str) -> bytes | None:
    """Add a text to a tool's result, after its own."""
    message = json.loads(payload or b"null")
    result = message.get("result") if isinstance(message, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("content"), list):
        return payload
    result["content"].append({"type": "text", "text": text})
    return jsonrpc.encode(message)
