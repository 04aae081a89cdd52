"""The store of a call that waits for others in between: held for each step that it does here.

What the call has read may be gone when it stores, so that is looked at again: what was forgotten
meanwhile does not come back, and what was changed is not overwritten.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol
from uuid import NAMESPACE_URL, uuid5

import attrs

from palace.memory.gate import MemoryStore, Wanted
from palace.memory.memory import Memory
from palace.protocol.errors import InvalidMemory
from palace.protocol.request import ToolCall

SEED = uuid5(NAMESPACE_URL, "urn:palace:memory")


class Held(MemoryStore, Protocol):
    """A store that is held for a call (`OpenStore`)."""

    def held(self, call: ToolCall) -> AbstractContextManager[None]: ...


@attrs.frozen(kw_only=True)
class HeldStore:
    """One call's."""

    store: Held
    call: ToolCall

    def get(self, ident: str) -> Memory | None:
        with self.store.held(self.call):
            return self.store.get(ident)

    def put(self, memory: Memory, old: Memory | None) -> int:
        with self.store.held(self.call):
            now = self.store.get(memory.id)
            is_free = now is None or now.namespace == memory.namespace
            if not (is_free if old is None else now == old):
                raise InvalidMemory(
                    f"{memory.id} was stored, changed or forgotten by another call meanwhile. Read "
                    "it again, and ask again if it is still wanted"
                )
            return self.store.put(memory, now)

    def delete(self, memories: Sequence[Memory]) -> None:
        with self.store.held(self.call):
            self.store.delete(memories)

    def over(self, namespaces: Sequence[str], now_s: float, most: int) -> Sequence[Memory]:
        with self.store.held(self.call):
            return self.store.over(namespaces, now_s, most)

    def find(self, wanted: Wanted) -> Sequence[Memory]:
        with self.store.held(self.call):
            return self.store.find(wanted)

    def tally(self, wanted: Wanted) -> Mapping[tuple[str, str], int]:
        with self.store.held(self.call):
            return self.store.tally(wanted)

    def idents(self, namespace: str) -> Sequence[str]:
        with self.store.held(self.call):
            return self.store.idents(namespace)


def id_of(key: str, number: int) -> str:
    """Return the id of the memory that a call makes: the same whenever it is sent again."""
    return str(uuid5(SEED, f"{key}:{number}"))
