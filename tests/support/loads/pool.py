"""Clients in threads that change and ask without a pause, and go on where their shim is killed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from tests.support.processes.clients import Client, wait_until

SHIM_KILLED = 1  # no code of JSON-RPC's: what a client makes of the end of its own shim
_KILLED = (-9, -15)


class Caller(Protocol):
    """What a turn needs of a client."""

    def call(self, name: str, /, **arguments: Any) -> dict[str, Any]: ...


class ClientHistory(Protocol):
    """What one client was told, as the pool needs it."""

    unexpected: list[object]

    @property
    def replies(self) -> int: ...


C = TypeVar("C", bound=Caller)
T = TypeVar("T", bound=ClientHistory)


class ClientPool(Generic[C, T]):
    """One thread for each client, from `start` to `end`.

    `turns(client, told)` yields after each turn, where it may be left.
    """

    def __init__(
        self,
        clients: Sequence[C],
        told: Sequence[T],
        turns: Callable[[C, T], Iterator[None]],
    ) -> None:
        self.clients = list(clients)
        self.told = list(told)
        self._turns = turns
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=pair, daemon=True)
            for pair in zip(self.clients, self.told, strict=True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self, timeout_s: float = 240) -> None:
        """Let each client end its turn, and wait for it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout_s)
            assert not thread.is_alive(), "a client waits for a reply for ever"

    def failed(self) -> list[object]:
        return [problem for told in self.told for problem in told.unexpected]

    def replies(self) -> int:
        return sum(told.replies for told in self.told)

    def await_replies(self) -> None:
        """Wait until each client has got a reply, or one has failed."""
        seen = [told.replies for told in self.told]

        def have() -> bool:
            pairs = zip(self.told, seen, strict=True)
            return all(told.replies > replies for told, replies in pairs)

        wait_until(lambda: have() or self.failed(), 90, "a reply for each client")

    def _work(self, client: C, told: T) -> None:
        try:
            for _ in self._turns(client, told):
                if self._stopping.is_set():
                    return
        except Exception as problem:
            told.unexpected.append(problem)


class RestartingClient:
    """A client that takes a new shim where its own was killed; close it."""

    def __init__(self, start: Callable[[], Client]) -> None:
        self._start = start
        self._shim = start()
        self.deaths = 0

    def call(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool; a call whose shim was killed meanwhile ends in an error of ours."""
        try:
            return self._shim.call(name, **arguments)
        except (BrokenPipeError, ValueError):  # the stream has ended, in a line or between two
            code = self._shim.close()
            assert code in _KILLED, f"a shim ended by itself, with {code}"
            self.deaths += 1
            self._shim = self._start()
            return {"error": {"code": SHIM_KILLED, "message": "its shim was killed"}}

    def close(self) -> int:
        return self._shim.close()
