"""Calls that run at once and store together: each waits at its first write for all the others.

Theory of operation.  The calls of a batch run in threads of their own.  Whoever comes to a write
hands it in (`put`) and waits; when everybody still inside waits, or has left, one of those who wait
stores all that was handed in, and all go on.  So a batch forms without any clock, and a call that
ends early, with an error say, keeps nobody waiting.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

logger = logging.getLogger("palace.engine")


@attrs.define(eq=False, kw_only=True)
class Put:
    """One write of one call.  `what` is the engine's own; `error` is raised in its thread."""

    what: Any
    error: BaseException | None = None
    done: bool = False


@attrs.define(eq=False)
class Batch:
    """A batch of calls that have been started; each enters `member` in its thread, once."""

    messages: Sequence[dict[str, Any]]
    store: Callable[[Sequence[Put]], None]  # sets `error` where one can't be stored
    shared: dict[str, Any] = attrs.field(factory=dict)  # what its calls know in common
    _inside: int = attrs.field(init=False)
    _waiting: list[Put] = attrs.field(factory=list)
    _storing: bool = False
    _turn: threading.Condition = attrs.field(factory=lambda: threading.Condition())  # noqa: PLW0108

    def __attrs_post_init__(self) -> None:
        self._inside = len(self.messages)

    @contextmanager
    def member(self) -> Iterator[None]:
        """Run one call of the batch."""
        try:
            yield
        finally:
            with self._turn:
                self._inside -= 1
                self._turn.notify_all()

    def put(self, what: Any) -> None:
        """Store something together with what the other calls put; raises what kept it back."""
        put = Put(what=what)
        with self._turn:
            self._waiting.append(put)
            self._turn.notify_all()
            while not put.done and not self._is_complete():
                self._turn.wait()
            puts = [] if put.done else self._take()
        if puts:
            self._store_all(puts)
        if put.error is not None:
            raise put.error

    def _is_complete(self) -> bool:
        return len(self._waiting) == self._inside and not self._storing

    def _take(self) -> list[Put]:
        """Take all that wait, in the same breath as it was seen that nobody is missing."""
        puts, self._waiting = self._waiting, []
        self._storing = True
        return puts

    def _store_all(self, puts: Sequence[Put]) -> None:
        try:
            self.store(puts)
        except BaseException as error:
            for put in puts:
                put.error = put.error or error
        finally:
            with self._turn:
                for put in puts:
                    put.done = True
                self._storing = False
                self._turn.notify_all()


def store_or_each(puts: Sequence[Put], store: Callable[[Sequence[Put]], None]) -> None:
    """Store all at once; where that fails, each alone, so that one fails for itself only."""
    if len(puts) > 1:
        try:
            store(puts)
        except Exception as error:
            logger.warning(
                "%d writes could not be stored at once (%r): each alone", len(puts), error
            )
        else:
            return
    for put in puts:
        try:
            store([put])
        except Exception as error:
            put.error = error
