"""`GET /palace/v1/delegations`, for the owner's dashboards: who works on what, as JSON.

`?states=stuck,in_progress` asks for some; without, the answer has all, the newest 1,000 of them,
each with the beginning of its goal.  It is no use of the palace, as figures are none.
"""

import json
from urllib.parse import parse_qsl

from palace.broker.http.exchange import JSON, Exchange, Refused
from palace.broker.http.sessions import HttpSessions
from palace.broker.mesh.asking import Asking
from palace.broker.state import BrokerState
from palace.protocol.delegations import STATES
from palace.protocol.errors import PalaceError
from palace.protocol.lifecycle import EngineState

CLIENT = "palace delegations"
RETRY_S = "5"
QUERY_CHARS_MAX = 1024
GOAL_CHARS = 200  # of each: a page shows a line of it, and the answer is made in the broker's loop


async def serve_delegations(state: BrokerState, sessions: HttpSessions, exchange: Exchange) -> None:
    """Answer a request that has shown the palace's token; raises Refused."""
    states = _states_in(exchange)
    if state.lifecycle.engine is not EngineState.READY:
        raise Refused(503, "The palace is being opened. Ask again.", retry_after=RETRY_S)
    try:
        told = await Asking(sessions, client=CLIENT).ask(
            "palace_task_list", states=states, goal_chars=GOAL_CHARS
        )
    except PalaceError as problem:
        raise Refused(503, problem.message, retry_after=RETRY_S) from None
    body = json.dumps({"tasks": told["tasks"], "more": told.get("more", 0)})
    await exchange.answer(200, body.encode(), JSON)


def _states_in(exchange: Exchange) -> list[str] | None:
    """Return the states that are asked for, None for all; raises Refused."""
    raw = exchange.query.decode("latin-1")
    pairs = parse_qsl(raw, keep_blank_values=True) if len(raw) <= QUERY_CHARS_MAX else [("", "")]
    asked = dict(pairs)
    states = asked.pop("states", None)
    names = [] if states is None else states.split(",")
    if asked or len(pairs) > 1 or not set(names) <= set(STATES):
        raise Refused(400, f"It takes states: some of {', '.join(STATES)}, with commas between.")
    return None if states is None else names
