"""The contract's operations, asked of a server: `contract/memory-plugin-v1.yaml` from outside.

Both ends are checked: what is sent by the same models as what is served, and what comes back as
hostile input, none of whose words are repeated in an error.  A server that does not answer fails
the call at once, and for a minute all others with it (palace/protocol/breaker.py).
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar
from urllib.parse import quote

import attrs
from pydantic import BaseModel

from palace.memory import contract
from palace.plugin.wire import Answer, Unanswered
from palace.protocol.breaker import Breaker, Pass
from palace.protocol.decoding import decode_json_exact
from palace.protocol.errors import Forbidden, InvalidMemory, PluginUnavailable
from palace.protocol.weight import has_too_many_values

HEALTH_S = 60.0  # how long a server's word about what it can do is taken

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Asking(Protocol):
    """What carries requests (`Wire`)."""

    def ask(self, method: str, path: str, body: bytes | None = None) -> Answer: ...

    def close(self) -> None: ...


@attrs.define(eq=False, kw_only=True)
class Client:
    """One server's.  Threads share one.  `called` is its address, for errors."""

    called: str
    wire: Asking
    clock: Callable[[], float] = time.monotonic
    breaker: Breaker = attrs.field(factory=Breaker)
    noted: Callable[[str], None] = lambda _text: None  # what is told when it opens and closes
    _lock: threading.Lock = attrs.field(factory=threading.Lock)
    _health: contract.HealthResponse | None = None
    _health_s: float = 0.0

    @property
    def wait_s(self) -> float:
        """Return for how long the server isn't asked, since it didn't answer; 0 while it is."""
        with self._lock:
            return self.breaker.wait_s(self.clock())

    def health(self) -> contract.HealthResponse:
        """Return what the server can do, as it said within the last minute.

        Raises PluginUnavailable, as all these do.
        """
        now_s = self.clock()
        with self._lock:
            known = self._health
            if known is not None and now_s - self._health_s < HEALTH_S:
                return known
        told = self._asked("GET", "/v1/health", None, (200,), _told(contract.HealthResponse))
        with self._lock:
            self._health, self._health_s = told, now_s
        return told

    def put_namespace(self, name: str, kind: str) -> None:
        """Let a namespace be there; what it holds stays."""
        asked = contract.NamespaceUpsert.model_validate({"kind": kind})
        self._asked("PUT", _namespace(name), asked, (200,), _told(contract.Namespace))

    def drop_namespace(self, name: str) -> bool:
        """Remove a namespace with its memories; False where there is none."""
        return self._asked("DELETE", _namespace(name), None, (204, 404), _gone)

    def commit(self, name: str, kind: str, asked: contract.MemoryWrite) -> None:
        """Store a memory under its id; a namespace that isn't there yet is made."""
        if not self._commit(name, asked, (201, 404)):
            self.put_namespace(name, kind)
            self._commit(name, asked, (201,))

    def _commit(self, name: str, asked: contract.MemoryWrite, wanted: Sequence[int]) -> bool:
        """Store a memory; False where its namespace isn't there."""

        def read(answer: Answer) -> bool:
            if answer.status == 404:
                return False
            told = _told(contract.MemoryWriteResponse)(answer)
            if (told.namespace, told.id) != (name, asked.id):
                raise Unanswered("it says that it has stored another memory")
            return True

        return self._asked("POST", f"{_namespace(name)}/memories", asked, wanted, read)

    def search(self, asked: contract.SearchRequest) -> Sequence[contract.Memory]:
        """Return what is found, the best first, of the namespaces and kinds asked for alone."""
        read = _told(contract.SearchResponse)
        found = self._asked("POST", "/v1/search", asked, (200,), read).memories
        fitting = [
            one
            for one in found
            if one.namespace in asked.namespaces and (not asked.kinds or one.kind in asked.kinds)
        ]
        return fitting[: asked.limit]

    def forget(self, ident: str, name: str) -> bool:
        """Forget a memory of a namespace; False where it has no such memory."""
        asked = contract.ForgetRequest(requested_by_namespace=name)
        path = "/v1/memories/" + quote(ident, safe="")
        return self._asked("DELETE", path, asked, (204, 404), _gone)

    # One request.

    def _asked(
        self,
        method: str,
        path: str,
        asked: BaseModel | None,
        wanted: Sequence[int],
        read: Callable[[Answer], T],
    ) -> T:
        """Return what `read` makes of the answer; an answer that it can't read is none."""
        body = None if asked is None else asked.model_dump_json(exclude_unset=True).encode()
        with self._lock:
            let, wait_s = self.breaker.enter(self.clock()), self.breaker.wait_s(self.clock())
        if let is None:
            why = f"has not answered lately, and is asked again in {wait_s:.0f} s"
            raise self._unavailable(why, wait_s)
        try:
            answer = self.wire.ask(method, path, body)
            if answer.status >= 500:
                raise Unanswered(f"it answered with the status {answer.status}")
            found = read(answer) if answer.status in wanted else None
        except Unanswered as problem:
            self._note(let, is_answered=False)
            raise self._unavailable(f"was asked in vain: {problem}") from None
        except BaseException:
            with self._lock:
                self.breaker.gave_up(let)
            raise
        self._note(let, is_answered=True)
        if found is not None:
            return found
        if answer.status in (401, 403):
            raise Forbidden(
                f"The memory plugin {self.called} refused it ({answer.status}): it is the id of "
                "another namespace's memory, or the token that palace shows there has no such "
                "right. Nothing was done."
            )
        raise InvalidMemory(
            f"the memory plugin {self.called} doesn't take it (status {answer.status})"
        )

    def _note(self, let: Pass, *, is_answered: bool) -> None:
        with self._lock:
            was_open = self.breaker.is_open
            if is_answered:
                self.breaker.succeeded(let)
            else:
                self.breaker.failed(let, self.clock())
            is_open = self.breaker.is_open
        if is_open != was_open:
            state = "is not asked for a minute" if is_open else "answers again"
            self.noted(f"the memory plugin {self.called} {state}")

    def _unavailable(self, why: str, wait_s: float = 0.0) -> PluginUnavailable:
        return PluginUnavailable(
            f"The memory plugin {self.called}, which holds these memories, {why}. Nothing of it "
            "is kept here instead. Ask again later, or have the palace's owner look: palace status",
            retry_after_s=round(wait_s, 1),
        )


def _told(model: type[M]) -> Callable[[Answer], M]:
    """Return what reads an answer as a model; raises Unanswered for what nobody can read."""

    def read(answer: Answer) -> M:
        try:
            if has_too_many_values(answer.body):
                raise ValueError
            return contract.read(model, decode_json_exact(answer.body))
        except (ValueError, InvalidMemory):
            raise Unanswered("its answer is not what the contract says") from None

    return read


def _gone(answer: Answer) -> bool:
    """Tell whether something was there, and isn't any more."""
    return answer.status == 204


def _namespace(name: str) -> str:
    return f"/v1/namespaces/{quote(name, safe=':')}"
