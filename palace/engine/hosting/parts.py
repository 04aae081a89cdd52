"""The parts of a long checkpoint: others come between them, and embedding holds up no other call.

Each item is compared with what is there, and filed, in one turn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from palace.engine.hosting.host import HostedState
from palace.engine.stock import JsonObject, Method, RequestLock


@contextmanager
def others_first(state: HostedState, lock: RequestLock) -> Iterator[None]:
    """Let others come between two parts of this thread's call, which changes nothing inside.

    What it did so far is kept, since they may build upon it and be acknowledged.
    """
    state.boundary()
    with state.lookups.resumed(), state.turns.others_first(lock, state.current.party):
        yield


@attrs.define(eq=False)
class Parts:
    """What stands before the functions by which stock's checkpoint does its parts.

    They get through to stock at once in any other call.
    """

    _state: HostedState
    _lock: RequestLock

    def item(self, stock: Method) -> Method:
        def tool_check_duplicate(content: str, threshold: float = 0.9) -> JsonObject:
            answer: JsonObject
            if not self._state.current.yields:
                answer = stock(content, threshold=threshold)
                return answer
            self._let_others_come(query=content)
            answer = stock(content, threshold=threshold)
            if self._state.ahead is not None and not answer.get("is_duplicate"):
                # Compared once more, since others may have filed the like meanwhile.
                self._let_others_come(item=content)
                answer = stock(content, threshold=threshold)
            return answer

        return tool_check_duplicate

    def diary(self, stock: Method) -> Method:
        def tool_diary_write(*given: Any, **named: Any) -> object:
            if self._state.current.yields:
                self._let_others_come(item=named.get("entry", ""))
            return stock(*given, **named)

        return tool_diary_write

    def _let_others_come(self, *, query: str = "", item: str = "") -> None:
        ahead = self._state.ahead
        raw = ahead.opened() if ahead is not None else None
        with others_first(self._state, self._lock):
            if ahead is None or raw is None:
                return
            if query:
                ahead.embed_query(raw, query)
            if item:
                ahead.embed_item(raw, item)
